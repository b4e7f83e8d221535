"""Have a capable model write several different conversations about an entry in one request.

Each conversation has a person, a register and a form of its own, such as a wrong guess that is put right. What the
checks refuse is asked for again.
"""

import random
from collections.abc import Sequence
from itertools import cycle

from helpers.config import Dataset
from helpers.data.example import Message, dialogue
from helpers.data.glossary.checks import as_in_glossary, check_conversation
from helpers.data.glossary.entries import Entry
from helpers.data.numbered import by_number, numbered
from helpers.endpoint.chat import ChatEndpoint
from helpers.errors import UnreadableReply
from helpers.files import Record

TRIED = 4
"""Conversations that a trial asks for, about each of a few entries."""
ENOUGH = 0.6
"""Share of a trial's conversations that have to pass the checks, for a model to write in this way."""
REPLY_FORM = numbered("conversations", turns=[{"user": str, "assistant": str}])


def write_about(
    kind: str, entry: Entry, slots: Sequence[str], endpoint: ChatEndpoint, settings: Dataset, seed: int
) -> dict[str, Record]:
    """For each slot its conversation, where one passes the checks, and the attempts that did not.

    `settings.attempts` requests are sent at most.

    Returns for each slot `{"rejected": [{"question", "answer", "reason"}]}` and, where it is filled, `{"form",
    "question", "answer", "earlier"}`; `earlier` holds the messages before the last question.
    """
    made: dict[str, Record] = {slot: {"rejected": []} for slot in slots}
    able = [form for form in entry.pack.structured.forms[kind] if form != "fields" or entry.ambiguous]
    forms = dict(zip(slots, cycle(able)))
    for attempt in range(settings.attempts):
        left = [slot for slot in slots if "question" not in made[slot]]
        if not left:
            break
        chooser = random.Random(f"{seed}/{kind}/{entry.id}/{attempt}")
        try:
            reply = endpoint.complete_json(
                _prompt(kind, entry, [forms[slot] for slot in left], chooser),
                **REPLY_FORM,
                max_tokens=200 + len(left) * (120 + 2 * len(entry.definition)),
                temperature=settings.temperature,
                seed=chooser.randrange(2**31),
            )
        except UnreadableReply as error:
            for slot in left:
                made[slot]["rejected"].append({"question": None, "answer": None, "reason": str(error).rstrip(".")})
            continue
        written = by_number(reply["conversations"], len(left), _turns)
        asked = [made[slot]["question"] for slot in slots if "question" in made[slot]]
        for number, slot in enumerate(left):
            turns = written.get(number, [])
            if reason := check_conversation(kind, forms[slot], turns, entry, asked):
                question, answer = turns[-1] if turns else (None, None)
                refused = {"question": start_of(question), "answer": start_of(answer), "reason": reason}
                made[slot]["rejected"].append(refused)
                continue
            *before, (question, answer) = [(said, as_in_glossary(told, entry)) for said, told in turns]
            made[slot] |= {"form": forms[slot], "question": question, "answer": answer, "earlier": dialogue(before)}
            asked.append(question)
    return made


def start_of(text: str | None) -> str | None:
    """As much of a refused text as shows why."""
    return text[:400] if text else text


def _turns(conversation: Record) -> list[tuple[str, str]]:
    """The messages of a conversation, as far as they can be read."""
    turns = conversation.get("turns")
    return [
        (" ".join(turn["user"].split()), " ".join(turn["assistant"].split()))
        for turn in (turns if isinstance(turns, list) else [])
        if isinstance(turn, dict) and all(isinstance(turn.get(who), str) for who in ("user", "assistant"))
    ]


def share_accepted(entries: Sequence[Entry], endpoint: ChatEndpoint, settings: Dataset, seed: int) -> float:
    """Share of a few conversations about each of `entries` that pass the checks at the first request, 0 to 1."""
    once, slots = settings.model_copy(update={"attempts": 1}), [f"trial/{number}" for number in range(TRIED)]
    made = [write_about("forward", entry, slots, endpoint, once, seed) for entry in entries]
    return sum("question" in record for of in made for record in of.values()) / (TRIED * len(entries))


def _prompt(kind: str, entry: Entry, forms: Sequence[str], chooser: random.Random) -> list[Message]:
    words = entry.pack.structured
    lines = []
    for number, form in enumerate(forms, start=1):
        person, register = chooser.choice(words.persons), chooser.choice(words.registers)
        lines.append(f"{number}. {person}; {register}. {words.forms[kind][form]}")
    about = f"{entry.acronym} = {entry.definition}" + (f" ({entry.field})" if entry.field else "")
    explained = f"\n{entry.verbose_def}" if entry.verbose_def else ""
    asked = words.request.replace("{entry}", about + explained).replace("{conversations}", "\n".join(lines))
    return [{"role": "system", "content": words.task}, {"role": "user", "content": asked}]
