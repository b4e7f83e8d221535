"""Decide which conversations of a writing model are used: plain rules, each with the reason it gives."""

import re
from collections.abc import Sequence

from rapidfuzz import fuzz, process, utils

from helpers.data.example import Check
from helpers.data.glossary.entries import Entry, plain_signs
from helpers.data.glossary.phrasings import LEAK_RATIO, held_out_overlap, whole
from helpers.data.matching import is_correct

NAMES = {"forward": ("acronym", "definition"), "reverse": ("definition", "acronym")}
"""What a question of each kind names, and what its answer tells."""
MAX_QUESTION_WORDS = 32
MAX_OTHER_WORDS = 8
"""Words of an answer that are neither the definition's nor the entry's: past these the writer invents facts."""
MAX_FREE_WORDS = 25
"""The same for a capable model, which is asked for natural sentences of at most 25 words."""
ALIKE = 92.0
"""Similarity, 0 to 100, from which two questions about an entry are worded alike."""
MOST_TURNS = 3
GUESS = "wrong_guess"
"""The form in which a person says what the acronym means, wrongly, and is put right."""
ODD = re.compile(r"<\|.*?\|>|</?s>|</?(?:start|end)_of_turn>|\[/?INST\]|\ufffd")
"""Control tokens of chat templates, and half characters."""
ENDED = re.compile(r"[?.!？。！؟]$|[\u0370-\u03ff].*[;\u037e]$")
"""How a sentence ends; in Greek a question with a semicolon."""
_NAMED = "\ufffc"
"""Stands for the acronym while a question is read."""


def check_question(kind: str, question: str, entry: Entry) -> str | None:
    """Why a question about an entry cannot be used, or None; `kind`: `forward` or `reverse`."""
    if not question or ODD.search(question):
        return "question with control tokens" if question else "question empty"
    if len(question.split()) > MAX_QUESTION_WORDS + len(entry.definition.split()):
        return "question too long"
    if "\n" in question or not ENDED.search(question):
        return "question cut off"
    return _question_fault(kind, [question], entry)


def _question_fault(
    kind: str, questions: Sequence[str], entry: Entry, form: str | None = None, asked: Sequence[str] = ()
) -> str | None:
    """Why a person's messages cannot be used, or None; `form` and `asked` as in `check_conversation`."""
    said, (named, told) = " ".join(questions), NAMES[kind]
    if not _holds(said, named, entry):
        return f"question without the {named}"
    if _holds(said, told, entry):
        return f"question gives the {told} away"
    if form is None and entry.pack.asks and not found(entry.pack.asks[kind], said):
        return "question asks something else"
    if kind == "forward" and form != GUESS and any(asserts(question, entry) for question in questions):
        return "question asserts a meaning"
    if entry.ambiguous and not _holds(said, "field", entry):
        return "question does not name the field"
    plain = utils.default_process
    if process.extractOne(questions[-1], asked, scorer=fuzz.ratio, processor=plain, score_cutoff=ALIKE):
        return "question worded as another"
    held_out = entry.pack.test[kind]
    if any(held_out_overlap(question, entry, held_out) >= LEAK_RATIO for question in questions):
        return "question is a held-out phrasing"
    return None


def asserts(question: str, entry: Entry) -> bool:
    """Whether a question says what an acronym is or means, and not only where it was seen.

    Writing models invent such things ("QV is a town in Iran, what does it stand for?"), and training would teach them.
    Read clause by clause: those that ask are passed over, and of the others one says so if the acronym, or a pronoun
    after it, has a verb such as "is" with more than a place, if it is what something "is", or if an apposition follows.
    """
    if (words := entry.pack.asserting) is None:
        return False
    verb, place, pronoun, article = (
        f"(?:{'|'.join(part)})" for part in (words.verbs, words.places, words.pronouns, words.articles)
    )
    text = plain_signs(question)
    for name in (entry.acronym + entry.where, entry.acronym):
        text = whole(name, text, keep_case=True).sub(_NAMED, text)
    text = re.sub(r"\s*[\"«»]\s*", " ", text).strip()
    says = (
        rf"(?:^{_NAMED}.*?|{_NAMED})\s{verb}\s(?!{place}(?!\w))",
        rf"^(?!{pronoun}).*\w\s{verb}\s{_NAMED}$",
    )
    goes_on = rf"(?:\w+\s)?{pronoun}(?!\s*{place}(?!\w))"
    before = ""
    for clause in re.split(r"\s*(?:[.,;:!?()–—]|\s-\s)\s*", text):
        after = re.match(goes_on, clause, re.IGNORECASE) if _NAMED in before else None
        if not found(words.asking, clause[after.end() :] if after else clause):
            beside = before.endswith(_NAMED) and re.match(rf"{article}(?!\w)", clause, re.IGNORECASE)
            if after or beside or any(re.search(pattern, clause, re.IGNORECASE) for pattern in says):
                return True
        before += clause
    return False


def check_answer(kind: str, answer: str, entry: Entry) -> str | None:
    """Why an answer cannot be used, or None; arguments as in `check_question`."""
    if ODD.search(answer):
        return "answer with control tokens"
    if not answer or "\n" in answer:
        return "answer empty" if not answer else "answer has several lines"
    if answer[-1] not in ".!。！":
        return "answer cut off"
    (named, told), answer = NAMES[kind], plain_signs(answer)
    if reason := _unsaid(answer, told, entry):
        return reason
    asked = whole(getattr(entry, named), answer, keep_case=kind == "forward")
    if (said := asked.match(answer)) is None:
        return "answer does not begin by reading back what was asked"
    if re.match(r"\W*[=:]", answer[said.end() :]):
        return "answer is a formula, not a sentence"
    own = {entry.acronym, *re.findall(r"[\w/-]+", plain_signs(f"{entry.acronym} {entry.definition}"))}
    if any(token not in own for token in re.findall(r"\b[A-Z][A-Z0-9/-]+\b", answer)):
        return "answer names another acronym"
    if len(_other_words(answer, entry)) > MAX_OTHER_WORDS:
        return "answer adds facts of its own"
    return None


def _unsaid(answer: str, told: str, entry: Entry) -> str:
    """Why an answer does not tell the acronym or definition, plainly and alone; empty if it does."""
    answer = plain_signs(answer)
    if not _holds(answer, told, entry):
        return f"answer without the {told}"
    check: Check = "contains" if told == "definition" else "contains_cased"
    names = plain_signs(f"{entry.acronym}: {entry.definition}")  # stand for the question: they deny nothing
    if not is_correct(check, answer, [plain_signs(getattr(entry, told))], names):
        return f"answer denies the {told}, or offers another"
    if entry.pack.asserting is None or entry.verbose_def:
        return ""
    beside = rf"\s*,\s*(?:{'|'.join(entry.pack.asserting.articles)})(?!\w)"
    ends = (said.end() for said in whole(entry.definition, answer).finditer(answer))
    return "answer adds facts of its own" if any(re.match(beside, answer[e:], re.IGNORECASE) for e in ends) else ""


def _foreign_names(answer: str, entry: Entry) -> list[str]:
    """Words with a capital inside of sentences that the entry does not hold."""
    own = set(
        re.findall(r"[\w/-]+", plain_signs(f"{entry.acronym} {entry.definition} {entry.verbose_def} {entry.field}"))
    )
    rest = _without(_without(answer, entry.definition), entry.acronym, keep_case=True)
    return [word for word in re.findall(r"(?<=[\w,;:'] )[A-ZÀ-Ý][\w-]+", rest) if word not in own]


def _other_words(answer: str, entry: Entry) -> list[str]:
    """Words of an answer that the entry does not hold."""
    rest = _without(answer, entry.definition)
    known = set(re.findall(r"\w+", plain_signs(f"{entry.acronym} {entry.definition} {entry.verbose_def}").casefold()))
    return [word for word in re.findall(r"\w+", rest.casefold()) if word not in known]


def check_conversation(
    kind: str, form: str, turns: Sequence[tuple[str, str]], entry: Entry, asked: Sequence[str]
) -> str | None:
    """Why a conversation of a model that writes freely cannot be used, or None.

    `form`: of the language's pack. `turns`: messages of a person and of the assistant. `asked`: questions kept before.
    """
    if not turns or not all(text for turn in turns for text in turn):
        return "conversation missing or with an empty message"
    if any(ODD.search(text) for turn in turns for text in turn):
        return "conversation with control tokens"
    if len(turns) > MOST_TURNS:
        return "conversation too long"
    if reason := _question_fault(kind, [question for question, _ in turns], entry, form, asked):
        return reason
    answer, told = turns[-1][1], NAMES[kind][1]
    if answer[-1] not in ".!?…»)。！？」":
        return "answer cut off"
    if reason := _unsaid(answer, told, entry):
        return reason
    if kind == "reverse" and not _holds(answer, "definition", entry):  # "it is abbreviated" teaches far less (0018)
        return "answer without the definition"
    for person, text in turns:
        if len(person.split()) > 2 * MAX_QUESTION_WORDS + len(entry.definition.split()):
            return "question too long"
        if _foreign_names(text, entry):
            return "answer names something of its own"
        if re.search(r"\d", _without(_without(text, entry.acronym), entry.definition)):
            return "answer names a number of its own"
        if len(_other_words(text, entry)) > MAX_FREE_WORDS:
            return "answer adds facts of its own"
    return None


def as_in_glossary(answer: str, entry: Entry) -> str:
    """An answer in which acronym and definition are written letter by letter as in the glossary."""
    answer = plain_signs(answer)
    answer = whole(entry.acronym, answer, keep_case=True).sub(lambda _: entry.acronym, answer)
    return whole(entry.definition, answer).sub(lambda _: entry.definition, answer)


def _holds(text: str, named: str, entry: Entry) -> bool:
    """Whether a text holds the acronym, in its case, or the definition or field, in any case."""
    text = plain_signs(text)
    return whole(getattr(entry, named), text, keep_case=named == "acronym").search(text) is not None


def _without(text: str, words: str, *, keep_case: bool = False) -> str:
    text = plain_signs(text)
    return whole(words, text, keep_case=keep_case).sub(" ", text)


def found(words: list[str], text: str) -> bool:
    """Whether a text holds one of these words or regular expressions, whole and in any case."""
    return re.search(rf"\b(?:{'|'.join(words)})\b", text, re.IGNORECASE) is not None
