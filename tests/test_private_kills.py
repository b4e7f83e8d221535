"""SIGKILL at random moments of joining, training and accounting: no spend is lost, nothing is released half-done."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from few_patients import KEY, holders

from helpers.files import read_json, sha256
from helpers.privacy.ledger import Ledger
from helpers.run import Run, open_private_run
from helpers.stages.private_training import fine_tune_private, ledgers_of

KILLS = 50
STEPS = 10


def opened(folder: Path, ledgers_at: Path, patients: Path) -> Run:
    own = {
        "privacy.ledgers": str(ledgers_at), "data.source": {"holders": str(patients / "pipeline.yaml")},
        "privacy.patients_share": 0.5, "privacy.patients_a_step": 30,
        "privacy.steps": STEPS, "privacy.checkpoints": STEPS, "privacy.scores": 2,
    }  # fmt: skip
    return open_private_run("smoke", folder, own)


def course(*folders: Path) -> None:
    """What the killed process does: join, then the private model, then the baseline."""
    os.environ["PSEUDONYM_KEY"] = KEY
    fine_tune_private(opened(*folders))


def reserved(ledgers: list[Ledger]) -> list[set[str | None]]:
    """For each holder, the spends that were ever reserved."""
    return [{entry.spend_id for entry in ledger.entries() if entry.kind == "reserve"} for ledger in ledgers]


def step_saved(checkpoint: Path) -> int:
    """After which step a killed training will go on; 0 where it had saved none."""
    return int(torch.load(checkpoint, weights_only=True)["steps"]) if checkpoint.stat().st_size else 0


def check_released(run: Run, ledgers: list[Ledger]) -> None:
    """A model that can be seen is whole, reported, and paid for in every holder's ledger."""
    released = run.path / "models" / "private"
    if not released.exists():
        return
    assert (released / "adapter_model.safetensors").exists()
    report = read_json(released / "privacy_report.json")
    assert report["adapter_sha256"] == sha256(released / "adapter_model.safetensors")
    for ledger in ledgers:
        assert ledger.contains(report["ledgers"][ledger.holder])
        [reserved, committed] = [entry for entry in ledger.entries() if entry.spend_id == report["spend_id"]]
        assert reserved.cost is not None and reserved.cost.epsilon == report["epsilon"]
        assert committed.result == report["adapter_sha256"]


@pytest.mark.slow
def test_fifty_kills_lose_no_spend_and_release_nothing_unreported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)
    chooser, ledgers_at = random.Random(3), tmp_path / "ledgers"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["helpers.stages.private_training", "helpers.privacy.training", "helpers.data.holders.join"]
    )
    alone = (tmp_path / "alone" / "run", tmp_path / "alone" / "ledgers", holders())
    whole = opened(*alone)
    started = time.monotonic()
    undisturbed = processes.Process(target=course, args=alone)
    undisturbed.start()
    undisturbed.join()
    lasts = time.monotonic() - started
    expected = read_json(whole.path / "models" / "private" / "privacy_report.json")["epsilon"]

    kills, lives, where, cut, runs, known = 0, 0, set(), set(), [], []
    while kills < KILLS or not (runs[-1].path / "models" / "non_private").exists():
        lives += 1
        assert lives < 4 * KILLS
        new = not runs or (runs[-1].path / "models" / "non_private").exists()
        if new:
            runs.append(opened(tmp_path / "killed" / f"run{len(runs)}", ledgers_at, holders()))
        run = runs[-1]
        life = processes.Process(target=course, args=(run.path, ledgers_at, holders()))
        life.start()
        if kills < KILLS:
            life.join(chooser.uniform(0, (0.2 if new else 0.6) * lasts))  # a new run begins with the join
        else:
            life.join()  # the last one is left in peace
        if life.is_alive():
            assert life.pid is not None
            os.kill(life.pid, signal.SIGKILL)
            life.join()
            kills += 1
            joined, private = (run.home / "dataset" / "card.json", run.path / "models" / "private")
            where.add("baseline" if private.exists() else "private" if joined.exists() else "join")
            cut |= {step_saved(path) for path in (run.path / "private" / "state" / "private").glob("*.pt")}
        else:
            assert life.exitcode == 0
        ledgers = ledgers_of(run)  # refuses ledgers that lack an entry which a report was committed to
        check_released(run, ledgers)
        now = reserved(ledgers)
        assert all(before <= after for before, after in zip(known, now, strict=False))
        known = now
    assert where == {"join", "baseline", "private"}
    assert cut & set(range(1, STEPS))  # some died between two private steps and went on from there

    for run in runs:  # every step counted once, and the mechanism as claimed over all of them
        told = read_json(run.path / "models" / "private" / "training.json")
        assert told["steps"] == STEPS and told["mechanism_audit"]["p_value"] > 1e-6
    finals = [read_json(run.path / "models" / "private" / "privacy_report.json")["epsilon"] for run in runs]
    assert finals == [expected] * len(runs)
    for row in [each.head() for each in ledgers_of(runs[-1])]:
        assert row["sum_epsilon"] == pytest.approx(sum(finals))  # each training once, however often it was killed
        assert (row["trainings"], row["reserved"]) == (len(runs), 0)
    for run in runs:
        for name in ("validation", "test"):  # the training set has canaries of its own bits
            path = Path("private", "dataset", f"{name}.jsonl")
            assert (run.path / path).read_bytes() == (whole.path / path).read_bytes()
