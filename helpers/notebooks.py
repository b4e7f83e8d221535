"""The course's notebooks: which belong to which source, and how they run without anybody looking."""

import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers import errors
from helpers.config import PROJECT_ROOT
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

BAR = re.compile(r"\d+%\|.*\|")
"""What a progress bar of tqdm looks like."""


def execute(source: Path, target: Path, parameters: dict[str, Any], beside: Sequence[str] = ()) -> None:
    """Run a notebook from `source` into `target` with these parameters; its progress goes to the terminal.

    Its links then lead to the executed notebooks named in `beside`, else to the course's files.
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
            f"{message}\nStopped in {source.name}; its outputs so far are in {target}. What was finished is kept; run "
            "the same command again to go on."
        ) from None
    finally:
        if target.exists():
            _tidy(source, target, beside)


def _tidy(source: Path, target: Path, beside: Sequence[str]) -> None:
    import nbformat

    def link(path: str) -> str:
        return executed_name(path) if path in beside else os.path.relpath(PROJECT_ROOT / path, target.parent)

    notebook = nbformat.read(target, as_version=4)
    keep_last_states(notebook)
    before, after = (f"href='{os.path.relpath(target.parents[1], of)}/" for of in (source.parent, target.parent))
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):  # links to files of the run
            if page := output.get("data", {}).get("text/html"):
                output.data["text/html"] = page.replace(before, after)
        if cell.cell_type == "markdown" and source.is_relative_to(PROJECT_ROOT):
            cell.source = relinked(cell.source, source.relative_to(PROJECT_ROOT).as_posix(), link)
    nbformat.write(notebook, target)


def executed_name(name: str) -> str:
    """What an executed notebook is called in a run's notebooks/."""
    return name.replace("/", "-")


def keep_last_states(notebook: Any) -> None:
    """Keep of each progress bar in an executed notebook what it showed last, in place of hundreds of red lines."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _with_last_states(cell.outputs)


def _with_last_states(outputs: list[Any]) -> list[Any]:
    import nbformat

    kept: list[Any] = []
    bars, others = (nbformat.v4.new_output("stream", name=name, text="") for name in ("stdout", "stderr"))
    last: dict[str, str] = {}
    for output in outputs:
        if BAR.search(output.get("data", {}).get("text/plain", "")):
            continue  # a widget of a library: without its kernel it shows 0 %, or an error
        if output.output_type != "stream" or output.name != "stderr":
            if kept and kept[-1].get("name") == output.get("name") == "stdout":  # flushed word by word
                kept[-1].text += output.text
            else:
                kept.append(output)
            continue
        if not last and not others.text:
            kept += [bars, others]
        for line in re.split(r"[\r\n]+", output.text):
            if BAR.search(line):
                last[line.partition(":")[0]] = line.rstrip()
            elif line.strip():
                others.text += f"{line}\n"
    bars.text = "".join(f"{line}\n" for line in last.values())
    return [output for output in kept if output.get("text", True)]


def relinked(text: str, source: str, link: Callable[[str], str]) -> str:
    """A Markdown text whose links lead on from another place.

    Args:
        text: the text.
        source: where it was written, from the course's folder: "02-fine_tune/01-look_inside.ipynb".
        link: gets the target of a relative link, from the course's folder, and returns what to write.
    """

    def changed(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        return f"]({link(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))}{mark}{anchor})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", changed, text)


def after_save(os_path: str, **_: Any) -> None:
    """JupyterLab calls this when it has saved a file: git looks at a notebook that differs by its outputs only.

    Git's filter leaves the outputs out, but a file of another size counts as changed until git has read it again.
    """
    path = Path(os_path)
    git = ["git", "-C", str(path.parent)]
    if path.suffix == ".ipynb":
        with suppress(OSError, subprocess.CalledProcessError):  # no git, no repository, or a change of the reader's own
            for command in (["ls-files", "--error-unmatch"], ["diff", "--quiet"], ["add"]):
                subprocess.run([*git, *command, "--", path.name], check=True, capture_output=True)
