"""Read a glossary of acronyms and say clearly what is wrong with one that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.data.languages.pack import DEFAULT, Pack, load_pack, recognise
from helpers.errors import GlossaryError

KEYS = ("acronym", "definition", "verbose_def", "field")
_SIGNS = str.maketrans("’‘ʼ´`“”„‐‑", "'''''\"\"\"--")
SHAPE = '[{"acronym": "...", "definition": "...", "verbose_def": "...", "field": "..."}], the last two optional'


@dataclass(frozen=True)
class Entry:
    """One meaning of one acronym."""

    id: str
    acronym: str
    definition: str
    verbose_def: str = ""
    field: str = ""
    ambiguous: bool = False
    """True where the glossary gives this acronym another meaning too, so that questions must name the field."""
    pack: Pack = dataclasses.field(default_factory=load_pack, repr=False)
    """The language in which questions about it are asked."""

    @property
    def where(self) -> str:
        """The words that tell two meanings apart, with a leading space; empty where there is only one."""
        return self.pack.where.replace("{field}", self.field) if self.ambiguous else ""


def plain_signs(text: str) -> str:
    """The text with composed accents (Unicode's NFC), straight apostrophes and quotation marks, and plain hyphens."""
    return unicodedata.normalize("NFC", text).translate(_SIGNS)


def is_glossary(path: str) -> bool:
    """Whether a JSON file is a list whose first row has an acronym and a definition."""
    try:
        rows = _read_rows(Path(path))
    except GlossaryError:
        return False
    return bool(rows) and isinstance(rows[0], dict) and {"acronym", "definition"} <= rows[0].keys()


def load_glossary(path: Path, max_entries: int | None = None, language: str | None = None) -> list[Entry]:
    """Read `[{"acronym", "definition", "verbose_def"?, "field"?}]` from a JSON file, with or without a BOM.

    White space inside a value is folded to single spaces; a row that repeats another is read once. With `max_entries`,
    only the first so many entries are kept. Questions are asked in `language`, the name or file of a pack; else in
    that of the definitions where there is a pack for it, and in English where there is none.

    Raises:
        ConfigError: there is no such pack, or it has mistakes.
        GlossaryError: the file is missing, is not a JSON list of such objects, or contradicts itself; the
            message lists up to ten mistakes.
    """
    rows = _read_rows(path)
    mistakes: list[str] = []
    meanings: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}
    for number, row in enumerate(rows, start=1):
        if problem := _problem(row):
            mistakes.append(f"entry {number}: {problem}")
            continue
        values = {key: " ".join((row.get(key) or "").split()) for key in KEYS}
        key = (plain_signs(values["acronym"]), plain_signs(values["field"]))
        first, known = meanings.setdefault(key, (number, values))
        if plain_signs(known["definition"]).casefold() != plain_signs(values["definition"]).casefold():
            mistakes.append(
                f"entry {number}: '{values['acronym']}' means '{values['definition']}' here but "
                f"'{known['definition']}' in entry {first}; give each meaning a 'field' of its own, or keep one"
            )
    for acronym, number in Counter(acronym for acronym, _ in meanings).items():
        if number > 1 and (acronym, "") in meanings:
            mistakes.append(f"'{acronym}' has {number} meanings and one lacks a 'field' to tell them apart")
    if mistakes:
        shown = "\n".join(f"  {mistake}" for mistake in mistakes[:10])
        more = f"\n  and {len(mistakes) - 10} more" if len(mistakes) > 10 else ""
        raise GlossaryError(f"The glossary {path.name} has {len(mistakes)} mistake(s):\n{shown}{more}\nCorrect them.")
    if not meanings:
        raise GlossaryError(f"The glossary {path.name} is empty. Expected at least one entry: {SHAPE}.")
    kept = [values for _, values in meanings.values()][:max_entries]
    counts = Counter(plain_signs(values["acronym"]) for values in kept)
    texts = (f"{values['definition']} {values['verbose_def']}" for _, values in meanings.values())
    pack, entries = load_pack(language or recognise(texts) or DEFAULT), []
    for values in kept:
        ambiguous = counts[plain_signs(values["acronym"])] > 1
        identity = f"{values['acronym']} ({values['field']})" if ambiguous else values["acronym"]
        entries.append(Entry(id=identity, ambiguous=ambiguous, pack=pack, **values))
    return entries


def _read_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise GlossaryError(f"There is no glossary at {path}. Pass GLOSSARY=path/to/file.json.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GlossaryError(f"The glossary {path} cannot be read as UTF-8 text: {error}.") from None
    except ValueError as error:  # also of a number of thousands of digits
        raise GlossaryError(f"The glossary {path.name} is not JSON: {error}.") from None
    except RecursionError:
        raise GlossaryError(f"The glossary {path.name} is nested too deeply; expected a list: {SHAPE}.") from None
    if not isinstance(rows, list):
        raise GlossaryError(f"The glossary {path.name} holds a {type(rows).__name__}; expected a list: {SHAPE}.")
    return rows


def _problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, received {row!r:.60}"
    if unknown := sorted(row.keys() - KEYS):
        return f"unknown key(s) {', '.join(map(str, unknown))}; allowed are {', '.join(sorted(KEYS))}"
    for key in KEYS:
        value, needed = row.get(key) or "", key in ("acronym", "definition")
        if not isinstance(value, str) or (needed and not value.strip()):
            return f"'{key}' must be a text{' that is not empty' * needed}, received {row.get(key)!r:.60}"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"'{key}' holds half a character (an unpaired \\ud800 to \\udfff), received {value!r:.60}"
    return None
