"""Finding identifying words with presidio and masking them; nothing is downloaded and no network is used.

Presidio's own e-mail and web-address recognisers ask tldextract, which would fetch a list of domains; only their
patterns are taken. A spaCy model adds names and places that stand on no roster, where one is installed.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import spacy
from presidio_analyzer import AnalyzerEngine, PatternRecognizer, RecognizerRegistry
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpEngine, NoOpNlpEngine, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    DateRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    PhoneRecognizer,
)

from helpers.dataset.roster import RosterRecognizer, ValueRecognizer, roster_words
from helpers.errors import PrivacyError

PATTERNS = Path(__file__).with_name("recognizers.yaml")
THRESHOLD = 0.4
"""Presidio's phone numbers score 0.4; its bare month/year fractions, which are doses here, 0.1 and 0.2."""
MASKS = {
    "PERSON": "[name]",
    "DATE_TIME": "[date]",
    "LOCATION": "[place]",
    "PHONE_NUMBER": "[phone]",
    "EMAIL_ADDRESS": "[email]",
    "URL": "[link]",
}
OTHER_MASK = "[id]"
NER_LABELS = {"PERSON": "PERSON", "PER": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
NER_IGNORED = (
    *("CARDINAL", "DATE", "EVENT", "LANGUAGE", "LAW", "MISC", "MONEY", "NORP", "ORDINAL", "ORG", "PERCENT"),
    *("PRODUCT", "QUANTITY", "TIME", "WORK_OF_ART"),
)
PLAIN = str.maketrans("\u2018\u2019\u02bc\u2010\u2011\u2012\u2013\u2014\u00a0\u202f\u2009", "'''-----   ")


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text, and what they give away, in presidio's words."""

    start: int
    end: int
    kind: str


LOG = logging.getLogger("presidio-analyzer")


class _RefuseTimeouts(logging.Filter):
    """Presidio skips a pattern that takes a minute, and says so in its log only: the text would stay unmasked."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "timed out" in record.msg:
            raise PrivacyError(
                "Presidio gave up on a pattern that took too long on one text (not shown), which would have stayed "
                "unmasked. Shorten very long texts, or simplify the patterns; nothing was joined."
            ) from None
        return True


LOG.addFilter(_RefuseTimeouts())


def make_analyzer(
    roster: Iterable[str], *, phone_regions: Collection[str], keep: Collection[str], ner: str | None = None
) -> AnalyzerEngine:
    """A presidio analyzer for English notes.

    Args:
        roster: cells of the holders' rosters: names, and values such as record numbers or addresses.
        phone_regions: countries whose national phone formats are found, for example FR.
        keep: words in lower case that are names too but stay, for example iris.
        ner: name or folder of a spaCy model; left out where it is not installed, see `ner_installed`.
    """
    cells = {fold(cell) for cell in roster if cell}
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.add_recognizers_from_yaml(PATTERNS)
    for recognizer in (
        DateRecognizer(),
        PhoneRecognizer(supported_regions=tuple(phone_regions)),
        CreditCardRecognizer(),
        IbanRecognizer(),
        IpRecognizer(),
        PatternRecognizer("EMAIL_ADDRESS", patterns=EmailRecognizer.PATTERNS),
        RosterRecognizer(roster_words(cells), keep),
        ValueRecognizer(cell for cell in cells if re.search(r"[\d@]", cell)),
    ):
        registry.add_recognizer(recognizer)
    engine: NlpEngine = NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
    if ner_installed(ner):
        labels = NerModelConfiguration(model_to_presidio_entity_mapping=NER_LABELS, labels_to_ignore=NER_IGNORED)
        engine = SpacyNlpEngine(
            models=[{"lang_code": "en", "model_name": ner or ""}],
            ner_model_configuration=labels,
        )
        engine.load()
        registry.add_nlp_recognizer(engine)
    return AnalyzerEngine(registry=registry, nlp_engine=engine, default_score_threshold=THRESHOLD)


def ner_installed(ner: str | None) -> bool:
    """Whether the spaCy model is there; presidio would download one that is not."""
    return bool(ner) and (spacy.util.is_package(ner or "") or Path(ner or "").is_dir())


def find_identifiers(analyzer: AnalyzerEngine, text: str) -> list[Span]:
    """Identifying spans in order of place; overlapping and adjacent ones of a kind are one.

    Raises:
        PrivacyError: presidio gave up on a pattern, or its log, which alone would say so, is switched off.
    """
    if not LOG.isEnabledFor(logging.WARNING):
        raise PrivacyError(
            "The log 'presidio-analyzer' is switched off; it alone says when presidio gives up on a pattern and leaves "
            "a text unmasked. Let warnings through (no logging.disable, no higher level) and join again."
        )
    results = analyzer.analyze(fold(text), language="en")
    spans: list[Span] = []
    for result in sorted(results, key=lambda result: (result.start, -result.end)):
        span = Span(result.start, result.end, result.entity_type)
        last = spans[-1] if spans else None
        if last and (span.start < last.end or (span.kind == last.kind and not text[last.end : span.start].strip(" ,"))):
            spans[-1] = Span(last.start, max(last.end, span.end), last.kind)
        else:
            spans.append(span)
    return spans


def mask(text: str, spans: Sequence[Span]) -> str:
    """The text with each span replaced by what it was: [name], [date], [place], [phone], [email], [link] or [id]."""
    parts, position = [], 0
    for span in spans:
        parts += [text[position : span.start], MASKS.get(span.kind, OTHER_MASK)]
        position = span.end
    return "".join([*parts, text[position:]])


def fold(text: str) -> str:
    """The text without accents, with plain apostrophes, hyphens and blanks; every character keeps its place."""
    plain = text.translate(PLAIN)
    return plain if plain.isascii() else "".join(unicodedata.normalize("NFD", character)[0] for character in plain)
