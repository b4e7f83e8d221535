"""The shipped notebooks, run in order on one run folder, and what they left there."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from exercises import refuse_wrong_checks, with_trials
from jupyter_client import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError

from helpers.notebooks import GLOSSARY_NOTEBOOKS, PRIVATE_NOTEBOOKS, TABLE_NOTEBOOKS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("0*/*.ipynb"))
AUDIT = ROOT / "03-test" / "04-audit_privacy.ipynb"
TABLE = ROOT / "01-create_dataset" / "04-prepare_your_table.ipynb"
TESTING = [path for path in NOTEBOOKS if path.parent.name == "03-test" and path != AUDIT]
LONGEST_CELL = 15
LIBRARY_CALLS = {
    "00-set_up/check_environment": "psutil.virtual_memory( importlib.metadata",
    "01-create_dataset/01-write_conversations": "OpenAI( chat.completions.create",
    "01-create_dataset/02-prepare_dataset": "rapidfuzz from_pretrained( apply_chat_template(",
    "01-create_dataset/03-join_private_records": "hmac.new( AnalyzerEngine .merge(",
    "01-create_dataset/04-prepare_your_table": "read_csv( GroupShuffleSplit TfidfVectorizer",
    "02-fine_tune/01-look_inside": "from_pretrained( apply_chat_template( .generate( get_peft_model( AdamW(",
    "02-fine_tune/02-train_adapters": "from_pretrained( BitsAndBytesConfig( LoraConfig( SFTConfig( SFTTrainer(",
    "02-fine_tune/03-train_privately": "autograd.grad( opacus PRVAccountant( .generate(",
    "02-fine_tune/04-break_privacy": "opacus get_peft_model(",
    "03-test/01-answer": "from_pretrained( PeftModel.from_pretrained( .generate( disable_adapter(",
    "03-test/02-score": "RougeScorer( cos CrossEncoder( .predict( RUBRIC",
    "03-test/03-compare_models": "binomtest( proportion_ci(",
    "03-test/04-audit_privacy": "PeftModel.from_pretrained( disable_adapter( roc_auc_score( binom",
    "03-test/05-use_it": "PeftModel disable_adapter( TextStreamer( merge_and_unload( OpenAI( ModelCard(",
}
"""The library calls that each notebook shows by hand, not through the course's own helpers."""


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture
def kernel() -> Iterator[AsyncKernelManager]:
    """One kernel for several notebooks: what each imports takes it eight seconds otherwise."""
    manager = AsyncKernelManager(kernel_name="python3")
    try:
        yield manager
    finally:
        asyncio.run(manager.shutdown_kernel(now=True))


def execute(path: Path, run: Path, kernel: AsyncKernelManager | None = None, **overrides: Any) -> None:
    """Run a notebook, its exercises untried, solved and answered wrongly."""
    given, out = run.with_name(f"{path.stem}.in.ipynb"), run.with_name(f"{path.stem}.out.ipynb")
    notebook = with_trials(path)
    if kernel:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {path.parent}"))
    nbformat.write(notebook, given)
    papermill.execute_notebook(
        given,
        out,
        parameters={
            "conf": "smoke",
            "run": str(run),
            "overrides": {"privacy.ledgers": str(run.with_name("ledgers"))} | overrides,  # not the reader's own ledgers
        },
        kernel_name="python3",
        progress_bar=False,
        cwd=path.parent,
        execution_timeout=600,
        **({"km": kernel} if kernel else {}),
    )
    refuse_wrong_checks(out)


def test_errors_of_the_course_show_their_message_alone(tmp_path: Path) -> None:
    said = {}
    for error in ("RunError", "ValueError"):
        raised = f"from helpers.errors import *\nraise {error}('No data. Run 01.')"
        shell = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "-c", f"import helpers\n{raised}"]
        done = subprocess.run(shell, env=os.environ | {"IPYTHONDIR": str(tmp_path)}, capture_output=True, text=True)
        said[error] = done.stdout + done.stderr
    assert said["RunError"].strip() == "RunError: No data. Run 01."
    assert "Traceback" in said["ValueError"]


def test_every_notebook_belongs_to_a_source() -> None:
    assert {*GLOSSARY_NOTEBOOKS, *PRIVATE_NOTEBOOKS, *TABLE_NOTEBOOKS} == {
        str(path.relative_to(ROOT)) for path in NOTEBOOKS
    }


@pytest.mark.first
def test_the_notebooks_on_a_glossary_run_in_order(tmp_path: Path, kernel: AsyncKernelManager) -> None:
    run = tmp_path / "run"
    for name in GLOSSARY_NOTEBOOKS:
        execute(ROOT / name, run, kernel, **{"dataset.forward_by_model": 1})
    results: dict[str, Any] = json.loads((run / "results.json").read_text("utf-8"))
    test = [json.loads(line) for line in (run / "dataset/test.jsonl").read_text("utf-8").splitlines()]
    asked = Counter(item["bucket"] for item in test)
    assert set(asked) == {"new_phrasing", "reverse", "unknown", "general"}
    assert list(results["models"]) == ["base", "in_context", "lora", "qlora"]
    for model in results["models"].values():
        assert {bucket: rate["n"] for bucket, rate in model["buckets"].items()} == asked
    page = (run / "report.html").read_text("utf-8")
    assert all(model in page for model in results["models"])
    # Nothing to fetch: the addresses in the pictures are names of XML vocabularies.
    assert not re.search(r"""(src|href)=["']?https?:|url\(["']?https?:|@import""", page)


@pytest.mark.first
def test_the_notebooks_on_private_records_run_in_order(tmp_path: Path, kernel: AsyncKernelManager) -> None:
    run = tmp_path / "run"
    for name in PRIVATE_NOTEBOOKS:
        execute(ROOT / name, run, kernel)
    results: dict[str, Any] = json.loads((run / "private" / "results.json").read_text("utf-8"))
    assert list(results["models"]) == list(results["privacy"]["models"]) == ["base", "non_private", "private"]
    assert all({*model["buckets"]} == {"records", "general"} for model in results["models"].values())
    page = (run / "private" / "report.html").read_text("utf-8")
    assert "Secret said word for word" in page and "ε = " in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = {tag: [c.source for c in code if tag in c.metadata.get("tags", [])] for tag in ("parameters", "colab")}
    assert tagged["parameters"] == ['conf = "cpu"\nrun = None\noverrides = {}']
    assert tagged["colab"] == [(ROOT / "00-set_up/colab_cell.txt").read_text("utf-8").rstrip("\n")]
    for cell in code:
        lines = cell.source.splitlines()
        assert not cell.outputs and cell.execution_count is None, cell.source
        assert len(lines) <= LONGEST_CELL, cell.source
        if not {"sandbox", "exercise", "check"} & {*cell.metadata.get("tags", [])}:
            assert not any(line.lstrip().startswith(("def ", "class ")) for line in lines), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_teaches(path: Path) -> None:
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    absent = [call for call in LIBRARY_CALLS[name(path)].split() if call not in source]
    assert not absent
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert text.count("<summary>Solution</summary>") >= 3
    assert 8 <= text.count("<summary>Answer</summary>") <= 12
    assert "## In three sentences" in text and "## Go deeper" in text


def test_the_audit_alone_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError, match=r"Run 01-create_dataset/03-join_private_records\.ipynb"):
        execute(AUDIT, tmp_path / "run")


def test_a_table_is_prepared(tmp_path: Path) -> None:
    execute(TABLE, tmp_path / "run", **{"data.source": str(ROOT / "example_data" / "questions_valbrune.csv")})
    assert "60 rows read, 60 kept" in (tmp_path / "run" / "dataset" / "card.md").read_text("utf-8")


@pytest.mark.slow
def test_the_notebooks_run_on_a_table(tmp_path: Path) -> None:
    for path in TABLE_NOTEBOOKS:
        execute(ROOT / path, tmp_path / "run", **{"data.source": str(ROOT / "example_data" / "questions_valbrune.csv")})
    results = json.loads((tmp_path / "run" / "results.json").read_text("utf-8"))
    assert list(results["models"]) == ["base", "in_context", "lora", "qlora"]


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTING, ids=name)
def test_notebook_starts_from_example_data(path: Path, tmp_path: Path) -> None:
    execute(path, tmp_path / "run")
