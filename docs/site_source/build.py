"""Build the site of the course: its pages, and its notebooks with what they showed in a run.

    python docs/site_source/build.py [--run runs/cpu-...] [--private runs/cpu-...] [--language fr] [--to docs/site]

Without --run and --private it takes the newest runs, those of `smoke` aside. Only cells that are still as they were run
show something.
With --language fr it takes the French of docs/fr/po/, and writes to docs/site/fr/.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template

import mmdr
import nbformat
from markdown_it import MarkdownIt

from helpers.config import PROJECT_ROOT as ROOT
from helpers.files import read_json
from helpers.notebooks import GLOSSARY_NOTEBOOKS, PRIVATE_NOTEBOOKS, executed_name, keep_last_states, relinked

HERE = Path(__file__).parent
REPOSITORY = (ROOT / "00-set_up" / "repository_url").read_text("utf-8").strip()
NOTEBOOKS = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("0*/*.ipynb"))]
TEXTS = ["README.md", "docs/terms.md", "docs/cheat_sheet.md", "docs/instructors.md"]
SLIDES = "docs/slides.md"
SHOWN = {
    "en": "The notebooks show what these runs gave; their reports:",
    "fr": "Les notebooks montrent ces exécutions ; rapports :",
}
REPORTS = {"report.html": "", "private/report.html": "", "models/private/privacy_report.html": "-privacy"}
"""Pages of a run folder, and what the site adds to the run's name for theirs."""


def newest(notebook: str) -> Path | None:
    """The run that executed a notebook last; what `smoke` learns in a few steps is nothing to show."""
    manifests = (ROOT / "runs").glob("*-*/manifest.json")
    runs = [path.parent for path in manifests if read_json(path)["profile"] != "smoke"]
    executed = [path for run in runs if (path := run / "notebooks" / executed_name(notebook)).exists()]
    return max(executed, key=lambda path: path.stat().st_mtime).parents[1] if executed else None


def address(target: str, page: str, pages: Mapping[str, str]) -> str:
    """What a page writes to link to a file of the course: a page or picture of the site, else the repository."""
    if target in pages or Path(target).suffix in {".svg", ".png"}:
        return os.path.relpath(pages.get(target, target), Path(page).parent)
    return f"{REPOSITORY}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}"


def drawn(text: str, page: Path) -> str:
    """Markdown with Mermaid diagrams as pictures beside the page, and without pictures from a network."""
    for diagram in re.findall(r"```mermaid\n.*?```", text, re.DOTALL):
        picture = page.with_name(f"{page.stem}_{zlib.crc32(diagram.encode())}.png")
        picture.write_bytes(mmdr.render(diagram[11:-3]).png(width=1400, background="#ffffff"))
        text = text.replace(diagram, f"![Diagram]({picture.name})")
    return re.sub(r"!\[([^]]*)]\(https?:[^)]*\)", r"\1", text)


def without_places(text: str, run: Path) -> str:
    """A notebook's text without the folders of this machine, wherever the run folder lies."""
    for folder in {run.parent.parent, ROOT} - {Path(run.anchor)}:
        text = text.replace(f"{folder}/", "")
    return text.replace(f"{Path.home()}/", "~/")


def refused(runs: list[Path], to: Path) -> str:
    """Why no site can be made of runs, or written to a folder; empty where both may be."""
    for run in runs:
        if not (run / "manifest.json").is_file() or not [*run.glob("notebooks/*.ipynb")]:
            return f"{run} is no run with executed notebooks. Give the folder of one, such as runs/cpu-1a2b3c4d."
    if to.exists() and not (to.is_dir() and ((to / "_static").is_dir() or not [*to.iterdir()])):
        return f"{to} holds something else than a site, and would be emptied. Give a new or empty folder."
    return ""


def with_outputs(name: str, runs: list[Path]) -> nbformat.NotebookNode:
    """A notebook as it is now, with what those of its cells showed that have not changed since; checks are folded."""
    notebook = nbformat.read(ROOT / name, as_version=4)
    ran, changed = {}, 0
    for run in runs:
        if (path := run / "notebooks" / executed_name(name)).exists():
            text = without_places(path.read_text("utf-8"), run)
            for page, more in REPORTS.items():
                text = text.replace(f"href='../{page}'", f"href='../{run.name}{more}.html'")
            ran = {cell.id: cell for cell in nbformat.reads(text, 4).cells}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            continue
        if cell.id in ran and ran[cell.id].source == cell.source:
            cell.outputs = ran[cell.id].outputs
        changed += bool(ran) and not (cell.id in ran and ran[cell.id].source == cell.source)
        tags = cell.metadata.setdefault("tags", [])
        if folded := {"colab", "check"} & {*tags}:
            tags.append("hide-cell")
            cell.metadata["mystnb"] = {"code_prompt_show": folded.pop().capitalize(), "code_prompt_hide": "–"}
        elif cell.metadata.get("jupyter", {}).get("source_hidden"):
            tags.append("hide-input")
    print(f"{name}: {f'{changed} cells have changed since the run' if ran else 'no run has executed it'}")
    keep_last_states(notebook)
    return notebook


def lay_out(stage: Path, language: str, runs: list[Path]) -> None:
    """Write what Sphinx reads into the folder `stage`."""
    if language == "fr":
        sys.path.insert(0, str(ROOT / "docs"))
        import translate
    texts = [name for name in TEXTS if (ROOT / name).exists()]
    pages = {name: "index.md" if name == "README.md" else name for name in [*NOTEBOOKS, *texts]}
    names = [*pages, SLIDES]
    places = {name: f"docs/{language}/{name.removeprefix('docs/')}" if language != "en" else name for name in names}
    there = pages | {places[name]: pages[name] for name in pages}

    def linked(text: str, page: str, pages: Mapping[str, str]) -> str:
        if language == "fr":
            text = translate.translated(text, ROOT / name, translate.french(ROOT / name))
        return relinked(text, places[name], partial(address, page=page, pages=pages))

    def said(text: str) -> str:
        return drawn(linked(text, name, there), page)

    for name in pages:
        page = stage / pages[name]
        page.parent.mkdir(parents=True, exist_ok=True)
        if name in texts:
            shown = contents(texts[1:], runs, SHOWN[language]) if name == "README.md" else ""
            page.write_text(said((ROOT / name).read_text("utf-8")) + shown, "utf-8")
            continue
        notebook = with_outputs(name, runs)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = said(cell.source)
        nbformat.write(notebook, page)
    name, html = SLIDES, {place: Path(page).with_suffix(".html").as_posix() for place, page in there.items()}
    slides(linked((ROOT / name).read_text("utf-8"), "slides.html", html), language, stage / "slides")
    for picture in (*ROOT.glob("docs/*.png"), *ROOT.glob("docs/pictures/**/*.svg"), *ROOT.glob("00-set_up/*.svg")):
        (stage / picture.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, stage / picture.relative_to(ROOT))


def slides(text: str, language: str, to: Path) -> None:
    """Write slides, parted by `---` and each with notes, as a page of reveal.js, beside what the page loads."""
    (to / "reveal").mkdir(parents=True)
    for name in ("dist/reveal.js", "dist/reveal.css", "dist/theme/serif.css", "plugin/notes/notes.js"):
        shutil.copy(str(files("sphinx_revealjs") / "_static" / "revealjs" / name), to / "reveal")
    render = MarkdownIt().enable("table").render
    parts = [slide.partition("\nNotes: ") for slide in text.split("\n---\n")]
    shown = [f'<section>{render(s)}<aside class="notes">{render(notes)}</aside></section>' for s, _, notes in parts]
    page = Template((HERE / "slides.html").read_text("utf-8"))
    title, sections = text.partition("\n")[0].lstrip("# "), re.sub("docs/pictures/(fr/)?", "_images/", "\n".join(shown))
    (to / "slides.html").write_text(page.substitute(language=language, title=title, slides=sections), "utf-8")


def contents(texts: list[str], runs: list[Path], shown: str) -> str:
    """What the front page says last: which runs are shown, and the table of contents."""
    folders = dict.fromkeys(name.partition("/")[0] for name in NOTEBOOKS)
    parts = {re.sub("[-_]", " ", f): [name for name in NOTEBOOKS if name.startswith(f)] for f in folders}
    trees = [[f"```{{toctree}}\n:hidden:\n:caption: {c}\n", *n, "```\n"] for c, n in {**parts, "docs": texts}.items()]
    manifests = {run.name: read_json(run / "manifest.json") for run in runs}
    links = [f'<a href="{name}.html">{of["profile"]}, {of["started"][:10]}</a>' for name, of in manifests.items()]
    reports = f"{shown} {', '.join(links)}." if links else ""
    return "\n".join(["\n", reports, "", *(line for tree in trees for line in tree)])


def main() -> None:
    """Read the command line, build the site in a temporary folder and put it where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=newest(GLOSSARY_NOTEBOOKS[-1]))
    parser.add_argument("--private", type=Path, default=newest(PRIVATE_NOTEBOOKS[-1]))
    parser.add_argument("--language", default="en", choices=SHOWN)
    parser.add_argument("--to", type=Path)
    given = parser.parse_args()
    runs = [run.resolve() for run in (given.run, given.private) if run]
    to = given.to or ROOT / "docs" / "site" / ("" if given.language == "en" else given.language)
    if why := refused(runs, to):
        parser.error(why)
    with tempfile.TemporaryDirectory() as folder:
        stage, site = Path(folder, "pages"), Path(folder, "site")
        lay_out(stage, given.language, runs)
        command = [sys.executable, "-m", "sphinx", "-q", "-c", HERE, "-d", f"{folder}/trees"]
        title = (stage / "index.md").read_text("utf-8").partition("\n")[0].lstrip("# ")
        command += ["-D", f"language={given.language}", "-D", f"html_title={title}"]
        subprocess.run([*command, stage, site], check=True)
        for run in runs:
            for path, more in REPORTS.items():
                if (run / path).exists():
                    shutil.copy(run / path, site / f"{run.name}{more}.html")
        shutil.copytree(stage / "slides", site, dirs_exist_ok=True)
        for page in (site / "docs").glob("*.html"):  # Sphinx links to pages of its own only
            text = re.sub(rf"{REPOSITORY}/blob/main/docs/(fr/)?slides\.md", "../slides.html", page.read_text("utf-8"))
            page.write_text(text, "utf-8")
        shutil.rmtree(site / "_sources", ignore_errors=True)
        for path in (site / ".buildinfo", site / "objects.inv", *site.rglob("*.map")):
            path.unlink()
        kept = [path for path in to.glob("??") if path.is_dir()]  # the other languages, inside the site
        for path in kept:
            shutil.move(path, site / path.name)
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(site, to)
    print(f"{to / 'index.html'}: {sum(p.stat().st_size for p in to.rglob('*') if p.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
