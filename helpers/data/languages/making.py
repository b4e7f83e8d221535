"""Have a capable model make the pack of a language: the English one in other words, part by part, each checked.

What fails a check is asked for again, with the reason. General questions, invented acronyms and the reading of answers
are left out.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.config import Dataset
from helpers.config_layers import nested
from helpers.data.glossary.checks import ODD, asserts, check_answer, check_question
from helpers.data.glossary.checks import found as stands_in
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import LEAK_RATIO, fill, fill_entry, held_out_overlap
from helpers.data.languages.pack import Pack, Questions, load_pack
from helpers.data.languages.wanted import (
    BETWEEN,
    OPTIONAL,
    REPLY_FORM,
    ROUNDS,
    TASK,
    TEXTS,
    WORDS,
    Piece,
    english,
    pieces,
)
from helpers.data.matching import contains
from helpers.data.numbered import by_number
from helpers.data.reading.folding import UNSPACED
from helpers.endpoint.chat import ChatEndpoint
from helpers.errors import EndpointError, UnreadableReply
from helpers.files import Record
from helpers.resumable import resumable_map

MOST_WORDS = 6
"""Of a phrase that a question or an answer is searched for."""
FEWEST_FUNCTION_WORDS = 8
SAMPLE = Entry("QZX", "QZX", "Quarterly Zone Exchange")
DEFINITIONS = ("Ordre des eaux", "ordre d’usage", "Les habitants de l'île (nord)")
ASKING = 0.4
"""Share of the training questions that has to hold a word of `asks`: some phrasings, such as "QZX?", hold none."""
ASSERTING = 0.1
"""Share of the questions that `asserting` may take for claims."""
Known = Mapping[str, Sequence[str]]
"""Texts made before, by their key."""
Ask = Callable[[Piece, Sequence[Record], int], dict[int, list[str]]]


def translated_pack(
    language: str, endpoint: ChatEndpoint, settings: Dataset, *, path: Path, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Have the content of a pack made; returns it, and the optional keys that it lacks, each with what then happens.

    `language` is its name or code. Less than half of `settings.temperature` is used. `path` has JSON lines `{"piece",
    "english", "writer", "texts": [[key, text]]}`; what stands there is not asked again.

    Raises EndpointError where the endpoint failed, or too little that it wrote passes the checks; the rest stays in
    `path`.
    """
    wanted, known, called = pieces(), dict[str, list[str]](), language
    originals = {piece.name: [text for _, text in piece.texts] for piece in wanted}

    def ask(piece: Piece, lines: Sequence[Record], attempt: int) -> dict[int, list[str]]:
        told = TEXTS[piece.part] if piece.texts else f"Write {WORDS[piece.name]}. Each word or phrase is a text."
        numbered = ({"number": number} | line for number, line in enumerate(lines, start=1))
        asked = "\n".join(json.dumps(line, ensure_ascii=False) for line in numbered)
        reply = endpoint.complete_json(
            [
                {"role": "system", "content": TASK.replace("{language}", called)},
                {"role": "user", "content": f"{told}\n\n{asked}"},
            ],
            **REPLY_FORM,
            max_tokens=600 + 60 * len(lines) + 2 * len(asked),
            temperature=settings.temperature * 0.4,
            seed=seed + attempt,
        )
        texts = by_number(
            reply["texts"], len(lines), lambda row: text if isinstance(text := row.get("text"), str) else None
        )
        return {number: [text] for number, text in texts.items()} if piece.texts else {0: [*texts.values()]}

    def record(piece: Piece) -> Record:
        made, reason = _made(piece, ask, known, settings.attempts)
        keys, kept = [key for key, _ in piece.texts] or [piece.name], [key for key, _ in made]
        if piece.part not in OPTIONAL and any(2 * kept.count(key) < keys.count(key) for key in keys):
            raise EndpointError(
                f"{endpoint.name} wrote too little in {called} for {piece.name.split('/')[0]} in {settings.attempts} "
                f"attempts ({reason}). Name a more capable model in endpoint.model."
            )
        return {"piece": piece.name, "english": originals[piece.name], "writer": endpoint.name, "texts": made}

    for number, parts in enumerate(ROUNDS, start=1):
        asked = [piece for piece in wanted if piece.part in parts]
        found = resumable_map(
            asked,
            lambda piece, _: [record(piece)],
            path=path,
            fields=("piece", "english", "texts"),
            keys=lambda piece: [piece.name],
            key=lambda row: row["piece"],
            parallel=endpoint.parallel_requests,
            title=f"{called}, round {number} of {len(ROUNDS)}",
            keep=lambda row: row["english"] == originals.get(row["piece"]),
        )
        for key, text in (pair for piece in asked for pair in found[piece.name]["texts"]):
            if text.casefold() not in map(str.casefold, known.setdefault(key, [])):
                known[key].append(text)
        [called] = known["language"]
    return _gathered(known)


def _made(piece: Piece, ask: Ask, known: Known, attempts: int) -> tuple[list[tuple[str, str]], str]:
    """Texts that pass the checks, with their keys; and why the last refused ones do not."""
    lines: list[Record] = [{"english": text} for _, text in piece.texts] or [{}]
    made, reason = dict[int, list[str]](), "texts are missing"
    for attempt in range(attempts):
        if not (left := [place for place in range(len(lines)) if place not in made]):
            break
        try:
            told = ask(piece, [lines[place] for place in left if lines[place]], attempt)
        except UnreadableReply as error:
            reason = str(error).rstrip(".")
            continue
        for place, texts in ((left[number], texts) for number, texts in told.items() if number < len(left)):
            said, fault = _checked(piece, place, texts, known)
            if not fault and said[0].casefold() in (other[0].casefold() for other in made.values()):
                fault = "the same as another text"
            if fault:
                lines[place] |= {"refused": said[0] if piece.texts else said, "why": fault}
                reason = fault
            else:
                made[place] = said
    keys = [key for key, _ in piece.texts] or [piece.name]
    return [(key, text) for place, key in enumerate(keys) for text in made.get(place, ())], reason


def _checked(piece: Piece, place: int, texts: Sequence[str], known: Known) -> tuple[list[str], str | None]:
    """A tidied translation, or all tidied words of a list; and why they cannot be used, or None."""
    if not piece.texts:
        told = dict.fromkeys(" ".join(text.lower().split()) for text in texts)
        words = [word for word in told if re.search(r"\w", word) and len(word.split()) <= MOST_WORDS]
        return words, _fault_of_words(piece.name, words, known)
    key, original = piece.texts[place]
    text = texts[0].strip() if "\n" in original else " ".join(texts[0].split())
    text = f" {text}" if key == "where" else text
    return [text], _fault(key, original, text, known)


def resembled(phrasing: str, held_out: Sequence[str]) -> list[str]:
    """The held-out phrasings that a phrasing is too much like to train on."""
    asked = fill(phrasing, acronym=SAMPLE.acronym, definition=SAMPLE.definition)
    return [other for other in held_out if held_out_overlap(asked, SAMPLE, [other]) >= LEAK_RATIO]


def answer_fault(kind: str, answer: str, pack: Pack) -> str | None:
    """Why an answer's wording cannot be used, or None."""
    if kind == "unknown":
        return None if answer.startswith("{acronym}") else "answer does not begin with {acronym}"
    entries = (Entry("ABC", "ABC", definition, pack=pack) for definition in DEFINITIONS)
    return next(filter(None, (check_answer(kind, fill_entry(answer, entry), entry) for entry in entries)), None)


def shot_fault(kind: str, shot: Sequence[str], pack: Pack) -> str | None:
    """Why what a writing model is shown cannot be used, or None: a scene, acronym, definition and question."""
    _, acronym, definition, question = shot
    return check_question(kind, question, Entry("", acronym, definition, pack=pack))


def not_asking(words: list[str], phrasings: Sequence[str]) -> list[str]:
    """The phrasings that hold none of these words; empty where `ASKING` of them hold one."""
    missing = [text for text in phrasings if not stands_in(words, fill(text, acronym=SAMPLE.acronym))]
    return missing if len(missing) >= (1 - ASKING) * len(phrasings) else []


def asserting(pack: Pack) -> list[str]:
    """The questions that `pack.asserting` takes for claims; empty where they are fewer than `ASSERTING` of all."""
    entry = Entry("QZX (law)", "QZX", SAMPLE.definition, field="law", ambiguous=True, pack=pack)
    phrasings = [*pack.train.forward, *pack.test.forward]
    claims = [text for text in phrasings if asserts(fill_entry(text, entry), entry)]
    return claims if len(claims) >= ASSERTING * len(phrasings) else []


def _fault(key: str, original: str, text: str, known: Known) -> str | None:
    """Why a translation cannot be used, or None."""
    slots, found = (sorted(re.findall(r"\{(\w*)\}", each)) for each in (original, text))
    part, _, kind = key.partition(".")
    if not text.strip() or ODD.search(text):
        return "empty, or with control tokens"
    if found != slots:
        return f"expected {' and '.join(f'{{{name}}}' for name in slots) or 'no braces'} once"
    if re.search(r"[{}]", re.sub(r"\{\w*\}", "", text)) or re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text):
        return "further braces, or control characters"
    if " {where}" in text:
        return "a space before {where}"
    if part == "language":
        return None if re.fullmatch(r"[A-Z][\w ()-]{1,40}", text) else "no English name of a language"
    if text == original and len(re.findall(r"\w+", fill(text))) > 2:
        return "still in English"
    if part == "train" and (close := resembled(text, known[f"test.{kind}"])):
        return f"too much like {close[0]!r}, which is kept for the test"
    if part == "answers":
        return answer_fault(kind, text, load_pack())
    if part != "examples":
        return None
    if len(shot := text.split(BETWEEN)) != 4:
        return f"expected four parts with {BETWEEN!r} between them"
    test = Questions.model_validate({of: known[f"test.{of}"] for of in ("forward", "reverse")})
    pack = load_pack().model_copy(update={"asks": None, "asserting": None, "test": test})
    return shot_fault(kind, shot, pack)


def _fault_of_words(key: str, words: list[str], known: Known) -> str | None:
    """Why words cannot be used, or None."""
    part, _, kind = key.partition(".")
    if len(words) < (FEWEST_FUNCTION_WORDS if part == "function_words" else 1):
        return "too few words"
    missing: list[str] = []
    if part == "refusals":
        answers = [*known["answers.forward"], *known["answers.reverse"]]
        if wrong := [word for word in words if any(contains(text, word) for text in answers)]:
            return f"{wrong[0]!r} stands in an answer that does know"
        missing = [text for text in known["answers.unknown"] if not any(contains(text, word) for word in words)]
    if part == "asks":
        patterns, shown = list(map(_pattern, words)), [text.split(BETWEEN)[3] for text in known[f"examples.{kind}"]]
        missing = not_asking(patterns, known[f"train.{kind}"])
        missing += [text for text in shown if not_asking(patterns, [text])]
    return f"none of the words stands in {', '.join(map(repr, missing[:5]))}" if missing else None


def _pattern(word: str) -> str:
    """A regular expression that finds a word: inside of others where a script has no spaces between words."""
    pattern = re.escape(word).replace(r"\ ", " ")
    return rf"\w*{pattern}\w*" if UNSPACED.search(word) else pattern


def _gathered(known: Known) -> tuple[dict[str, Any], list[str]]:
    """A pack's content out of its texts, without the optional keys that are of no use; and these."""
    single = {key for key, value in english().items() if not isinstance(value, list)}
    told: dict[str, Any] = {key: texts[0] if key in single else list(texts) for key, texts in known.items()}
    lacking = {key.split(".")[0] for key in WORDS if key not in known}
    for key, texts in known.items():
        if key.startswith("examples."):
            told[key] = [text.split(BETWEEN) for text in texts]
        elif key.startswith(("asks.", "asserting.")):
            told[key] = list(map(_pattern, texts))
    whole = nested(told)
    content = {key: whole[key] for key in Pack.model_fields if key in whole and key not in lacking}
    if "asserting" in content:
        pack = Pack.model_validate(content | {"name": "new"})
        faults = [shot_fault(kind, shot, pack) for kind in ("forward", "reverse") for shot in pack.examples[kind]]
        if asserting(pack) or any(faults):
            del content["asserting"]
            lacking.add("asserting")
    return content, [f"{key}: {then}" for key, then in OPTIONAL.items() if key in lacking]
