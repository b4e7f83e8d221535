"""The French of pages and notebooks: in step with the English, passage by passage."""

import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import translate  # noqa: E402

KEPT = re.compile(r"`[^`]+`|\]\([^)]*\)|https?://[^\s)\"]+|^ *[-#|]", re.MULTILINE)
ALL = [*translate.PAGES, *translate.NOTEBOOKS]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_passage_has_its_french(path: Path) -> None:
    waiting = [passage[:80] for passage in translate.missing(path)]
    assert not waiting, f"Without French: run python docs/translate.py update, then fill docs/fr/po/{path.stem}.po."


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_code_links_and_tables_are_those_of_the_english(path: Path) -> None:
    for english, french in translate.french(path).items():
        if english.startswith("```"):
            continue  # comments of commands and labels of drawings are translated
        assert Counter(KEPT.findall(english)) == Counter(KEPT.findall(french)), french


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_french_pages_and_notebooks_are_built_from_their_passages(path: Path) -> None:
    written = translate.destination(path).read_text("utf-8")
    assert written == translate.built(path), "Run python docs/translate.py build."


def test_a_changed_passage_is_named_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "FRENCH", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# One\n\nTwo words.\n\n```python\ncode = 1\n\nmore = 2\n```\n", "utf-8")
    translate.update(page)
    assert translate.missing(page) == ["# One", "Two words."]
    po = translate.FRENCH / "po" / "page.po"
    po.write_text(
        po.read_text("utf-8").replace('"Two words."\nmsgstr ""', '"Two words."\nmsgstr "Deux mots."'), "utf-8"
    )
    assert translate.missing(page) == ["# One"]
    page.write_text("# One\n\nTwo other words.\n", "utf-8")
    assert translate.missing(page) == ["# One", "Two other words."]
    translate.update(page)
    assert "Deux mots." in po.read_text("utf-8")  # for whoever translates the change


def test_a_french_notebook_has_the_same_code_and_links_that_lead_somewhere() -> None:
    for path in translate.NOTEBOOKS:
        made = nbformat.reads(translate.built(path), as_version=4)
        english = nbformat.read(path, as_version=4)
        for one, other in zip(english.cells, made.cells, strict=True):
            assert one.cell_type == "markdown" or one == other
            if one.cell_type == "markdown":
                for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", other.source):
                    aimed = (translate.destination(path).parent / target).resolve()
                    assert aimed.exists() or aimed in map(translate.destination, ALL), target


@cache
def french_anchors(path: Path) -> set[str]:
    built = translate.built(path)
    cells = [cell.source for cell in nbformat.reads(built, 4).cells] if path.suffix == ".ipynb" else [built]
    return {translate.slug(line) for cell in cells for line in re.findall("^#+ (.+)$", cell, re.MULTILINE)}


@pytest.mark.parametrize("path", translate.PAGES, ids=lambda path: path.stem)
def test_links_of_a_french_page_lead_to_french_headings(path: Path) -> None:
    there = {translate.destination(each): each for each in ALL}
    for target, anchor in translate.ANCHOR.findall(translate.built(path)):
        aimed = (translate.destination(path).parent / target).resolve() if target else translate.destination(path)
        assert aimed not in there or anchor in french_anchors(there[aimed]), f"{target}#{anchor}"


def test_terms_of_a_french_notebook_lead_to_the_french_page() -> None:
    known = translate.terms(translate.built(translate.TERMS))
    for path in translate.NOTEBOOKS:
        found = re.findall(r"\(\.\./terms\.md#([^)]*)\)", translate.built(path))
        assert len(found) >= 3 and {*found} <= {*known}, path.name
