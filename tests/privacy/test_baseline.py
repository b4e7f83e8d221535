"""The non-private baseline, its passes over patients, and the parts that are computed at once."""

from collections import Counter

import pytest
import torch
from small_trainings import BASELINE, Train, adapter, equal

from helpers.privacy import training
from helpers.privacy.training import Training
from helpers.privacy.units import Unit, shuffled


def test_the_baseline_learns_from_everybody_equally_often() -> None:
    # 12 patients, 5 a step: two passes are used up within the fifth step
    drawn = Counter(place for step in range(5) for place in shuffled(12, 5, step, 0))
    assert sorted(drawn.values()) == [2] * 11 + [3]


def test_the_baseline_is_repeatable_whatever_is_computed_at_once(train: Train) -> None:
    one, other = train(**BASELINE), train(**BASELINE)
    assert equal(one, other) and not equal(one, train(**BASELINE, seed=1))
    weights = adapter(train(**BASELINE, physical_rows=100))
    assert all(torch.allclose(weight, weights[name], atol=1e-3) for name, weight in adapter(one).items())
    assert one.ghosts == {}


def test_a_batch_of_the_baseline_moves_no_further_than_its_norm(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, lr, **_: torch.optim.SGD(weights, lr=lr))
    once = {"steps": 1, "patients_a_step": 12.0, **BASELINE}
    start = adapter(train(**once, baseline_learning_rate=0.0))

    def moved(trained: Training) -> float:
        return sum(float((w - start[n]).square().sum()) for n, w in adapter(trained).items()) ** 0.5

    assert moved(train(**once, baseline_learning_rate=0.5, baseline_max_grad_norm=1e9)) > 0.1
    assert moved(train(**once, baseline_learning_rate=0.5, baseline_max_grad_norm=0.02)) == pytest.approx(
        0.5 * 0.02, rel=1e-3
    )


def test_shuffled_passes_differ_and_follow_their_seed() -> None:
    def lists(seed: int) -> list[list[int]]:
        taken = [one for step in range(10) for one in shuffled(50, 15, step, seed)]
        return [taken[start : start + 50] for start in (0, 50, 100)]

    first = lists(0)
    assert all(sorted(one) == list(range(50)) for one in first)
    assert len({tuple(one) for one in (*first, *lists(1))}) == 6
    assert lists(0) == first


def test_the_first_units_of_a_pass_stand_in_the_same_order_however_many_follow() -> None:
    orders = {count: [one for one in shuffled(count, count, 0, 0) if one < 300] for count in (300, 557, 692)}
    assert orders[300] == orders[557] == orders[692] != list(range(300))


def test_parts_hold_whole_patients_and_at_most_so_many_different_records() -> None:
    sizes = [1, 3, 2, 7, 1, 1, 4]
    units = [Unit(str(n), tuple((1, n, record) for record in range(size)) * 2) for n, size in enumerate(sizes)]
    parts = list(training.parts(units, 4))
    assert [unit for part in parts for unit in part] == units and all(parts)
    assert [[len(unit.distinct) for unit in part] for part in parts] == [[1, 3], [2], [7], [1, 1], [4]]
    assert list(training.parts([], 4)) == []
