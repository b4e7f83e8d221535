"""The course's notebooks: which belong to which source, and how they run without anybody looking."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from helpers import errors
from helpers.errors import HelpersError
from helpers.progress import HEADLESS

PRIVATE_NOTEBOOKS = (
    "01-create_dataset/03-join_private_records.ipynb",
    "02-fine_tune/03-train_privately.ipynb",
    "02-fine_tune/04-break_privacy.ipynb",
    "03-test/04-audit_privacy.ipynb",
)
"""The last two are for made-up patients only."""
GLOSSARY_NOTEBOOKS = (
    "00-set_up/check_environment.ipynb",
    "01-create_dataset/01-write_conversations.ipynb",
    "01-create_dataset/02-prepare_dataset.ipynb",
    "02-fine_tune/01-look_inside.ipynb",
    "02-fine_tune/02-train_adapters.ipynb",
    "03-test/01-answer.ipynb",
    "03-test/02-score.ipynb",
    "03-test/03-compare_models.ipynb",
    "03-test/05-use_it.ipynb",
)
TABLE_NOTEBOOKS = (GLOSSARY_NOTEBOOKS[0], "01-create_dataset/04-prepare_your_table.ipynb", *GLOSSARY_NOTEBOOKS[3:])


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook from `source` into `target` with these parameters; its progress goes to the terminal.

    Raises HelpersError where a cell fails; what ran until then stays in `target`.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    os.environ[HEADLESS] = "1"
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters,
            cwd=str(source.parent),
            kernel_name="python3",
            progress_bar=False,
            stderr_file=sys.stderr,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        message = str(error.evalue)
        if not hasattr(errors, error.ename):
            message = f"{error.ename}: {message} (a fault of the course or of the machine)."
        raise HelpersError(
            f"{message}\nStopped in {source.name}; its outputs so far are in {target}. What was finished is kept: the "
            "same command goes on from there."
        ) from None
    finally:
        keep_last_states(target)


def keep_last_states(path: Path) -> None:
    """Keep of each progress bar in an executed notebook what it showed last, in place of hundreds of lines."""
    import nbformat

    if not path.exists():
        return
    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?!\n|$)", "", output.text)
    nbformat.write(notebook, path)
