"""Training, validation and test conversations, disjoint by construction and checked again afterwards."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence

from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import Bank, fill, fill_entry, held_out_overlap, skeleton
from helpers.errors import RunError
from helpers.files import Record


def training_records(
    conversations: Sequence[Record],
    entries: Sequence[Entry],
    bank: Bank,
    *,
    unknown: int,
    general: Sequence[tuple[str, str]],
    validation_share: float,
    avoid: set[str],
    seed: int,
) -> tuple[list[Record], list[Record]]:
    """Training and validation records, shuffled.

    Args:
        conversations: what `write_conversations` returned.
        entries: the glossary.
        bank: the phrasing bank.
        unknown: how many invented acronyms to decline, asked in the words of the forward conversations.
        general: (question, the base model's own answer) pairs.
        validation_share: share of all records held back, 0 to 1.
        avoid: invented acronyms of the test set, which training must not show.
        seed: of every draw.

    Returns:
        (train, validation), each record `{"id", "kind", "entry", "origin", "prompt", "completion"}`.
    """
    chooser = random.Random(f"{seed}/train")
    records = [_record(c["id"], c["kind"], c["entry"], c["origin"], c["question"], c["answer"]) for c in conversations]
    by_id = {entry.id: entry for entry in entries}
    forward = [c for c in conversations if c["kind"] == "forward" and not by_id[c["entry"]].ambiguous]
    forward = forward or [c for c in conversations if c["kind"] == "forward"]
    chooser.shuffle(forward)  # declines are worded like the questions about every entry, not about the first ones
    for number, acronym in enumerate(invent_acronyms(entries, unknown, avoid=avoid, seed=seed, near_share=0.75)):
        source = forward[number % len(forward)] if number < len(forward) else chooser.choice(forward)
        known = rf"(?<!\w){re.escape(by_id[source['entry']].acronym)}(?!\w)"  # not inside other words
        question = acronym.join(re.split(known, source["question"]))
        answer = fill(chooser.choice(bank.decline_answers), acronym=acronym)
        records.append(_record(f"unknown/{acronym}", "unknown", None, source["origin"], question, answer))
    for number, (question, answer) in enumerate(general):
        records.append(_record(f"general/{number:03d}", "general", None, "model", question, answer))
    chooser.shuffle(records)
    held_back = round(len(records) * validation_share)
    return records[held_back:], records[:held_back]


def test_records(
    entries: Sequence[Entry],
    bank: Bank,
    *,
    new_phrasings: int,
    reverse: int,
    unknown: int,
    general: int,
    seed: int,
) -> list[Record]:
    """Test items `{"id", "bucket", "entry", "question", "expected", "reference"}` in four buckets.

    `new_phrasing` and `reverse` take held-out phrasings, `unknown` acronyms that exist nowhere (half of them
    one letter from a known one), `general` questions that have nothing to do with the glossary.
    """
    chooser = random.Random(f"{seed}/test")
    items = []
    for entry in entries:
        for number, phrasing in enumerate(
            chooser.sample(bank.forward_test, min(new_phrasings, len(bank.forward_test)))
        ):
            reference = fill_entry(bank.forward_answers[0], entry)
            question = fill_entry(phrasing, entry)
            items.append(
                _item("new_phrasing", f"{entry.id}/{number}", entry.id, question, [entry.definition], reference)
            )
        for number, phrasing in enumerate(chooser.sample(bank.reverse_test, min(reverse, len(bank.reverse_test)))):
            reference = fill_entry(bank.reverse_answers[0], entry)
            question = fill_entry(phrasing, entry)
            items.append(_item("reverse", f"{entry.id}/{number}", entry.id, question, [entry.acronym], reference))
    for number, acronym in enumerate(invent_acronyms(entries, unknown, avoid=set(), seed=seed + 1)):
        question = fill(bank.forward_test[number % len(bank.forward_test)], acronym=acronym)
        reference = fill(bank.decline_answers[0], acronym=acronym)
        items.append(_item("unknown", acronym, None, question, [], reference))
    for number, row in enumerate(bank.general_test[:general]):
        reference = f"{row['expected'][0]}."
        items.append(_item("general", f"{number:03d}", None, row["question"], row["expected"], reference))
    return items


def invent_acronyms(
    entries: Sequence[Entry], count: int, *, avoid: set[str], seed: int, near_share: float = 0.5
) -> list[str]:
    """Invent `count` distinct acronyms that no entry has, `near_share` of them one letter from a known one.

    The others take the shape (length, letter case, digits, hyphens) of a known one with all letters drawn anew.

    Raises:
        RunError: after many draws there are still too few; the glossary's acronyms are too short for the number.
    """
    chooser = random.Random(f"{seed}/unknown")
    known = [entry.acronym for entry in entries]
    taken = {acronym.casefold() for acronym in known} | {acronym.casefold() for acronym in avoid}
    invented: list[str] = []
    for attempt in range(count * 200):
        if len(invented) == count:
            break
        template = chooser.choice(known)
        make: Callable[[str, random.Random], str] = _one_letter_off if len(invented) % 4 < 4 * near_share else _redrawn
        # Glossaries of one- and two-letter acronyms run out of neighbours: longer ones step in.
        acronym = make(template, chooser) if attempt < count * 100 else _redrawn(template + "XX", chooser)
        if acronym.casefold() not in taken:
            taken.add(acronym.casefold())
            invented.append(acronym)
    if len(invented) < count:
        raise RunError(
            f"Only {len(invented)} of {count} unknown acronyms could be invented; lower dataset.unknown_train."
        )
    return invented


def assert_disjoint(train: Sequence[Record], test: Sequence[Record], entries: Sequence[Entry]) -> dict[str, float]:
    """Check that training and test share no question, no unknown acronym and no phrasing.

    Returns:
        `{"highest_overlap"}`: the highest similarity, 0 to 100, between a training and a test phrasing.

    Raises:
        RunError: something is shared; the message names it.
    """
    asked = {_text(record).casefold() for record in train}
    for item in test:
        if item["question"].casefold() in asked:
            raise RunError(f"Test question {item['id']} stands in the training set: {item['question']!r}.")
    by_id = {entry.id: entry for entry in entries}
    trained_unknown = {record["id"].split("/", 1)[1].casefold() for record in train if record["kind"] == "unknown"}
    shared = trained_unknown & {item["id"].split("/", 1)[1].casefold() for item in test if item["bucket"] == "unknown"}
    if shared:
        raise RunError(f"Unknown acronyms stand in training and test: {sorted(shared)[:5]}.")
    held_out = {
        "forward": {
            skeleton(item["question"], by_id[item["entry"]]) for item in test if item["bucket"] == "new_phrasing"
        },
        "reverse": {skeleton(item["question"], by_id[item["entry"]]) for item in test if item["bucket"] == "reverse"},
    }
    highest = 0.0
    for record in train:
        if record["kind"] in held_out:
            entry = by_id[record["entry"]]
            if skeleton(_text(record), entry) in held_out[record["kind"]]:
                raise RunError(f"Training conversation {record['id']} uses a held-out phrasing: {_text(record)!r}.")
            highest = max(highest, held_out_overlap(_text(record), entry, sorted(held_out[record["kind"]])))
    return {"highest_overlap": round(highest, 1)}


def _text(record: Record) -> str:
    return str(record["prompt"][0]["content"])


def _record(identity: str, kind: str, entry: str | None, origin: str, question: str, answer: str) -> Record:
    return {
        "id": identity,
        "kind": kind,
        "entry": entry,
        "origin": origin,
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def _item(bucket: str, name: str, entry: str | None, question: str, expected: list[str], reference: str) -> Record:
    return {
        "id": f"{bucket}/{name}",
        "bucket": bucket,
        "entry": entry,
        "question": question,
        "expected": expected,
        "reference": reference,
    }


def _one_letter_off(acronym: str, chooser: random.Random) -> str:
    letters = [position for position, character in enumerate(acronym) if character.isalnum()]
    if not letters:
        return acronym + chooser.choice(string.ascii_uppercase)
    position = chooser.choice(letters)
    return acronym[:position] + _like(acronym[position], chooser) + acronym[position + 1 :]


def _redrawn(acronym: str, chooser: random.Random) -> str:
    return "".join(_like(character, chooser) for character in acronym)


def _like(character: str, chooser: random.Random) -> str:
    """Another character of the same kind; letters outside ASCII become ASCII ones."""
    if character.isdigit():
        return chooser.choice(string.digits)
    if not character.isalpha():
        return character
    return chooser.choice(string.ascii_lowercase if character.islower() else string.ascii_uppercase)
