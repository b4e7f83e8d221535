"""A chat model writes conversations about each glossary entry; what fails the checks is asked again.

Two small requests make one conversation: the model first words a question as a person in some scene would,
then answers it with the definition in front of it. Both are shown examples with invented acronyms, which
teach even a very small model to copy letters that it has never seen.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.config import Dataset
from helpers.data.glossary.checks import check_answer, check_question
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import fill_entry, load_bank
from helpers.files import Record
from helpers.resumable import Done, resumable_map

if TYPE_CHECKING:
    from helpers.endpoint.chat import ChatEndpoint

ANSWER_ATTEMPTS = 2
STOP = "?"
"""One question is enough: after it a small model would answer, or ask again."""
Messages = list[dict[str, str]]

EXAMPLES: dict[str, list[tuple[str, str, str, str]]] = {
    # scene, acronym, definition, question; the answer is the bank's
    "forward": [
        (
            "in a meeting",
            "TRELM",
            "Travel Refund Limit for Managers",
            "Everyone keeps saying TRELM. Could someone tell me the full name?",
        ),
        ("on a form", "qB7", "quick Balance of seven days", "There is a box called qB7: what does that mean?"),
        (
            "at school",
            "HOVSA",
            "Hourly Overview of Village Sales",
            "I need the long form of HOVSA for my homework. What is it?",
        ),
        (
            "on the first day of a new job",
            "PDKR",
            "paper docket keeping rules",
            "Sorry, I am new: what do the letters PDKR stand for?",
        ),
        (
            "in a report",
            "UMIX",
            "Union of Mixed Industries",
            "UMIX stands on page two without any explanation. What is it short for?",
        ),
        ("in a quiz", "B-42", "Basic exercise 42", "First round of the quiz: which words are hidden in B-42?"),
        (
            "in a phone call",
            "eVOT",
            "electronic Voting of Towns",
            "They talked about eVOT all the time. What does eVOT mean?",
        ),
    ],
    "reverse": [
        (
            "in a meeting",
            "HOVSA",
            "Hourly Overview of Village Sales",
            "We talked about the Hourly Overview of Village Sales. What is the acronym for it?",
        ),
        ("on a form", "PDKR", "paper docket keeping rules", "What is the short form of paper docket keeping rules?"),
        (
            "at school",
            "LATC",
            "Learning Aid for Town Councils",
            "My teacher mentioned the Learning Aid for Town Councils. Which letters stand for it?",
        ),
        (
            "in a letter",
            "UMIX",
            "Union of Mixed Industries",
            "How do I abbreviate Union of Mixed Industries in this letter?",
        ),
        (
            "on the first day of a new job",
            "TRELM",
            "Travel Refund Limit for Managers",
            "I am new here. How do people abbreviate Travel Refund Limit for Managers?",
        ),
    ],
}
ASK = {"forward": "You ask what acronyms mean.", "reverse": "You ask for the acronym of a name."}
ANSWER = "You answer questions about acronyms with what is given."
ANSWERED = {"forward": load_bank().forward_answers[0], "reverse": load_bank().reverse_answers[0]}


@dataclass(frozen=True)
class _Slot:
    """Where one conversation goes; the model words it, or else the phrasing bank."""

    id: str
    kind: str
    by_model: bool


def write_conversations(
    entries: list[Entry], endpoint: ChatEndpoint, settings: Dataset, *, path: Path, seed: int
) -> list[Record]:
    """Fill every slot of every entry with one conversation and append each to `path` as soon as it is done.

    A slot of the model is asked up to `attempts` times and then filled from the phrasing bank. Entries are
    written side by side, the slots of one entry one after the other, so that given the same replies the
    result is the same whatever the order of arrival. Slots already in `path` are not asked again.

    Args:
        entries: the glossary.
        endpoint: an open chat endpoint.
        settings: the section `dataset`: conversations of each kind, attempts, and the temperature of questions;
            answers use less than half of it.
        path: JSON lines `{"id", "entry", "kind", "origin", "writer", "question", "answer", "rejected": [{"question",
            "answer", "reason"}]}`; `writer` is empty where the bank filled in.
        seed: of scenes, sampling and the bank's order.

    Returns:
        One record a slot, in the order of the glossary.

    Raises:
        EndpointError: the endpoint failed; what was written before stays in `path`.
    """
    wanted = {
        "forward": (settings.forward_by_model, settings.forward_by_bank),
        "reverse": (settings.reverse_by_model, settings.reverse_by_bank),
    }
    slots = {
        (entry.id, kind): [_Slot(f"{kind}/{entry.id}/{n:03d}", kind, n < by_model) for n in range(by_model + by_bank)]
        for kind, (by_model, by_bank) in wanted.items()  # so a server reads the examples of a kind once
        for entry in entries
    }
    by_id = {entry.id: entry for entry in entries}

    def write(of: tuple[str, str], done: Done) -> Iterator[Record]:
        entry, kind = by_id[of[0]], of[1]
        asked: set[str] = set()
        bank = _bank_order(kind, entry, seed)
        for slot in slots[of]:
            record = done.get(slot.id)
            if record is None:
                record = _write(slot, entry, endpoint, asked, settings, seed)
                if record["question"] is None:
                    _from_bank(record, kind, entry, bank, asked, seed)
                yield record
            asked.add(_key(record["question"]))

    found = resumable_map(
        [*slots],
        write,
        path=path,
        keys=lambda of: [slot.id for slot in slots[of]],
        key=lambda record: record["id"],
        parallel=endpoint.parallel_requests,
        title="conversations",
    )
    places = {entry.id: number for number, entry in enumerate(entries)}
    return sorted(found, key=lambda record: places[record["entry"]])


def _write(slot: _Slot, entry: Entry, endpoint: ChatEndpoint, asked: set[str], settings: Dataset, seed: int) -> Record:
    record: Record = {
        "id": slot.id,
        "entry": entry.id,
        "kind": slot.kind,
        "origin": "model" if slot.by_model else "bank",
        "writer": "",
        "question": None,
        "answer": None,
        "rejected": [],
    }
    named = _named(slot.kind, entry)
    room = 40 + len(named) // 2  # tokens; what is asked about must fit, in any script
    stop = ["\n"] if STOP in named else ["\n", STOP]
    for attempt in range(settings.attempts if slot.by_model else 0):
        number = _number(seed, slot.id, attempt)
        prompt = _question_prompt(slot.kind, entry, number)
        asked_for = endpoint.complete(prompt, max_tokens=room, temperature=settings.temperature, seed=number, stop=stop)
        question = _tidy(asked_for.text)
        if question and question[-1] not in ".?!" and asked_for.finish_reason == "stop":
            question += "?"  # the server keeps what it stopped at to itself
        reason = check_question(slot.kind, question, entry)
        if reason is None and _key(question) in asked:
            reason = "question asked before"
        answer = None
        for retry in range(ANSWER_ATTEMPTS if reason is None else 0):
            reply = endpoint.complete(
                _answer_prompt(slot.kind, entry, question),
                max_tokens=40 + len(entry.definition) // 2,
                temperature=settings.temperature * 0.4,
                seed=number + retry,
                stop=["\n"],
            )
            answer = _tidy(reply.text)
            reason = check_answer(slot.kind, answer, entry)
            if reason is None:
                return {**record, "writer": endpoint.name, "question": question, "answer": answer}
        record["rejected"].append({"question": question, "answer": answer, "reason": reason})
    return record


def _from_bank(record: Record, kind: str, entry: Entry, order: list[str], asked: set[str], seed: int) -> None:
    """Fill a slot with the next phrasing of the bank that the entry has not had; starts over when all are used."""
    chooser = random.Random(_number(seed, record["id"], 0))
    fresh = [question for question in order if not any(had.endswith(_key(question)) for had in asked)]
    answers = load_bank().forward_answers if kind == "forward" else load_bank().reverse_answers
    record["origin"] = "bank"
    question = fresh[0] if fresh else chooser.choice(order)
    opening = chooser.choice(load_bank().openings) + " " if chooser.random() < 0.5 else ""
    record["question"] = opening + question
    record["answer"] = fill_entry(chooser.choice(answers), entry)


def _bank_order(kind: str, entry: Entry, seed: int) -> list[str]:
    bank = load_bank()
    order = list(bank.forward_train if kind == "forward" else bank.reverse_train)
    random.Random(_number(seed, f"{kind}/{entry.id}", -1)).shuffle(order)
    return [fill_entry(phrasing, entry) for phrasing in order]


def _question_prompt(kind: str, entry: Entry, number: int) -> Messages:
    """Examples, then the entry in a scene; every request of a kind begins alike, so a server may read that once."""
    messages = [{"role": "system", "content": ASK[kind]}]
    for scene, acronym, definition, question in EXAMPLES[kind]:
        messages += _turn(_subject(acronym if kind == "forward" else definition, scene), question)
    scene = random.Random(number).choice(load_bank().scenes)
    return [*messages, {"role": "user", "content": _subject(_named(kind, entry), scene)}]


def _named(kind: str, entry: Entry) -> str:
    return (entry.acronym if kind == "forward" else entry.definition) + entry.where


def _subject(named: str, scene: str) -> str:
    # What to copy stands first and last. With shorter examples that made 63 % of a very small model's questions
    # usable, against 40 % when told in words to ask about it (docs/decisions/0004).
    return f"{named}, {scene}: {named}"


def _answer_prompt(kind: str, entry: Entry, question: str) -> Messages:
    messages = [{"role": "system", "content": ANSWER}]
    for _, acronym, definition, asked in EXAMPLES[kind]:
        answer = ANSWERED[kind].format(acronym=acronym, definition=definition)
        messages += _turn(_known(kind, acronym, definition, asked), answer)
    explained = f" {entry.verbose_def[:200]}" if entry.verbose_def and kind == "forward" else ""
    known = _known(kind, entry.acronym, entry.definition, question, explained)
    return [*messages, {"role": "user", "content": known}]


def _known(kind: str, acronym: str, definition: str, question: str, explained: str = "") -> str:
    first, second = (acronym, definition) if kind == "forward" else (definition, acronym)
    return f"{question}\n{first} = {second}.{explained}"


def _turn(user: str, assistant: str) -> Messages:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _tidy(text: str) -> str:
    return " ".join(text.split()).strip("\"'` ")


def _key(question: str) -> str:
    return "".join(character for character in question.casefold() if character.isalnum())


def _number(seed: int, text: str, attempt: int) -> int:
    """A seed that depends on the slot and not on the order of arrival."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}/{attempt}".encode()).digest()[:4], "big") // 2
