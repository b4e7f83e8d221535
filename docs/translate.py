"""The course in French: its passages in PO files, and pages and notebooks made from them.

    python docs/translate.py update   # after a change of the English: what is new waits in the PO files, empty
    python docs/translate.py build    # write the French pages and notebooks into docs/fr/

A passage is a paragraph, a list or a table of a page or of a notebook's text. Code stays as it is. Links from terms to
their meaning are no part of it: each language finds where its own terms are first used.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import polib
from link_terms import LINK as TERM
from link_terms import link, slug, terms

from helpers.notebooks import relinked

ROOT = Path(__file__).resolve().parent.parent
FRENCH = ROOT / "docs" / "fr"
TERMS = ROOT / "docs" / "terms.md"
PAGES = [
    path
    for name in ("README", "docs/terms", "docs/cheat_sheet", "docs/instructors", "docs/slides")
    if (path := ROOT / f"{name}.md").exists()
]
NOTEBOOKS = sorted(ROOT.glob("0*/*.ipynb"))
BETWEEN = re.compile(r"(^[ ]*```python.*?^[ ]*```[^\n]*$|\n{2,})", re.MULTILINE | re.DOTALL)
COLAB = re.compile(r"(?<=/blob/main/)0[^)\s]+\.ipynb")
ANCHOR = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]*)#([^)\s]+)(?=\))")


def passages(path: Path) -> Iterator[str]:
    """What there is to translate in a page or notebook, each passage once, in order."""
    seen: dict[str, None] = {}
    for text in _texts(path):
        seen.update(dict.fromkeys(filter(None, map(_passage, BETWEEN.split(text)[::2]))))
    yield from seen


def french(path: Path) -> dict[str, str]:
    """The translated passages of a page or notebook, by their English."""
    return {entry.msgid: entry.msgstr for entry in _po(path) if entry.msgstr and not entry.obsolete}


def missing(path: Path) -> list[str]:
    """Passages that are new, or whose English changed since the French was written."""
    known = french(path)
    return [passage for passage in passages(path) if passage not in known]


def update(path: Path) -> None:
    """Bring a PO file in step with the English; French without its English is kept at the end, marked obsolete."""
    known = {entry.msgid: entry.msgstr for other in [*PAGES, *NOTEBOOKS, path] for entry in _po(other) if entry.msgstr}
    found, old = list(passages(path)), _po(path)
    new = polib.POFile(wrapwidth=0)
    new.metadata = {"Language": "fr", "Content-Type": "text/plain; charset=UTF-8"}
    new.extend(polib.POEntry(msgid=passage, msgstr=known.get(passage, "")) for passage in found)
    gone = [entry for entry in old if entry.msgstr and entry.msgid not in found]
    new.extend(polib.POEntry(msgid=entry.msgid, msgstr=entry.msgstr, obsolete=True) for entry in gone)
    _po_path(path).parent.mkdir(parents=True, exist_ok=True)
    new.save(str(_po_path(path)))


def translated(text: str, path: Path, known: dict[str, str]) -> str:
    """The French of a text of a page or notebook, with links that fit its new place."""
    pieces = BETWEEN.split(TERM.sub(r"\1", text))
    pieces[::2] = [piece.replace(p, known.get(p, p), 1) if (p := _passage(piece)) else piece for piece in pieces[::2]]
    text = COLAB.sub(r"docs/fr/\g<0>", "".join(pieces))
    text = ANCHOR.sub(lambda link: f"{link[1]}#{_french_anchor(link[1], link[2], path)}", text)
    return relinked(text, path.relative_to(ROOT).as_posix(), lambda target: _moved(ROOT / target, path))


def built(path: Path) -> str:
    """The French file of a page or notebook."""
    known = french(path)
    if path.suffix == ".md":
        return translated(path.read_text("utf-8"), path, known)
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    page = Path(os.path.relpath(destination(TERMS), destination(path).parent)).as_posix()
    texts = link([translated(cell.source, path, known) for cell in cells], terms(built(TERMS)), page)
    for cell, text in zip(cells, texts, strict=True):
        cell.source = text
    return str(nbformat.writes(notebook)) + "\n"


def destination(path: Path) -> Path:
    """Where the French of a page or notebook belongs."""
    return FRENCH / str(path.relative_to(ROOT)).removeprefix("docs/")


def _texts(path: Path) -> list[str]:
    if path.suffix == ".md":
        return [path.read_text("utf-8")]
    cells = nbformat.read(path, as_version=4).cells
    return [TERM.sub(r"\1", cell.source) for cell in cells if cell.cell_type == "markdown"]


def _passage(piece: str) -> str:
    """A piece of text without the space around it; empty where it has no word."""
    return piece.strip() if re.search(r"[^\W\d_]{2}", re.sub(r"<[^>]*>", "", piece)) else ""


def _moved(aimed: Path, path: Path) -> str:
    own = aimed.parent / "fr" / aimed.name  # a picture with French words
    new = destination(aimed) if aimed in {*PAGES, *NOTEBOOKS} else own if own.exists() else aimed
    if aimed == destination(path):  # the English page leads to the French one, and the other way round
        new = path
    return Path(os.path.relpath(new, destination(path).parent)).as_posix()


def _french_anchor(target: str, anchor: str, path: Path) -> str:
    aimed = (path.parent / target).resolve() if target else path
    return _anchors(aimed).get(anchor, anchor) if aimed in {*PAGES, *NOTEBOOKS} else anchor


@cache
def _anchors(path: Path) -> dict[str, str]:
    """Anchors of a page's or notebook's headings, English to French."""
    headings = re.compile("#+ .*")
    found = ((headings.match(english), headings.match(other)) for english, other in french(path).items())
    return {slug(one[0].lstrip("# ")): slug(two[0].lstrip("# ")) for one, two in found if one and two}


def _po_path(path: Path) -> Path:
    return FRENCH / "po" / f"{path.stem}.po"


def _po(path: Path) -> polib.POFile:
    return polib.pofile(str(_po_path(path))) if _po_path(path).exists() else polib.POFile()


if __name__ == "__main__":
    for each in [*PAGES, *NOTEBOOKS]:
        if sys.argv[1:] == ["update"]:
            update(each)
            print(f"{each.relative_to(ROOT)}: {len(missing(each))} passages wait for their French")
        elif sys.argv[1:] == ["build"]:
            destination(each).parent.mkdir(parents=True, exist_ok=True)
            destination(each).write_text(built(each), "utf-8")
        else:
            sys.exit(__doc__)
