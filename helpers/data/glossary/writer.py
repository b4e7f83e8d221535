"""A chat model writes conversations about each glossary entry; what fails the checks is asked again.

In the way for small models two requests make one: the model words a question as a person in some scene would, then
answers it with the definition in front of it. Both are shown the examples of the language's pack. For capable models
see `helpers.data.glossary.structured`.
"""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

from helpers.config import Dataset, Way
from helpers.data.example import few_shot, tidy
from helpers.data.glossary.checks import ENDED, as_in_glossary, check_answer, check_question
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import fill_entry
from helpers.data.glossary.structured import start_of, write_about
from helpers.data.languages.pack import Pack
from helpers.endpoint.chat import ChatEndpoint
from helpers.endpoint.tally import Tally
from helpers.files import Record
from helpers.resumable import Results, resumable_map

ANSWER_ATTEMPTS = 2
USELESS = (
    "Name a more capable model in endpoint.model; or, where it thinks too long, stop that by endpoint.extra, as "
    "{reasoning_effort: low} or {chat_template_kwargs: {enable_thinking: false}}; or set dataset.forward_by_model and "
    "dataset.reverse_by_model to 0 to write with the phrasing bank alone."
)
STOP = "?"
"""One question is enough: after it a small model would answer, or ask again."""


def write_conversations(
    entries: list[Entry], endpoint: ChatEndpoint, settings: Dataset, *, path: Path, seed: int, way: Way = "two_requests"
) -> Iterator[Record]:
    """Fill every slot of every entry with one conversation and append each to `path` as soon as it is done.

    Slots already in `path` are not asked again. The slots of one entry are written one after the other, so that the
    order in which replies arrive changes nothing. Questions use `settings.temperature`, answers 0.4 times it. `seed`
    decides scenes, sampling and the order of the bank.

    `path` has JSON lines `{"id", "entry", "kind", "origin", "writer", "question", "answer", "rejected": [{"question",
    "answer", "reason"}]}`; `writer` is empty where the bank filled in. In the structured way also `"form"` and
    `"earlier"`, the messages before the question.

    Returns one record a slot, in the order of the glossary, read from the file as they are asked for. Raises
    EndpointError where the endpoint failed; what was written before stays in `path`.
    """
    wanted = {
        "forward": (settings.forward_by_model, settings.forward_by_bank),
        "reverse": (settings.reverse_by_model, settings.reverse_by_bank),
    }

    tally = Tally(endpoint.name, USELESS)

    def slots(of: tuple[str, Entry]) -> list[str]:
        kind, entry = of
        return [f"{kind}/{entry.id}/{number:03d}" for number in range(sum(wanted[kind]))]

    def write(of: tuple[str, Entry], done: Results | None) -> Iterator[list[Record]]:
        (kind, entry), own = of, slots(of)
        asked: set[str] = set()
        bank = [(_key(text), text) for text in (fill_entry(each, entry) for each in entry.pack.train[kind])]
        random.Random(_number(seed, f"{kind}/{entry.id}", -1)).shuffle(bank)
        made: dict[str, Record] = {}
        if way == "structured":  # all conversations of an entry come from the same requests, and are kept together
            done = None
            if wanted[kind][0] and not _hopeless(tally, endpoint):
                made = write_about(kind, entry, own[: wanted[kind][0]], endpoint, settings, seed)
            for each in made.values():
                reasons = [attempt["reason"] for attempt in each["rejected"]]
                nothing = "form" not in each and all(attempt["question"] is None for attempt in each["rejected"])
                tally.add(*reasons, *([None] if "form" in each else []), about=entry.id, unreadable=nothing)
            _hopeless(tally, endpoint)
        together = []
        for number, slot in enumerate(own):
            record = done.get(slot) if done else None
            if record is None:
                record = {"id": slot, "entry": entry.id, "kind": kind, "origin": "bank", "writer": ""}
                record |= {"question": None, "answer": None, "rejected": []} | made.get(slot, {})
                by_model = "form" in record
                if by_model:
                    record |= {"origin": "model", "writer": endpoint.name}
                elif way == "two_requests" and number < wanted[kind][0]:
                    by_model = _from_model(record, entry, endpoint, asked, settings, seed, tally)
                if not by_model:
                    _from_bank(record, entry, bank, asked, seed)
                together.append(record)
            asked.add(_key(record["question"]))
            if together and way == "two_requests":
                yield [together.pop()]
        if together:
            yield together

    found = resumable_map(
        [(kind, entry) for kind in wanted for entry in entries],  # so a server reads the examples of a kind once
        write,
        path=path,
        fields=("id", "entry", "kind", "origin", "question", "answer", "rejected"),
        keys=slots,
        key=lambda record: record["id"],
        parallel=endpoint.parallel_requests,
        title="conversations",
    )
    return (found[slot] for entry in entries for kind in wanted for slot in slots((kind, entry)))


def _from_model(
    record: Record, entry: Entry, endpoint: ChatEndpoint, asked: set[str], settings: Dataset, seed: int, tally: Tally
) -> bool:
    """Fill a slot with the model's words and note what was refused; False where every attempt was."""
    for repeat in range(settings.attempts):
        if _hopeless(tally, endpoint):
            break
        question, answer, number = None, None, _number(seed, record["id"], repeat)
        with tally.attempt(entry.id) as attempt:
            question = _question(record["kind"], entry, endpoint, settings, number)
            attempt.reason = check_question(record["kind"], question, entry)
            if attempt.reason is None and _key(question) in asked:
                attempt.reason = "question asked before"
            for retry in range(ANSWER_ATTEMPTS if attempt.reason is None else 0):
                answer = _answer(record["kind"], entry, question, endpoint, settings, number + retry)
                attempt.reason = check_answer(record["kind"], answer, entry)
                if attempt.reason is None:
                    answer = as_in_glossary(answer, entry)
                    break
        if attempt.reason is None:
            record |= {"origin": "model", "writer": endpoint.name, "question": question, "answer": answer}
            return True
        refused = {"question": start_of(question), "answer": start_of(answer), "reason": attempt.reason}
        record["rejected"].append(refused)
    return False


def _question(kind: str, entry: Entry, endpoint: ChatEndpoint, settings: Dataset, number: int) -> str:
    """A question in the model's words: examples, then the entry in a scene.

    Every request of a kind begins alike, so a server may read that once.
    """
    pack, named = entry.pack, _named(kind, entry)
    shown = [(_subject(_named(kind, of), scene), question) for scene, of, question in shown_examples(kind, pack)]
    scene = random.Random(number).choice(pack.scenes)
    asked_for = endpoint.complete(
        few_shot(pack.writer[kind], shown, _subject(named, scene)),
        max_tokens=40 + len(named) // 2,  # what is asked about must fit, in any script
        temperature=settings.temperature,
        seed=number,
        stop=["\n"] if STOP in named else ["\n", STOP],
    )
    question = tidy(asked_for.text)
    if question and not ENDED.search(question) and asked_for.finish_reason != "length":
        question += "?"  # the server keeps what it stopped at to itself
    return question


def _answer(kind: str, entry: Entry, question: str, endpoint: ChatEndpoint, settings: Dataset, number: int) -> str:
    """The answer in the model's words."""
    pack = entry.pack
    wording, examples = pack.answers[kind][0], shown_examples(kind, pack)
    shown = [(_known(kind, of, asked), fill_entry(wording, of)) for _, of, asked in examples]
    reply = endpoint.complete(
        few_shot(pack.writer.answer, shown, _known(kind, entry, question)),
        max_tokens=40 + len(entry.definition) // 2,
        temperature=settings.temperature * 0.4,
        seed=number,
        stop=["\n"],
    )
    return tidy(reply.text)


def _hopeless(tally: Tally, endpoint: ChatEndpoint) -> bool:
    """Whether the bank goes on alone, after useless attempts of the embedded model; of another one EndpointError."""
    if not endpoint.embedded:
        tally.stop()
    return bool(tally.told)


def _from_bank(record: Record, entry: Entry, order: list[tuple[str, str]], asked: set[str], seed: int) -> None:
    """Fill a slot with the next phrasing of the bank that the entry has not had; starts over when all are used.

    `order` are the phrasings, each behind its `_key`, as `asked` are those of the entry's questions.
    """
    pack, chooser = entry.pack, random.Random(_number(seed, record["id"], 0))
    fresh = (text for key, text in order if not any(had.endswith(key) for had in asked))
    question = next(fresh, None) or chooser.choice(order)[1]
    opening = chooser.choice(pack.openings) + " " if chooser.random() < 0.5 else ""
    answer = chooser.choice(pack.answers[record["kind"]])
    record |= {"question": opening + question, "answer": fill_entry(answer, entry)}


def shown_examples(kind: str, pack: Pack) -> list[tuple[str, Entry, str]]:
    """What the writing model is shown: scenes, invented entries and the questions about them."""
    return [(scene, Entry("", acronym, told, pack=pack), asked) for scene, acronym, told, asked in pack.examples[kind]]


def _named(kind: str, entry: Entry) -> str:
    return (entry.acronym if kind == "forward" else entry.definition) + entry.where


def _subject(named: str, scene: str) -> str:
    # What to copy stands first and last. With shorter examples that made 63 % of a very small model's questions
    # usable, against 40 % when told in words to ask about it (docs/decisions/0004).
    return f"{named}, {scene}: {named}"


def _known(kind: str, entry: Entry, question: str) -> str:
    if kind == "reverse":
        return f"{question}\n{entry.definition} = {entry.acronym}."
    explained = f" {entry.verbose_def[:200]}" if entry.verbose_def else ""
    return f"{question}\n{entry.acronym} = {entry.definition}.{explained}"


def _key(question: str) -> str:
    return "".join(character for character in question.casefold() if character.isalnum())


def _number(seed: int, text: str, attempt: int) -> int:
    """A seed that depends on the slot and not on the order of arrival."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}/{attempt}".encode()).digest()[:4], "big") // 2
