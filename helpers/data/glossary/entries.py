"""Read a glossary of acronyms and say clearly what is wrong with one that cannot be used."""

import dataclasses
import json
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.data.languages.pack import DEFAULT, Pack, load_pack, recognise
from helpers.data.table.conversations import NOTHING
from helpers.data.table.files import FORMATS, decode, plain_name, read_rows
from helpers.errors import DataError, GlossaryError
from helpers.files import Record
from helpers.progress import say_once

KEYS = ("acronym", "definition", "verbose_def", "field")
_SIGNS = str.maketrans("’‘ʼ´`“”„‐‑", "'''''\"\"\"--")
SHAPE = '[{"acronym": "...", "definition": "...", "verbose_def": "...", "field": "..."}], the last two optional'
NAMES = {
    "acronym": ("acronym", "acronyme", "sigle", "abbreviation", "abreviation"),
    "definition": ("definition", "signification", "meaning"),
    "verbose_def": ("verbose_def", "description", "explication", "explanation"),
    "field": ("field", "domain", "domaine", "service"),
}
"""Names of keys and columns, whatever their case and accents."""


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
    """Whether the first row of a file has an acronym and a definition."""
    try:
        rows = _read_rows(Path(path))
    except GlossaryError:
        return False
    return bool(rows) and isinstance(rows[0], dict) and {"acronym", "definition"} <= rows[0].keys()


UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\xad\u200b\u2060\ufeff]")
"""Control characters, soft hyphens and spaces without width; signs that join letters in some scripts stay."""


def load_glossary(path: Path, max_entries: int | None = None, language: str | None = None) -> list[Entry]:
    """Read `[{"acronym", "definition", "verbose_def"?, "field"?}]` from a JSON file, or a table with such columns.

    White space inside a value is folded to single spaces; a row that repeats another is read once. With `max_entries`,
    only the first so many entries are kept, and that is said. Questions are asked in `language`, the name or file of a
    pack; else in that of the definitions where there is a pack for it, and in English where there is none.

    Raises ConfigError where there is no such pack, or it has mistakes; GlossaryError, with up to ten mistakes, where
    the file is missing, is neither a JSON list of such objects nor such a table, or contradicts itself.
    """
    rows = _read_rows(path)
    mistakes: list[str] = []
    meanings: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}
    for number, row in enumerate(rows, start=1):
        if problem := _problem(row):
            mistakes.append(f"entry {number}: {problem}")
            continue
        values = {key: " ".join(UNSEEN.sub("", row.get(key) or "").split()) for key in KEYS}
        key = (plain_signs(values["acronym"]), plain_signs(values["field"]).casefold())
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
    if len(kept) < len(meanings):
        say_once(
            f"Using the first {len(kept)} of {len(meanings)} entries: dataset.max_entries (null, in Python None, takes "
            "all)."
        )
    counts = Counter(plain_signs(values["acronym"]) for values in kept)
    texts = (f"{values['definition']} {values['verbose_def']}" for _, values in meanings.values())
    pack, entries = load_pack(language or recognise(texts) or DEFAULT), []
    for values in kept:
        ambiguous = counts[plain_signs(values["acronym"])] > 1
        identity = f"{values['acronym']} ({values['field']})" if ambiguous else values["acronym"]
        entries.append(Entry(id=identity, ambiguous=ambiguous, pack=pack, **values))
    return entries


def _read_rows(path: Path) -> list[Any]:
    """Rows of a JSON list or of a table; the names in `NAMES` are replaced by those in `KEYS`."""
    form = path.suffix.lower().removeprefix(".")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise GlossaryError(f"There is no glossary at {path}. Pass GLOSSARY=path/to/file.") from None
    except OSError as error:
        raise GlossaryError(f"The glossary {path} cannot be read: {error.strerror}.") from None
    if form in ("xls", "xlsm", "ods", "numbers", "docx"):
        raise GlossaryError(f"The glossary {path.name} cannot be read. Save it as xlsx or csv.")
    if form in FORMATS and form != "json":
        try:
            return _named(path.name, read_rows(content, path.name, form, wanted=[*sum(NAMES.values(), ())]))
        except DataError as error:
            what = re.split(r"; give its encoding| Say which", str(error))[0].removesuffix(".")
            what += ")" * (what.count("(") - what.count(")"))
            raise GlossaryError(f"The glossary cannot be read: {what}. Save it alone as a csv in UTF-8.") from None
    try:
        rows = json.loads(decode(content))
    except UnicodeError:
        raise GlossaryError(f"The glossary {path.name} is neither UTF-8 nor plain cp1252. Save it as UTF-8.") from None
    except ValueError as error:  # also of a number of thousands of digits
        raise GlossaryError(f"The glossary {path.name} is not JSON: {error}. Expected a list: {SHAPE}.") from None
    except RecursionError:
        raise GlossaryError(f"The glossary {path.name} is nested too deeply; expected a list: {SHAPE}.") from None
    if not isinstance(rows, list):
        raise GlossaryError(f"The glossary {path.name} holds a {type(rows).__name__}; expected a list: {SHAPE}.")
    return [_renamed(path.name, row) if isinstance(row, dict) else row for row in rows]


def _named(name: str, rows: list[Record]) -> list[Record]:
    """Rows of a table with the glossary's keys; empty cells count as missing, and other columns are named and left."""
    renamed = [_renamed(name, row) for row in rows]
    if rows and not {"acronym", "definition"} <= renamed[0].keys():
        raise GlossaryError(
            f"{name} has the columns {', '.join(map(str, rows[0]))}; a glossary needs acronym and definition. Rename "
            "the columns, or give a table of questions and answers as DATA=."
        )
    if unused := sorted({key for row in renamed for key in row} - {*KEYS}):
        print(f"{name}: columns that are not read: {', '.join(unused)}.")
    filled = [{key: told for key, cell in row.items() if (told := _told(cell)) is not None} for row in renamed]
    return [{key: row[key] for key in KEYS if key in row} for row in filled if row]


def _told(cell: Any) -> Any:
    """A cell: None where it is empty, a whole number as text, since an acronym may be one; what is no text is kept."""
    if cell is None or cell != cell or (isinstance(cell, str) and cell.strip().casefold() in NOTHING):
        return None
    if isinstance(cell, int | float) and not isinstance(cell, bool) and cell % 1 == 0:
        return str(int(cell))
    return cell


def _renamed(name: str, row: Record) -> Record:
    """A row with the names in `NAMES` replaced by `KEYS`; of two names of a key, the exact one counts, else the first.

    Raises GlossaryError where two could be the acronym or the definition.
    """
    known = {other: key for key, others in NAMES.items() for other in others}
    titles: dict[str, list[str]] = defaultdict(list)
    for title in row:
        titles[known.get(plain_name(title), "")].append(title)
    found: Record = {title: row[title] for title in titles.pop("", [])}
    for key, several in titles.items():
        if len(several) > 1 and key not in several and key in KEYS[:2]:
            raise GlossaryError(
                f"The glossary {name}: {' and '.join(map(repr, several))} could both be the {key}. Call "
                f"the right one {key}."
            )
        chosen = key if key in several else several[0]
        found |= {key if title == chosen else title: row[title] for title in several}
    return found


def _problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, received {row!r:.60}"
    if unknown := sorted(row.keys() - KEYS):
        return f"unknown key(s) {', '.join(map(str, unknown))}; allowed are {', '.join(sorted(KEYS))}"
    for key in KEYS:
        value, needed = row.get(key) or "", key in ("acronym", "definition")
        if not isinstance(value, str) or (needed and not value.strip()):
            whose = f" of {row['acronym']!r:.40}" if key != "acronym" and row.get("acronym") else ""
            return f"'{key}'{whose} must be a text{' that is not empty' * needed}, received {row.get(key)!r:.60}"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"'{key}' holds half a character (an unpaired \\ud800 to \\udfff), received {value!r:.60}"
    return None
