"""Which column is which: by usual names, or as `data.columns` says."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from helpers.errors import DataError

NAMES = {
    "messages": ("messages", "conversation", "conversations", "dialogue"),
    "question": ("question", "prompt", "instruction", "query", "input"),
    "answer": ("answer", "answers", "response", "completion", "output", "reponse"),
    "contexts": ("context", "contexts", "contexte", "contextes"),
    "system": ("system", "system_prompt"),
}
"""Usual names of each role, without accents and capitals. Alpaca's `input` is a context beside its `instruction`."""
LEADING = ("question", "instruction", "query")
"""Names of a question beside which `input` or `prompt` is something else."""


def recognise(found: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """The column of each role.

    Args:
        found: names of the table's columns.
        given: role to column, which counts before any usual name.

    Raises:
        DataError: a given column is missing or has two roles, or two columns could have one role, or the needed ones
            are not found. The message names the columns and the lines of configuration to write.
    """
    columns = list(dict.fromkeys(found))
    for role, name in given.items():
        if name not in columns:
            raise DataError(f"data.columns.{role}: there is no column {name!r}. The table has {_listed(columns)}.")
        if [*given.values()].count(name) > 1:
            raise DataError(f"data.columns: the column {name!r} has two roles. Give each role a column of its own.")
    roles = dict(given)
    free = [name for name in columns if name not in roles.values()]
    for role, names in NAMES.items():
        if role not in roles and not (role in ("question", "answer") and "messages" in roles):
            fitting = [name for name in free if _plain(name) in names]
            if role == "question" and len(fitting) > 1 and any(_plain(name) in LEADING for name in fitting):
                inputs = [name for name in fitting if _plain(name) == "input"]
                fitting = [name for name in fitting if name not in inputs]
                if inputs and "contexts" not in roles:
                    roles["contexts"] = inputs[0]
            if len(fitting) > 1:
                raise DataError(
                    f"The columns {_listed(fitting)} could all be the {role}. Say which:\n"
                    f"data:\n  columns: {{{role}: {fitting[0]}}}"
                )
            if fitting:
                roles[role] = fitting[0]
    if "messages" not in roles and not {"question", "answer"} <= roles.keys():
        lacking = [role for role in ("question", "answer") if role not in roles]
        needed = ", ".join(f"{role}: {roles.get(role, 'NAME')}" for role in ("question", "answer"))
        raise DataError(
            f"No column has a usual name for the {' and the '.join(lacking)}. The table has {_listed(columns)}. "
            f"Write:\ndata:\n  columns: {{{needed}}}"
        )
    return roles


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(character for character in folded if not unicodedata.combining(character)).replace(" ", "_")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
