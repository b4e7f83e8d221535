"""Trainings that are killed go on from their checkpoint, and from no other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import BASELINE, Train, equal, patients

from helpers.data.example import Example, asked
from helpers.errors import PrivacyError
from helpers.privacy.accounting import spent
from helpers.privacy.release import verify
from helpers.privacy.training import Training


class Killed(Exception):
    pass


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Within the block, the process dies right after so many checkpoints."""
    from contextlib import contextmanager

    @contextmanager
    def killing(saves: int) -> Iterator[None]:
        real, left = Training._save, [saves]

        def save(*given: Any) -> None:
            real(*given)
            left[0] -= 1
            if not left[0]:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Training, "_save", save)
            yield

    return killing


def test_a_killed_private_training_goes_on_and_counts_each_step_once(train: Train, kill_after: Any) -> None:
    options = {"folder": "a", "steps": 6, "checkpoints": 6, "validation": patients(4)}
    for saves in (1, 2):
        with kill_after(saves):
            train(**options, scores=6)
    trained = train(**options, scores=6)
    assert trained.steps == 6 and [row["step"] for row in trained.log] == [1, 2, 3, 4, 5, 6]
    again = train(**options, scores=6)  # ended: nothing more is drawn
    assert equal(again, trained) and torch.equal(again.ghosts["scores"], trained.ghosts["scores"])
    assert again.tokens == trained.tokens and again.log == trained.log


def test_the_audit_goes_on_with_the_same_ghosts_after_a_kill(train: Train, kill_after: Any) -> None:
    options = {"folder": "a", "noise_multiplier": 1.0, "steps": 12, "checkpoints": 12, "records": patients(4, 1)}
    with kill_after(6):
        train(**options)
    found = verify(train(**options), spent(1.0, 0.25, 12, 1e-3))
    assert found["p_value"] >= 1e-6
    assert found["right"] > 0.9 * found["allowed"]  # with other ghosts after the kill they would tell far less


def test_a_killed_baseline_ends_as_an_undisturbed_one(train: Train, kill_after: Any) -> None:
    options: dict[str, Any] = {"steps": 6, "checkpoints": 6, "validation": patients(4), "scores": 3, **BASELINE}
    whole = train(**options)
    with kill_after(3):
        train(folder="b", **options)
    resumed = train(folder="b", **options)
    assert equal(whole, resumed)
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)
    assert [row["step"] for row in resumed.log] == [2, 4, 6] and resumed.log == whole.log


@pytest.mark.parametrize("of", [BASELINE, {}], ids=["baseline", "private"])
def test_asking_on_the_way_changes_no_bit_and_goes_on_after_a_kill(
    train: Train, kill_after: Any, same_numbers: None, of: dict[str, Any]
) -> None:
    questions = [
        Example(f"alike/{n}", "look-alike", asked(f"fever {n}"), "rash", ("rash",), "contains") for n in (1, 2)
    ]
    options: dict[str, Any] = {"steps": 6, "checkpoints": 3, **of}
    silent = train(**options)
    options |= {"questions": questions, "points": 4}
    whole = train(**options)
    assert equal(whole, silent) and silent.hot_test == []
    assert [(row["step"], row["id"]) for row in whole.hot_test] == [
        (step, f"alike/{n}") for step in (0, 1, 3, 6) for n in (1, 2)
    ]
    with kill_after(2):
        train(folder="b", **options)
    resumed = train(folder="b", **options)
    steps = [row["step"] for row in resumed.hot_test]
    assert steps == [0, 0, 1, 1, 3, 3, 6, 6] and resumed.hot_test[:6] == whole.hot_test[:6]
    assert of != BASELINE or (equal(resumed, whole) and resumed.hot_test == whole.hot_test)


def test_a_checkpoint_of_something_else_is_refused(train: Train, kill_after: Any, tmp_path: Path) -> None:
    with kill_after(1):
        train(folder="a")
    with pytest.raises(PrivacyError, match="belongs to other records, settings or code"):
        train(folder="a", identity="other")
    whole = (tmp_path / "a" / "state.pt").read_bytes()
    for damaged in (b"damaged", whole[: len(whole) // 2]):
        (tmp_path / "a" / "state.pt").write_bytes(damaged)
        with pytest.raises(PrivacyError, match="damaged"):
            train(folder="a")


def test_an_empty_checkpoint_is_a_training_that_has_not_begun(train: Train, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.pt").write_bytes(b"")
    assert train(folder="a").steps == 4
