"""What `make run` leaves in an executed notebook: clean outputs, and links that lead on."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import notebooks
from helpers.errors import HelpersError
from helpers.progress import HEADLESS

BARS = """
import sys
from IPython.display import FileLink, display
from helpers.progress import tqdm
print("before")
for name in ("one", "two"):
    for step in tqdm(range(30), desc=name, mininterval=0):
        if step == 15 and name == "one":
            print("between", flush=True)
display(FileLink("../runs/r-1/report.html"))
print("a warning", file=sys.stderr)
"""
TEXT = "[next](02-b.ipynb), [terms](../docs/terms.md#token), [site](https://example.org), [here](#top)"


def executed(folder: Path, monkeypatch: pytest.MonkeyPatch, *code: str) -> nbformat.NotebookNode:
    monkeypatch.setattr(notebooks, "PROJECT_ROOT", folder)
    source = folder / "01-a" / "01-a.ipynb"
    source.parent.mkdir()
    target = folder / "runs" / "r-1" / "notebooks" / notebooks.executed_name("01-a/01-a.ipynb")
    target.parent.mkdir(parents=True)
    (target.parents[1] / "report.html").write_text("report", "utf-8")
    cells = [nbformat.v4.new_markdown_cell(TEXT), *map(nbformat.v4.new_code_cell, code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), source)
    try:
        notebooks.execute(source, target, {}, ["01-a/01-a.ipynb", "01-a/02-b.ipynb"])
    finally:
        monkeypatch.undo()
    return nbformat.read(target, as_version=4)


def test_an_executed_notebook_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed(tmp_path, monkeypatch, BARS)
    text, outputs = notebook.cells[0].source, notebook.cells[-1].outputs
    streams = {
        name: "".join(o.get("text", "") for o in outputs if o.get("name") == name) for name in ("stdout", "stderr")
    }
    assert streams["stderr"] == "a warning\n"
    bars = [line for line in streams["stdout"].splitlines() if "%|" in line]
    assert [bar.partition(":")[0] for bar in bars] == ["one", "two"] and all("30/30" in bar for bar in bars)
    assert {"before", "between"} <= {*streams["stdout"].splitlines()}
    [link] = [output.data["text/html"] for output in outputs if "data" in output]
    assert "href='../report.html'" in link
    assert text == (
        "[next](01-a-02-b.ipynb), [terms](../../../docs/terms.md#token), [site](https://example.org), [here](#top)"
    )


def test_bars_that_a_reader_watched_are_lines_in_the_saved_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)
    stopped = "for step in tqdm(range(3), desc='three'):\n    assert step < 2"
    gone = "for step in tqdm(range(40), desc='gone', delay=0.05, leave=False):\n    time.sleep(0.01)"
    cells = [*map(nbformat.v4.new_code_cell, (BARS, f"import time\n{gone}", gone.replace("40", "2"), stopped))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    shown = [output.data for output in outputs if "data" in output]
    assert not any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    text = "\n".join(data["text/plain"] for data in shown)
    assert text.count("30/30") == 2 and "2/3" in text and "gone" not in text


def test_a_failed_notebook_is_clean_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HelpersError, match="a fault of the course"):
        executed(tmp_path, monkeypatch, BARS, "1 / 0")
    target = tmp_path / "runs/r-1/notebooks/01-a-01-a.ipynb"
    notebook = nbformat.read(target, as_version=4)
    assert sum(output.get("text", "").count("%|") for cell in notebook.cells for output in cell.get("outputs", ())) == 2


def test_words_that_came_one_by_one_are_one_output() -> None:
    words = [nbformat.v4.new_output("stream", name="stdout", text=word) for word in ("an ", "answer", "end")]
    shown = nbformat.v4.new_output("execute_result", {"text/plain": "1"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[*words[:2], shown, words[2]])])
    notebooks.keep_last_states(notebook)
    assert [output.get("text") for output in notebook.cells[0].outputs] == ["an answer", None, "end"]


def test_bars_and_warnings_that_share_a_stream() -> None:
    bar = "\rone:   0%|    | 0/2\rone: 100%|####| 2/2\n"
    cell = nbformat.v4.new_code_cell(
        outputs=[nbformat.v4.new_output("stream", name="stderr", text=f"first\n{bar}last")]
    )
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "two:   0%|    | 0/2"}
    cell.outputs.append(nbformat.v4.new_output("display_data", data=widget))
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("text")])
    notebooks.keep_last_states(notebook)
    assert [(output.name, output.text) for output in notebook.cells[0].outputs] == [
        ("stdout", "one: 100%|####| 2/2\n"),
        ("stderr", "first\nlast\n"),
    ]
