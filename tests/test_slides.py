"""The slides of docs/slides.md: short, each with notes and a notebook, and with the figures of the first page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "slides.md").read_text("utf-8")
SLIDES = TEXT.split("\n---\n")


def rows(text: str) -> list[list[str]]:
    """The cells of each row of a text's tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_there_are_as_many_slides_as_the_instructors_are_told() -> None:
    assert len(SLIDES) == 30
    assert "thirty [slides](slides.md)" in (ROOT / "docs" / "instructors.md").read_text("utf-8")


@pytest.mark.parametrize("slide", SLIDES, ids=lambda slide: re.findall(r"^#+ (.+)$", slide, re.MULTILINE)[0])
def test_a_slide_is_short_and_has_notes_and_a_notebook(slide: str) -> None:
    shown, _, notes = slide.partition("\nNotes: ")
    assert len(re.findall(r"^#+ ", slide, re.MULTILINE)) == 1 and len(notes.split()) > 20
    assert len(re.findall(r"^\[[^]]+]\(\.\./0\S+\.ipynb\S*\)$", shown, re.MULTILINE)) == 1
    read = re.sub(r"!\[[^]]*]\([^)]*\)|]\([^)]*\)", "", shown)
    assert len(re.findall(r"[\w.,%'-]*\w[\w.,%'-]*", read)) <= 40


def test_the_tables_have_the_figures_of_the_first_page() -> None:
    there = rows((ROOT / "README.md").read_text("utf-8"))
    figures = [row for row in rows(TEXT) if re.match(r"[01]\.\d", row[1])]
    assert len(figures) == 10
    for model, *rates in figures:
        known = [cell for row in there if row[0].startswith(model) for cell in row[1:]]
        assert all(any(cell.startswith(rate) for cell in known) for rate in rates), (model, rates)


def test_slides_become_sections_with_notes_that_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mmdr", reason="make site installs it")
    pytest.importorskip("sphinx_revealjs", reason="make site installs it")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site_source")
    import build

    build.slides("# A\n\nOne.\n\nNotes: Say it.\n\n---\n\n## B\n\n![p](docs/pictures/lora.svg)\n", "en", tmp_path / "a")
    page = (tmp_path / "a" / "slides.html").read_text("utf-8")
    assert page.count("<section>") == 2 and '<aside class="notes"><p>Say it.</p>\n</aside>' in page
    assert "<title>A</title>" in page and 'src="_images/lora.svg"' in page
    for loaded in re.findall(r'(?:src|<link rel="stylesheet" href)="(?!_images)([^"]+)"', page):
        assert (tmp_path / "a" / loaded).is_file()
