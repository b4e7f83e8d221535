"""Links of notebooks and pages lead to files and headings, along the three routes, and from terms to their meaning."""

import importlib.util
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("0*/*.ipynb"))
WRITTEN = [*ROOT.glob("*.md"), *ROOT.glob("0*/*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md")]
PAGES = sorted([*NOTEBOOKS, *WRITTEN])
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


terms = load(ROOT / "docs" / "link_terms.py")


def cells(path: Path) -> list[str]:
    """The texts of a page: the Markdown cells of a notebook, or the whole of a Markdown file."""
    text = path.read_text("utf-8")
    if path.suffix != ".ipynb":
        return [text]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]


@cache
def anchors(path: Path) -> set[str]:
    return {terms.slug(heading) for text in cells(path) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def targets(path: Path, text: str) -> list[tuple[Path, str]]:
    """File and anchor of each relative link of a text that stands in `path`."""
    found = [link.partition("#") for link in LINK.findall(CODE.sub("", text)) if not re.match(r"https?:|mailto:", link)]
    return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in found]


def wrong_links(path: Path, text: str) -> list[str]:
    return [
        f"{file}#{anchor}"
        for file, anchor in targets(path, text)
        if not file.is_file() or (anchor and anchor not in anchors(file))
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(path: Path) -> None:
    text = "\n".join(cells(path))
    assert wrong_links(path, text) == []
    assert not re.search(r"!\[[^\]]*\]\(https?:", text), "a picture from elsewhere is missing without a network"


def test_wrong_links_are_seen() -> None:
    page = ROOT / "README.md"
    for link in ("conf", "conf/missing.yaml", "docs/terms.md#no-such-term", "#nowhere"):
        assert len(wrong_links(page, f"[x]({link}) [y](docs/terms.md#lora)")) == 1, link


def test_links_from_the_first_page_reach_every_notebook() -> None:
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen:
            continue
        seen.add(page)
        ahead += [file for text in cells(page) for file, _ in targets(page, text) if file.suffix in (".md", ".ipynb")]
    assert {*NOTEBOOKS} <= seen


def routes() -> dict[str, list[Path]]:
    """The notebooks of each route, in order, as the table of the first page has them."""
    page = ROOT / "README.md"
    table = cells(page)[0].split("| You have |")[1].split("\n\n")[0]
    return {row.split("|")[1].strip(): [file for file, _ in targets(page, row)] for row in table.splitlines()[2:]}


def test_each_notebook_ends_with_the_next_one_of_its_routes() -> None:
    for route, notebooks in routes().items():
        assert len(notebooks) >= 3, route
        for one, following in pairwise([NOTEBOOKS[0], *notebooks]):
            *_, last = cells(one)
            lines = last.partition("## Where to go next")[2].splitlines()
            named = [line for line in lines if line.lower().startswith(f"- **{route.lower()}**: ")]
            assert [file for line in named for file, _ in targets(one, line)][:1] == [following], (route, one.name)


def test_the_first_notebook_states_the_same_routes() -> None:
    table = cells(ROOT / "README.md")[0].split("| You have |")[1].split("\n\n")[0]
    rows = [row.replace("](", "](../") for row in table.splitlines()[2:]]
    assert all(any(row in text for text in cells(NOTEBOOKS[0])) for row in rows)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_how_long_it_takes(path: Path) -> None:
    first = cells(path)[0]
    assert re.search(r"Expect (about )?\d+ (minutes?|seconds) and", first), "minutes to run, and memory"
    assert re.search(r"\d+ minutes to read and try|Reading and trying take about", first), "minutes to read and try"


def test_terms_are_linked_where_they_are_first_used() -> None:
    page = ROOT / "docs" / "terms.md"
    wrong = terms.update(NOTEBOOKS, page, "../docs/terms.md", check=True)
    assert wrong == [], "run: python docs/link_terms.py"
    texts = [
        "## Loss\n`loss` ![loss](a.svg) [its loss](b.md), a loss mask. QLoRA",
        "Losses, lossless. The loss, the [loss](../docs/terms.md#old).",
        "## Go deeper\nOn *LoRA*.\n\n## Where to go next\nLoRA",
    ]
    linked = terms.link(texts, terms.terms(page.read_text("utf-8")), "t.md")
    assert linked[0] == texts[0].replace("loss mask", "[loss mask](t.md#loss-mask)").replace(
        "QLoRA", "[QLoRA](t.md#qlora)"
    )
    assert linked[1] == "Losses, lossless. The [loss](t.md#loss), the loss."
    assert linked[2] == texts[2].removesuffix("LoRA") + "[LoRA](t.md#lora)"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_folded_cells_are_folded_everywhere(path: Path) -> None:
    """JupyterLab folds by `source_hidden`, sites that are built from notebooks by the tag `hide-input`."""
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        tags, hidden = {*cell["metadata"].get("tags", [])}, cell["metadata"].get("jupyter", {}).get("source_hidden")
        assert ("hide-input" in tags) == bool(hidden), cell["source"]
        assert hidden or not tags & {"colab", "check"}, cell["source"]
