"""Identifying words: found with presidio, masked, and scored where they are known. No network is used.

Presidio's own e-mail and web-address recognisers ask tldextract, which would fetch a list of domains; only their
patterns are taken. A spaCy model adds names and places that stand on no roster, where one is installed.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import spacy
import yaml
from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer, RecognizerRegistry, RecognizerResult
from presidio_analyzer import predefined_recognizers as presidio
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpEngine, NoOpNlpEngine, SpacyNlpEngine

from helpers.data.holders.roster import RosterRecognizer, ValueRecognizer, roster_words
from helpers.errors import PrivacyError

MASKS = {
    "PERSON": "[name]",
    "DATE_TIME": "[date]",
    "LOCATION": "[place]",
    "PHONE_NUMBER": "[phone]",
    "EMAIL_ADDRESS": "[email]",
    "URL": "[link]",
}
WORDS_ONLY = ["PERSON", "DATE_TIME", "LOCATION", "EMAIL_ADDRESS", "URL"]
"""Presidio's words for what may hold neither a digit nor @; in other texts no more is looked for."""
NER_LABELS = {"PERSON": "PERSON", "PER": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
NER_IGNORED = (
    *("CARDINAL", "DATE", "EVENT", "LANGUAGE", "LAW", "MISC", "MONEY", "NORP", "ORDINAL", "ORG", "PERCENT"),
    *("PRODUCT", "QUANTITY", "TIME", "WORK_OF_ART"),
)
PLAIN = str.maketrans("‘’ʼ′´`‐‑‒–—―−·•∙⋅‧・∕⁄\t\n\r", "''''''" + "-" * 13 + "//   ")
DOSE = re.compile(r"(?i) (?=[\d.,]+ ?(?:%|(?:mg|mcg|ug|g|ml|ui|iu|tablets?|comprimes?|cp)\b))")


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text, and what they give away, in presidio's words."""

    start: int
    end: int
    kind: str


def _refuse_timeouts(record: logging.LogRecord) -> bool:
    """Presidio skips a pattern that takes a minute, and says so in its log only: the text would stay unmasked."""
    if "timed out" in record.msg:
        raise PrivacyError(
            "Presidio gave up on a pattern that took too long on one text (not shown), which would have stayed "
            "unmasked. Shorten very long texts, or simplify the patterns; nothing was joined."
        ) from None
    return True


LOG = logging.getLogger("presidio-analyzer")
LOG.addFilter(_refuse_timeouts)


def make_analyzer(
    roster: Iterable[str], *, phone_regions: Collection[str], keep: Collection[str], ner: str | None = None
) -> AnalyzerEngine:
    """A presidio analyzer for English notes.

    `roster`: names, and values such as record numbers or addresses. `phone_regions`: countries whose national formats
    are found, such as FR. `keep`: words in lower case that are names too but stay, such as iris. `ner`: name or folder
    of a spaCy model; left out where it is not installed.
    """
    cells = {fold(cell) for cell in roster if cell}
    recognizers = [
        *_patterns(),
        _Phones(supported_regions=tuple(phone_regions)),
        presidio.CreditCardRecognizer(),
        presidio.IbanRecognizer(),
        presidio.IpRecognizer(),
        PatternRecognizer("EMAIL_ADDRESS", patterns=presidio.EmailRecognizer.PATTERNS),
        RosterRecognizer(roster_words(cells), keep),
        ValueRecognizer(cell for cell in cells if re.search(r"[\d@]", cell)),
    ]
    registry = RecognizerRegistry(recognizers, supported_languages=["en"])
    engine: NlpEngine = NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
    if ner_installed(ner):
        labels = NerModelConfiguration(model_to_presidio_entity_mapping=NER_LABELS, labels_to_ignore=NER_IGNORED)
        engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": ner or ""}], ner_model_configuration=labels)
        engine.load()
        registry.add_nlp_recognizer(engine)
    return AnalyzerEngine(registry=registry, nlp_engine=engine, default_score_threshold=0.4)  # a phone's score


class _Phones(presidio.PhoneRecognizer):
    """Phone numbers of some countries and with a plus; a dose behind a number or a date is no part of it."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        few = len(re.findall(r"\d", text)) < 7  # than any phone number has: a shortcut, for most texts
        return [] if few else super().analyze(DOSE.sub(";", text), entities, nlp_artifacts)


@cache
def _patterns() -> list[PatternRecognizer]:
    """Those of recognizers.yaml, with its {WORDS} written out."""
    content = yaml.safe_load(Path(__file__).with_name("recognizers.yaml").read_text(encoding="utf-8"))

    def write_out(pattern: str) -> str:
        return re.sub(r"\{([A-Z]+)\}", lambda word: write_out(content["words"][word[1]]), pattern)

    found = []
    for entity, named in content["patterns"].items():
        score = 0.6 if entity == "ID" else 0.8
        patterns = [Pattern(name, write_out(each), score) for name, each in named.items()]
        found.append(PatternRecognizer(entity, patterns=patterns))
    return found


def ner_installed(ner: str | None) -> bool:
    """Whether the spaCy model is there; presidio would download one that is not."""
    return bool(ner and (spacy.util.is_package(ner) or Path(ner).is_dir()))


def find_identifiers(analyzer: AnalyzerEngine, text: str) -> list[Span]:
    """Identifying spans in order of place; overlapping ones, and adjacent ones of a kind, are one.

    Raises PrivacyError where presidio gave up on a pattern, or its log, which alone would say so, is switched off.
    """
    if not LOG.isEnabledFor(logging.WARNING):
        raise PrivacyError(
            "The log 'presidio-analyzer' is switched off; it alone says when presidio gives up on a pattern and leaves "
            "a text unmasked. Let warnings through (no logging.disable, no higher level) and join again."
        )
    results = analyzer.analyze(fold(text), language="en", entities=None if re.search(r"[\d@]", text) else WORDS_ONLY)
    spans = [Span(0, 0, "")]  # before the first
    for result in sorted(results, key=lambda result: (result.start, -result.end)):
        span, last = Span(result.start, result.end, result.entity_type), spans[-1]
        if span.start < last.end or (span.kind == last.kind and not text[last.end : span.start].strip(" ,")):
            spans[-1] = Span(last.start, max(last.end, span.end), last.kind)
        else:
            spans.append(span)
    return spans[1:]


def mask(text: str, spans: Sequence[Span]) -> str:
    """The text with each span replaced by what it was: [name], [date], [place], [phone], [email], [link] or [id]."""
    for span in reversed(spans):
        text = text[: span.start] + MASKS.get(span.kind, "[id]") + text[span.end :]
    return text


def fold(text: str) -> str:
    """The text without accents, with plain apostrophes, hyphens, spaces and forms; every character keeps its place."""
    plain = text.translate(PLAIN)
    return plain if plain.isascii() else "".join(map(_folded, plain))


@cache
def _folded(character: str) -> str:
    if unicodedata.category(character) == "No":  # m² is not m2
        return character
    return unicodedata.normalize("NFKD", character)[0]


def score_spans(
    texts: Sequence[str], planted: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]
) -> dict[str, Any]:
    """Compare spans text by text: `{"planted", "found", "recall", "precision", "missed", "wrong"}`.

    The first two are counts; recall and precision are 0 to 1, or None without spans; the last two count by kind.
    A planted span is found if every letter and digit of it is masked, under whatever kind. A found span is right if
    every letter and digit of it is planted. Spans lie within their texts.
    """
    missed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for text, true, masked in zip(texts, planted, found, strict=True):
        identifying, hidden = characters(text, true), characters(text, masked)
        missed.update(span.kind for span in true if not characters(text, [span]) <= hidden)
        wrong.update(span.kind for span in masked if not characters(text, [span]) <= identifying)
    n_planted, n_found = sum(map(len, planted)), sum(map(len, found))
    return {
        "planted": n_planted,
        "found": n_found,
        "recall": 1 - missed.total() / n_planted if n_planted else None,
        "precision": 1 - wrong.total() / n_found if n_found else None,
        "missed": dict(missed.most_common()),
        "wrong": dict(wrong.most_common()),
    }


def characters(text: str, spans: Sequence[Span]) -> set[int]:
    """The places of the letters and digits in these spans."""
    return {place for span in spans for place in range(span.start, span.end) if text[place].isalnum()}
