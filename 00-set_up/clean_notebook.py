"""Leave of notebooks what the repository keeps: cells without outputs, in one way of writing.

install.sh makes it git's filter, which reads a saved notebook from standard input and writes it to standard output: so
a reader who runs and saves notebooks changes nothing that git sees. With files as arguments, it rewrites them.
"""

import sys
from pathlib import Path

# nbformat imports jsonschema, and that, for formats of web addresses that notebooks do not have, a grammar which takes
# six times as long as everything else here; git calls this file for each notebook.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

import nbformat  # noqa: E402
from nbstripout import strip_output  # noqa: E402

KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""Every editor writes its own there."""
OF_EDITORS = ("collapsed", "execution", "jupyter.outputs_hidden", "papermill", "scrolled", "trusted")
FOLDED = {"check", "hide-input"}
"""Tags of cells whose code stays folded, also after a reader has looked into it."""


def clean(text: str) -> str:
    """A notebook's file without outputs, counts and what editors add; its cells keep their ids."""
    notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    keys = [f"cell.metadata.{key}" for key in OF_EDITORS]
    strip_output(notebook, keep_output=False, keep_count=False, keep_id=True, extra_keys=keys)
    for cell in notebook.cells:
        if FOLDED & {*cell.metadata.get("tags", [])}:
            cell.metadata.jupyter = {"source_hidden": True}
    notebook.metadata = nbformat.from_dict(KERNEL)
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8")  # type: ignore[attr-defined]
    if not sys.argv[1:]:
        sys.stdout.write(clean(sys.stdin.read()))
    for path in map(Path, sys.argv[1:]):
        path.write_text(clean(path.read_text("utf-8")), "utf-8")
