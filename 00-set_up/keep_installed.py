"""Print the constraints that leave the packages of a hosting service alone.

Colab and Onyxia come with a notebook server, a CUDA build of torch and more, tuned to each other; forcing the
tested pins upon them can break the very session that installs the course. So a pin is dropped when the
package is already there, unless `pyproject.toml` asks for a version that the one present does not satisfy.

Usage: python keep_installed.py pyproject.toml constraints.txt > constraints-of-this-service.txt
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ModuleNotFoundError:  # a bare Python still has the copy inside pip
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]


def normalise(name: str) -> str:
    """Return a project name as PEP 503 compares it: lower case, runs of `-_.` as one hyphen."""
    return re.sub(r"[-_.]+", "-", name).lower()


def kept_pins(dependencies: list[str], constraints: list[str], installed: dict[str, str]) -> list[str]:
    """Return the constraint lines that still hold for a Python that already has packages.

    Args:
        dependencies: Requirement strings of the course, such as `torch>=2.13`.
        constraints: Lines `name==version`, with an optional marker; other lines are passed on.
        installed: Version of each package present, by normalised name.
    """
    ranges = {normalise(r.name): r.specifier for r in map(Requirement, dependencies)}
    kept = []
    for line in constraints:
        name = normalise(line.partition("==")[0].strip())
        satisfied = name in installed and (
            name not in ranges or ranges[name].contains(installed[name], prereleases=True)
        )
        if not satisfied:
            kept.append(line)
    return kept


if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]
    present = {normalise(d.name): d.version for d in distributions()}
    print("\n".join(kept_pins(project["dependencies"], Path(sys.argv[2]).read_text("utf-8").splitlines(), present)))
