"""A reader's run leaves git clean: git's filter takes out of saved notebooks what a run and an editor put there."""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("0*/*.ipynb"))


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The notebooks, committed before the filter was set: what it leaves has to be what is stored."""
    root = tmp_path / "my course"
    for folder in sorted({Path(name).parts[0] for name in NOTEBOOKS}):
        shutil.copytree(
            ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for name in (".gitattributes", ".gitignore"):
        shutil.copy(ROOT / name, root)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "course")
    script = (
        'root=$1 python=$2 environment=$1/.venv; eval "$(sed -n "/^set_up_saving/,/^}/p" "$1/00-set_up/install.sh")"'
    )
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}; set_up_saving", "-", root, sys.executable], check=True
    )
    return root


def run_and_save(path: Path) -> None:
    """Leave in a notebook what JupyterLab saves after a run."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    notebook.metadata.language_info = {"name": "python", "version": "3.11.7", "codemirror_mode": {"name": "ipython"}}
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code":
            cell.execution_count = number
            cell.outputs = [nbformat.v4.new_output("stream", text="seen\n")]
            cell.metadata |= {"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}, "collapsed": False}
            if "check" in cell.metadata.get("tags", []):
                del cell.metadata["jupyter"]  # the reader unfolded it
    nbformat.write(notebook, path)


def jupyterlabs_hook(checkout: Path) -> Callable[..., None]:
    settings = json.loads((checkout / ".venv/etc/jupyter/jupyter_server_config.json").read_text("utf-8"))
    module, _, name = settings["FileContentsManager"]["post_save_hook"].rpartition(".")
    hook: Callable[..., None] = getattr(importlib.import_module(module), name)
    return hook


def test_jupyterlab_saves_sliders_and_forms(checkout: Path) -> None:
    plugin = "@jupyter-widgets/jupyterlab-manager"
    share = Path(sys.prefix, "share/jupyter/labextensions", plugin, "schemas", plugin, "plugin.json")
    given = json.loads((checkout / ".venv/share/jupyter/lab/settings/overrides.json").read_text("utf-8"))
    assert {*given[f"{plugin}:plugin"]} <= {*json.loads(share.read_text("utf-8"))["properties"]}


def test_notebooks_that_were_run_and_saved_are_no_changes(checkout: Path) -> None:
    saved = jupyterlabs_hook(checkout)
    for name in NOTEBOOKS[:2]:
        run_and_save(checkout / name)
        saved(os_path=str(checkout / name), model={}, contents_manager=None)
    assert git(checkout, "status", "--porcelain") == "" == git(checkout, "diff", "HEAD")
    path = checkout / NOTEBOOKS[0]
    path.write_text(path.read_text("utf-8").replace("import", "import ", 1), "utf-8")
    saved(os_path=str(path), model={}, contents_manager=None)
    assert git(checkout, "status", "--porcelain") == f" M {NOTEBOOKS[0]}\n", "what the reader writes is a change"


def test_what_git_does_not_know_is_left_alone(checkout: Path, tmp_path: Path) -> None:
    saved = jupyterlabs_hook(checkout)
    for path in (checkout / "mine.ipynb", tmp_path / "mine.ipynb"):
        shutil.copy(checkout / NOTEBOOKS[0], path)
        saved(os_path=str(path), model={}, contents_manager=None)
    assert git(checkout, "status", "--porcelain") == "?? mine.ipynb\n"


def test_without_the_environment_git_goes_on(checkout: Path) -> None:
    command = git(checkout, "config", "filter.notebook.clean").strip()
    git(checkout, "config", "filter.notebook.clean", command.replace(sys.executable, "/gone/python"))
    run_and_save(checkout / NOTEBOOKS[0])
    assert NOTEBOOKS[0] in git(checkout, "status", "--porcelain")
    git(checkout, "add", ".")
    assert "seen" in git(checkout, "show", f":{NOTEBOOKS[0]}")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_stored_as_the_filter_leaves_them(name: str) -> None:
    spec = importlib.util.spec_from_file_location("clean_notebook", ROOT / "00-set_up" / "clean_notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = (ROOT / name).read_text("utf-8")
    assert stored == module.clean(stored), f"run: python 00-set_up/clean_notebook.py {name}"
