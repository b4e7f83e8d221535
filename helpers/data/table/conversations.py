"""Cells of a row as text, and a row as a conversation."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import pairwise
from typing import Any

from helpers.config import DataPrompt
from helpers.data.example import Message, dialogue
from helpers.data.table.files import usual
from helpers.errors import DataError
from helpers.files import Record

NOTHING = {"", "-", "--", "–", "—", "...", "…", "#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!"}
"""What people and spreadsheets write into a cell that is empty, in small letters. A word such as None may be meant."""
SPEAKERS = {"human": "user", "prompter": "user", "developer": "system"}
SPEAKERS |= dict.fromkeys(("ai", "gpt", "bot", "chatgpt", "model"), "assistant")
TURN = (("role", "content"), ("from", "value"))
NOT_LEARNT = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""Parts of a turn that would be lost."""
WEIGHTS = (None, 0, 1)
"""Whether an answer is learnt, in OpenAI's shape of fine-tuning data; a table may have empty cells."""


@dataclass(frozen=True)
class Asked:
    """A row: the messages before the answer as they stand in the table, accepted answers, and contexts.

    `also_learnt` are places of earlier answers in `prompt`, counted from its end.
    """

    prompt: list[Message]
    answers: list[str]
    contexts: list[str]
    also_learnt: tuple[int, ...]

    @property
    def question(self) -> str:
        """The last message of the prompt, without contexts or wording."""
        return self.prompt[-1]["content"]


def read_row(row: Record, roles: Mapping[str, str], where: str) -> Asked:
    """Read a row's cells; answers and contexts that hold `NOTHING` are dropped.

    Raises DataError, which names the row, if a cell is no text or a conversation cannot be read.
    """
    cells = {role: row.get(column) for role, column in roles.items()}
    question, answer, turns = cells.get("question"), cells.get("answer"), cells.get("messages")
    context = 0  # turns at the beginning that are not learnt
    if "messages" not in roles and (_turns(question) or _turns(answer)):  # TRL's, of which one may be a text
        turns = several(question) if _turns(question) else [{"role": "user", "content": question}]
        context = len(turns)
        turns += several(answer) if _turns(answer) else [{"role": "assistant", "content": answer}]
    if "messages" in roles or turns:
        messages, learnt = _conversation(turns, where)
        *prompt, last = messages or [{"role": "user", "content": ""}] * 2
        said = [place for place in learnt if prompt[place]["content"].casefold() not in NOTHING]
        learnt = [place for place in said if place + len(prompt) >= context]
        answers = [last["content"]]
    else:
        learnt = []
        prompt = [{"role": "user", "content": text(question, where)}]
        answers = [text(_of_squad(part), where) for part in several(_of_squad(answer))]
    system = text(cells.get("system"), where)
    if system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    contexts = [text(cell, where) for cell in several(_listed(cells.get("contexts")))]
    answers, contexts = ([cell for cell in of if cell.casefold() not in NOTHING] for of in (answers, contexts))
    return Asked(prompt, list(dict.fromkeys(answers)), contexts, tuple(learnt))


def worded(prompt: Sequence[Message], contexts: Sequence[str], wording: DataPrompt) -> list[Message]:
    """A prompt as the model reads it: system message, few-shot examples, contexts and question in their wording."""
    *before, last = prompt
    told = [wording.context.replace("{context}", context) for context in contexts]
    asked = "\n\n".join([*told, wording.question.replace("{question}", last["content"])])
    first = [before.pop(0)] if before and before[0]["role"] == "system" else []
    if wording.system and not first:
        first = [{"role": "system", "content": wording.system}]
    shots = [(wording.question.replace("{question}", shot.question), shot.answer) for shot in wording.examples]
    return [*first, *dialogue(shots), *before, {"role": last["role"], "content": asked}]


def _turns(cell: Any) -> bool:
    parts = several(cell)
    return bool(parts) and all(isinstance(part, Mapping) and {"role", "content"} <= part.keys() for part in parts)


def _conversation(cell: Any, where: str) -> tuple[list[Message], list[int]]:
    """Messages of a cell, which may be JSON text; its turns have role and content, or from and value.

    Beside them the places of earlier answers that are learnt: all whose `weight` is not 0, counted from the end of
    what stands before the last answer.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise DataError(f"{where}: the conversation is not JSON. Write its turns as a JSON list.") from None
    messages: list[Message] = []
    weights: list[Any] = []
    for turn in several(cell):
        keys = turn.keys() if isinstance(turn, Mapping) else set()
        named = [pair for pair in TURN if {*pair} <= keys and turn[pair[0]] is not None]
        if not named:
            raise DataError(
                f"{where}: a turn of a conversation has the keys role and content, or from and value; received "
                f"{sorted(map(str, keys)) if keys else type(turn).__name__}."
            )
        if lost := [key for key in NOT_LEARNT if turn.get(key)]:
            raise DataError(
                f"{where}: a turn has {lost[0]}, which the course does not learn. Take it out of the table."
            )
        speaks, says = named[0]
        role = str(turn[speaks]).strip().casefold()
        role = SPEAKERS.get(role, role)
        if role not in ("system", "user", "assistant"):
            raise DataError(f"{where}: the role {role!r} is unknown; expected system, user or assistant.")
        weight = turn.get("weight")
        if weight not in WEIGHTS:
            raise DataError(f"{where}: the weight of a turn is {weight!r}; expected 1 (learnt) or 0 (not learnt).")
        messages.append({"role": role, "content": _parts(turn[says], where)})
        weights.append(weight)
    roles = [turn["role"] for turn in messages]
    if messages and (len(roles) < 2 or roles[-2:] != ["user", "assistant"]):
        raise DataError(
            f"{where}: a conversation ends with the assistant's answer to a user; this one has the roles "
            f"{', '.join(roles)[:200]}. Take its last turn away, or the row."
        )
    if weights and weights[-1] == 0:
        raise DataError(
            f"{where}: the last answer has weight 0, so that it would not be learnt. Take it away, or the row."
        )
    answers = [at for at, pair in enumerate(pairwise(roles[:-1]), start=1) if pair == ("user", "assistant")]
    return messages, [at - len(messages) + 1 for at in answers if weights[at] != 0]


def _parts(content: Any, where: str) -> str:
    """The text of a turn, which may come in parts `{"type": "text", "text": ...}`."""
    parts = several(content)
    if all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts) and parts:
        return "\n".join(text(part.get("text"), where) for part in parts)
    return text(content, where)


def _of_squad(cell: Any) -> Any:
    """The part of SQuAD's `{"text": [...], "answer_start": [...]}` that is an answer; other cells as they are."""
    return cell["text"] if isinstance(cell, Mapping) and "text" in cell else cell


def _listed(cell: Any) -> Any:
    """A list of texts that a csv holds as JSON; other cells as they are."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError):
            found = json.loads(cell)
            if isinstance(found, list) and all(isinstance(part, str) for part in found):
                return found
    return cell


def several(cell: Any) -> list[Any]:
    """The parts of a cell that holds a list; a single value is its only part."""
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    return list(cell) if isinstance(cell, list | tuple) else [cell]


def text(cell: Any, where: str) -> str:
    """A cell as text: nothing for null, `3` for 3.0, a day for a date; white space at its ends is no part of it.

    Raises DataError where it holds a list, an object, bytes or half a character.
    """
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if cell is None or type(cell).__name__ in ("NaTType", "NAType") or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, datetime) and cell.time() == time():
        cell = cell.date()
    if not isinstance(cell, str | int | float | bool | date | time) and not hasattr(cell, "quantize"):
        raise DataError(f"{where}: a cell holds a {type(cell).__name__}; expected text. Say which column to read.")
    found = str(cell).strip()
    if not usual(found):  # characters that nobody sees
        return ""
    if any("\ud800" <= character <= "\udfff" for character in found):
        raise DataError(f"{where}: a cell holds half a character (an unpaired \\ud800 to \\udfff). Repair the table.")
    return found
