"""Every exercise of a notebook, tried in one execution: untried, with its solution, and with wrong answers."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell

SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def exercises(notebook: Any) -> list[tuple[Any, Any, str, list[str]]]:
    """Cell of each exercise, its check, the folded solution, and the wrong answers in the cell's metadata."""
    found = []
    for place, cell in enumerate(notebook.cells):
        if "exercise" in tags(cell):
            check, solution = notebook.cells[place + 1], notebook.cells[place + 2]
            assert "check" in tags(check) and solution.cell_type == "markdown", cell.source
            folded = SOLUTION.search(solution.source)
            assert folded, f"no folded solution: {cell.source}"
            found.append((cell, check, folded[1], list(cell.metadata["wrong"])))
    return found


def with_trials(path: Path) -> Any:
    """The notebook in which each check is followed by trials: the solution and wrong answers, each checked."""
    notebook = nbformat.read(path, as_version=4)
    for _, check, solution, wrong in reversed(exercises(notebook)):
        place, trials = notebook.cells.index(check) + 1, []
        for source, expected in [(solution, "Right"), *((text, "Not yet") for text in wrong)]:
            again = deepcopy(check)
            again.id = f"{check.id}-{len(trials)}"
            again.metadata["expected"] = expected
            trials += [new_code_cell(source), again]
        check.metadata["expected"] = "Not tried yet"
        notebook.cells[place:place] = trials
    return notebook


def refuse_wrong_checks(path: Path) -> int:
    """Compare what the checks of an executed notebook printed with what they should; returns their number."""
    checks = [cell for cell in nbformat.read(path, as_version=4).cells if "expected" in cell.metadata]
    for cell in checks:
        printed = "".join(output.get("text", "") for output in cell.outputs)
        lines = printed.splitlines()  # what the check's own calls print stands before
        assert any(line.startswith(cell.metadata["expected"]) for line in lines), (
            f"{cell.metadata['expected']}: {printed}\n{cell.source}"
        )
    return len(checks)
