"""What fixtures of conftest.py hand to tests: with a second conftest.py, tests cannot import from either by name."""

from collections.abc import Callable
from pathlib import Path

from helpers.run import Run

GlossaryFile = Callable[..., Path]
SmokeRun = Callable[..., Run]
