"""Which column of a table is which, its rows as examples, and why others are left out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from helpers.config import Data
from helpers.data.example import Example, Message, checked
from helpers.data.table.conversations import NOTHING, Asked, read_row, text, worded
from helpers.data.table.files import SPLIT, plain_name
from helpers.errors import DataError
from helpers.files import Record

BUCKET = "test"
"""Of all examples of a plain table."""
LEAST = 10
"""Rows without which there is nothing to learn and to test."""
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
SPLIT_WORDS = {"train": "train", "appr": "train", "entra": "train", "test": "test"}
SPLIT_WORDS |= dict.fromkeys(("val", "dev", "eval"), "validation")
"""Beginnings of usual names of splits, French ones too."""


@dataclass(frozen=True)
class Row:
    """A row as an example, whose `subject` is its group, and as it stands in the table; `split` may be empty."""

    example: Example
    asked: Asked
    split: str


def recognise(found: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """The column of each role, among those `found`; what is `given`, role to column, counts before any usual name.

    Raises DataError, with the lines of configuration to write, where a given column is missing or has two roles, two
    columns could have one role, or the needed ones are not found.
    """
    columns = list(dict.fromkeys(found))
    for role, name in given.items():
        if name not in columns:
            raise DataError(f"data.columns.{role}: there is no column {name!r}. The table has {_listed(columns)}.")
        if [*given.values()].count(name) > 1:
            raise DataError(f"data.columns: the column {name!r} has two roles. Give each role a column of its own.")
    roles = dict(given)
    free = [name for name in columns if name not in roles.values()]
    pair = {"question", "answer"}
    for role, names in NAMES.items():
        if (
            role not in roles
            and not (role in pair and "messages" in roles)
            and not (role == "messages" and pair <= roles.keys())
        ):
            fitting = [name for name in free if plain_name(name) in names]
            if role == "question" and len(fitting) > 1 and any(plain_name(name) in LEADING for name in fitting):
                inputs = [name for name in fitting if plain_name(name) == "input"]
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


def roles_of(rows: Sequence[Record], data: Data) -> dict[str, str]:
    """The column of each role, a column of splits included. Raises DataError where columns cannot be told."""
    roles = recognise((str(name) for row in rows for name in row if name != SPLIT), data.columns)
    if "split" not in roles and (column := _split_column(rows, roles.values())):
        roles["split"] = column
    return roles


def make_examples(
    rows: Sequence[Record],
    data: Data,
    roles: Mapping[str, str],
    tokens: Callable[[Sequence[Message]], int],
    *,
    longest: int,
    control: Collection[str],
) -> tuple[list[Row], Counter[str]]:
    """The rows that can be used, as examples, and how many were left out for each reason: together as many as came in.

    `tokens` counts a conversation's tokens in the model's chat template, `longest` are those of the longest one
    allowed, and `control` are texts that become control tokens, such as the end of a turn.

    Raises DataError where a cell or conversation cannot be read, or too few rows are left.
    """
    if "split" in roles and len({row.get(SPLIT) for row in rows}) == 1:  # one split of a source is all of it
        rows = [row | {SPLIT: None} for row in rows]
    numbered = [(number, row, _split_name(row, roles, f"row {number}")) for number, row in enumerate(rows, start=1)]
    left: Counter[str] = Counter()
    kept: dict[int, Row] = {}
    too_long: list[int] = []
    seen: set[str] = set()
    # Where the table gives splits, a row that comes in two of them is tested and not learnt.
    for number, row, split in sorted(numbered, key=lambda each: {"test": 0, "validation": 1}.get(each[2], 2)):
        asked = read_row(row, roles, f"row {number}")
        contexts, prompt = asked.contexts, worded(asked.prompt, asked.contexts, data.prompt)
        if not asked.answers or asked.question.strip().casefold() in NOTHING:
            left["empty question or answer"] += 1
            continue
        if any(mark in turn["content"] for mark in control for turn in _whole(prompt, asked)):
            left["holds a control token of the model"] += 1
            continue
        while (over := tokens(_whole(prompt, asked)) > longest) and contexts and data.too_long == "cut_contexts":
            contexts = contexts[:-1]
            prompt = worded(asked.prompt, contexts, data.prompt)
        if over:
            too_long.append(number)
            continue
        if (whole := str(_whole(prompt, asked))) in seen:
            left["the same as another row"] += 1
            continue
        seen.add(whole)
        group = text(row.get(roles["group"]), f"row {number}") if "group" in roles else ""
        told = {"subject": group, "origin": "table", "also_learnt": asked.also_learnt} | checked(asked.answers)
        example = Example(f"row/{number}", BUCKET, tuple(prompt), asked.answers[0], **told)
        kept[number] = Row(example, asked, split)
    if too_long and data.too_long != "leave_out":
        raise DataError(
            f"{len(too_long)} of {len(rows)} rows are longer than training.max_length_tokens = {longest} (the "
            f"first: row {min(too_long)}). Raise it, or set data.too_long to leave_out, which counts them"
            f"{', or to cut_contexts' if 'contexts' in roles and data.too_long == 'refuse' else ''}."
        )
    left += Counter({"longer than training.max_length_tokens": len(too_long)})
    _refuse_poor(len(rows), [*kept.values()], left, roles, data)
    return [kept[number] for number in sorted(kept)], left


def _refuse_poor(read: int, kept: Sequence[Row], left: Counter[str], roles: Mapping[str, str], data: Data) -> None:
    empty = left["empty question or answer"]
    if empty > data.most_empty * read:
        columns = [repr(roles.get(role) or roles.get("messages")) for role in ("question", "answer")]
        raise DataError(
            f"{empty} of {read} rows have an empty question or answer, more than data.most_empty = {data.most_empty:g} "
            f"of them. The question is read from {columns[0]}, the answer from {columns[1]}. Set data.columns, or "
            "raise data.most_empty."
        )
    if len(kept) < LEAST:
        reasons = "; ".join(f"{times} {reason}" for reason, times in left.items()) or "none"
        raise DataError(
            f"{len(kept)} rows can be used, and at least {LEAST} are needed to learn from some and test on others. The "
            f"table has {read}; left out: {reasons}."
        )
    alone = sum(not row.example.subject for row in kept)
    if "group" in roles and alone:
        raise DataError(
            f"{alone} of {len(kept)} rows have no {roles['group']}, which is to keep rows together. Fill it in "
            "everywhere, or take the group out of data.columns."
        )


def _whole(prompt: list[Message], asked: Asked) -> list[Message]:
    return [*prompt, {"role": "assistant", "content": asked.answers[0]}]


def _split_column(rows: Sequence[Record], taken: Collection[str]) -> str | None:
    """A column called `split` that names a split in every row; one with many other words is about something else."""
    for name in dict.fromkeys(name for row in rows for name in row):
        if name.strip().casefold() == "split" and name not in taken:
            cells = {str(row.get(name)).strip().casefold() for row in rows}
            unknown = sorted(cell for cell in cells if not cell.startswith(tuple(SPLIT_WORDS)))
            if not unknown:
                return name
            if 1 < len(cells) <= 5:
                raise DataError(
                    f"The column {name!r} holds {', '.join(map(repr, unknown))}; expected train, validation or test. "
                    "Write these words, or rename the column if it is about something else."
                )
    return None


def _split_name(row: Record, roles: Mapping[str, str], where: str) -> str:
    """`train`, `validation` or `test`, where a column or the source says so."""
    given = [text(row.get(column), where).casefold() for column in (roles.get("split", SPLIT), SPLIT)]
    names = [next((of for beginning, of in SPLIT_WORDS.items() if each.startswith(beginning)), "") for each in given]
    if given[0] and not names[0]:
        raise DataError(
            f"{where}: the split {given[0]!r} is unknown; expected train, validation or test. Rename it in the source, "
            "or take only the splits you mean."
        )
    if names[1] and names[0] != names[1]:
        raise DataError(
            f"{where}: it lies in the split {given[1]!r} of the source, and its column {roles['split']!r} says "
            f"{given[0]!r}. Rename that column, or give the source without splits."
        )
    return names[0]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
