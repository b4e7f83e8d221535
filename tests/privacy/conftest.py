"""Fixtures that several tests of private training share."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from small_trainings import CLAIMED, SETTINGS, Train, patients

from helpers.data.example import Example
from helpers.privacy import training
from helpers.privacy.accounting import Cost
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.training import Recipe, Training


@pytest.fixture
def made(small: str) -> Callable[..., Training]:
    """Make a training of four steps; names change its settings, its cost or its recipe."""

    def make(base_name: str = small, target_modules: Any = "all-linear", seed: int = 0, **changes: Any) -> Training:
        of_cost = {name: changes.pop(name) for name in list(changes) if name in CLAIMED}
        private = changes.pop("cost", CLAIMED) is not None
        settings = SETTINGS.model_copy(update=changes)
        claimed = CLAIMED | of_cost | {"steps": settings.steps, "scores": settings.scores}
        cost = Cost(**claimed, delta=1e-3, prv=9.0, pld=9.0) if private else None
        return Training(Recipe(base_name, target_modules, settings, cost, seed, None))

    return make


@pytest.fixture
def train(made: Callable[..., Training], tmp_path: Path) -> Train:
    """Train in a folder of its own, or in `folder`."""
    numbers = count()

    def run(
        folder: str = "",
        records: list[Example] | None = None,
        validation: list[Example] | None = None,
        identity: str = "x",
        questions: list[Example] | None = None,
        points: int = 0,
        **changes: Any,
    ) -> Training:
        path = tmp_path / (folder or str(next(numbers))) / "state.pt"
        path.parent.mkdir(exist_ok=True)
        training = made(**changes)
        held_out, asked = validation or [], questions or []
        training.run(path, identity, records or patients(), held_out, "test", questions=asked, points=points)
        return training

    return run


@pytest.fixture
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training draws the same inclusion bits and the same noise."""
    monkeypatch.setattr(training, "SecureGenerator", lambda: SecureGenerator(bytes(32)))
