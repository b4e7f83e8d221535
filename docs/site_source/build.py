"""Build the site of the course: its pages, and its notebooks with the outputs of a run.

    python docs/site_source/build.py [--run runs/cpu-...] [--private runs/cpu-...] [--language en] [--to docs/site]

Without --run and --private it takes the newest runs. A notebook that neither has executed is shown without outputs.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import mmdr
import nbformat

from helpers.config import PROJECT_ROOT as ROOT
from helpers.files import read_json
from helpers.notebooks import GLOSSARY_NOTEBOOKS, PRIVATE_NOTEBOOKS, executed_name, keep_last_states, relink, relinked

HERE = Path(__file__).parent
REPOSITORY = (ROOT / "00-set_up" / "repository_url").read_text("utf-8").strip()
PAGES = {"README.md": "index.md", "docs/terms.md": "", "docs/cheat_sheet.md": "", "docs/instructors.md": ""}
"""Pages of text and, where it differs, what each is called on the site."""
FOLDED = {"colab", "check"}
"""Tags of cells that the site folds, with their outputs."""


def newest(notebook: str) -> Path | None:
    """The run whose execution of a notebook is the newest."""
    found = (ROOT / "runs").glob(f"*/notebooks/{executed_name(notebook)}")
    return max((path.parents[1] for path in found), key=lambda run: (run / "manifest.json").stat().st_mtime, default=None)


def address(target: str, pages: set[str], page: str) -> str:
    """Where a link from a page leads: to a page or picture of the site, else to the repository."""
    if target in pages or Path(target).suffix in {".svg", ".png"}:
        return os.path.relpath(PAGES.get(target) or target, Path(page).parent or ".")
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{target}"


def drawn(text: str, page: Path) -> str:
    """Markdown with its Mermaid diagrams as pictures beside the page, and without pictures from the network."""
    for number, diagram in enumerate(re.findall(r"```mermaid\n.*?```", text, re.DOTALL)):
        picture = page.with_name(f"{page.stem}_{number}.png")
        picture.write_bytes(mmdr.render(diagram[11:-3]).png(width=1400, background="#ffffff"))
        text = text.replace(diagram, f"![Diagram]({picture.name})")
    return re.sub(r"!\[([^]]*)]\(https?:[^)]*\)", r"\1", text)


def lay_out(stage: Path, source: Path, runs: list[Path]) -> None:
    """Write all that Sphinx reads into the folder `stage`. A page in `source` stands in for the one of the same path."""
    names = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("0*/*.ipynb"))]
    texts = [name for name in PAGES if (source / name).exists() or (ROOT / name).exists()]
    pages = {*names, *texts}
    for picture in (*ROOT.glob("docs/*.png"), *ROOT.glob("docs/pictures/*.svg")):
        (stage / picture.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, stage / picture.relative_to(ROOT))
    for name in texts:
        page = stage / (PAGES[name] or name)
        written = (source / name) if (source / name).exists() else ROOT / name
        page.parent.mkdir(parents=True, exist_ok=True)
        text = drawn(relinked(written.read_text("utf-8"), name, partial(address, pages=pages, page=name)), page)
        page.write_text(text + (contents(names, texts[1:], runs) if page.name == "index.md" else ""), "utf-8")
    for name in names:
        page = stage / name
        page.parent.mkdir(parents=True, exist_ok=True)
        notebook = with_outputs(name, source, runs)
        relink(notebook, name, partial(address, pages=pages, page=name))
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = drawn(cell.source, page)
        text = nbformat.writes(notebook)
        for run in runs:
            text = text.replace(f"{run.parents[1]}/", "")
        page.write_text(text, "utf-8")


def with_outputs(name: str, source: Path, runs: list[Path]) -> nbformat.NotebookNode:
    """A notebook as it is now, with what its cells showed in a run; one that has changed since then shows nothing."""
    notebook = nbformat.read(ROOT / name, as_version=4)
    executed = [run / "notebooks" / executed_name(name) for run in runs]
    shown = {cell.id: cell for path in executed if path.exists() for cell in nbformat.read(path, as_version=4).cells}
    other = {cell.id: cell for cell in nbformat.read(source / name, 4).cells} if (source / name).exists() else {}
    changed = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = other.get(cell.id, cell).source
            continue
        ran = shown.get(cell.id)
        if ran and ran.source == cell.source:
            cell.outputs = ran.outputs
        changed += bool(shown) and not (ran and ran.source == cell.source)
        tags = cell.metadata.setdefault("tags", [])
        if FOLDED & {*tags}:
            tags.append("hide-cell")
        elif cell.metadata.get("jupyter", {}).get("source_hidden"):
            tags.append("hide-input")
    if changed:
        print(f"{name}: {changed} cells have changed since the run, and show nothing")
    keep_last_states(notebook)
    return notebook


def contents(names: list[str], texts: list[str], runs: list[Path]) -> str:
    """What the front page says last: which run is shown, and the table of contents."""
    folders = dict.fromkeys(name.partition("/")[0] for name in names)
    lists = {f.replace("-", " ").replace("_", " "): [n for n in names if n.startswith(f)] for f in folders}
    trees = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *listed, "```"])
        for caption, listed in {**lists, "reference": texts}.items()
    ]
    told = [read_json(run / "manifest.json") for run in runs]
    shown = ", ".join(f'<a href="{run["id"]}.html">{run["profile"]}, {run["started"][:10]}</a>' for run in told)
    return f"\n\nThe notebooks show the outputs of these runs; each link opens its report: {shown}.\n\n" + "\n\n".join(trees)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=newest(GLOSSARY_NOTEBOOKS[-1]))
    parser.add_argument("--private", type=Path, default=newest(PRIVATE_NOTEBOOKS[-1]))
    parser.add_argument("--language", default="en")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "site")
    given = parser.parse_args()
    runs = [run.resolve() for run in (given.run, given.private) if run]
    with tempfile.TemporaryDirectory() as folder:
        stage, site = Path(folder) / "pages", Path(folder) / "site"
        stage.mkdir()
        lay_out(stage, ROOT / "docs" / given.language, runs)
        command = [sys.executable, "-m", "sphinx", "-q", "-c", HERE, "-D", f"language={given.language}"]
        subprocess.run([*command, "-d", Path(folder) / "doctrees", stage, site], check=True)
        for left in (".buildinfo", "objects.inv", "_sources"):
            shutil.rmtree(site / left) if (site / left).is_dir() else (site / left).unlink(missing_ok=True)
        for run in runs:
            for report in (run / "report.html", run / "private" / "report.html"):
                if report.exists():
                    shutil.copy(report, site / f"{run.name}.html")
        shutil.rmtree(given.to, ignore_errors=True)
        shutil.copytree(site, given.to)
    size = sum(path.stat().st_size for path in given.to.rglob("*") if path.is_file())
    print(f"{given.to / 'index.html'}: {size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
