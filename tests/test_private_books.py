"""What trainings spend, when they spend it, and what is refused before they do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from few_patients import GRANT, interrupt, joined, opened, pipeline, spends
from opacus.accountants import PRVAccountant

from helpers.data.example import Example
from helpers.errors import LedgerError, ModelError, PrivacyError, RunError
from helpers.files import read_json, write_json
from helpers.privacy.accounting import spent
from helpers.privacy.grants import Grant, sign
from helpers.privacy.ledger import open_ledger, reserve
from helpers.run import Run
from helpers.stages import private_training
from helpers.stages.common import pipeline_of
from helpers.stages.private_training import fine_tune_private, ledgers_of

pytestmark = pytest.mark.usefixtures("one_key")


def test_a_deleted_model_is_trained_anew_and_paid_anew(trained: Run, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(trained.path, copied)
    shutil.copytree(trained.config.privacy.ledgers, tmp_path / "ledgers")
    again = Run(copied, trained.config.model_copy(
        update={"privacy": trained.config.privacy.model_copy(update={"ledgers": tmp_path / "ledgers"})}
    ))  # fmt: skip
    shutil.rmtree(copied / "models" / "private")
    fine_tune_private(again, only="private")
    [once], [twice] = {row[1] for row in spends(trained)}, {row[1] for row in spends(again)}
    assert twice == pytest.approx(2 * once)
    assert all(row["total_epsilon"] < 0.8 * row["sum_epsilon"] for row in [each.head() for each in ledgers_of(again)])
    weights = [(run.path / "models/private/adapter_model.safetensors").read_bytes() for run in (trained, again)]
    assert weights[0] != weights[1]  # sampling and noise are never those of before


def test_a_budget_that_is_too_small_refuses_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(tmp_path, pipeline(tmp_path, (GRANT, "grant: {epsilon: 7.0, delta: 1.0e-5}")))
    monkeypatch.setattr(private_training, "_fit", lambda *_: pytest.fail("it trained"))
    with pytest.raises(LedgerError, match="budget of hospital is too small"):
        fine_tune_private(run, only="private")
    assert not (run.path / "models" / "private").exists()


def test_a_budget_that_is_too_small_for_all_models_together_trains_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = pipeline(tmp_path, (GRANT, "grant: {epsilon: 8.2, delta: 1.0e-5}"))
    run = opened(tmp_path, few, **{"privacy.further_epsilons": [3]})
    monkeypatch.setattr(private_training, "_fit", lambda *_: pytest.fail("it trained"))
    with pytest.raises(
        LedgerError, match=r"too small for private and private_3: .* so far cost ε 0 .* granted is ε 8\.2"
    ):
        fine_tune_private(run)
    assert {row["entries"] for row in [each.head() for each in ledgers_of(run)]} == {1}


@pytest.mark.parametrize("check", ["check_batch_composition", "check_noisy_sum"])
def test_a_machine_that_fails_a_check_of_the_mechanism_is_refused_before_it_is_paid_for(
    check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = joined(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PrivacyError("Something is wrong on this machine.")

    monkeypatch.setattr(f"helpers.privacy.training.{check}", refuse)
    with pytest.raises(PrivacyError, match="Something is wrong on this machine"):
        fine_tune_private(run, only="private")
    assert {row["entries"] for row in [each.head() for each in ledgers_of(run)]} == {1}


def test_a_budget_changes_with_a_new_serial_alone(tmp_path: Path) -> None:
    run = opened(tmp_path, pipeline(tmp_path))
    ledgers_of(run)
    path = tmp_path / "providers" / "pipeline.yaml"
    as_it_was = path.read_text("utf-8")
    path.write_text(as_it_was.replace(GRANT, "grant: {epsilon: 9, delta: 1.0e-5}"), encoding="utf-8")
    with pytest.raises(LedgerError, match="hospital is refused: serial is 1, its ledger has 1 already"):
        ledgers_of(run)
    path.write_text(as_it_was.replace(GRANT, "grant: {epsilon: 9, delta: 1.0e-5, serial: 2}"), encoding="utf-8")
    assert {row["granted_epsilon"] for row in [each.head() for each in ledgers_of(run)]} == {9}
    path.write_text(as_it_was, encoding="utf-8")
    with pytest.raises(LedgerError, match="hospital is refused: serial is 1, its ledger has 2 already"):
        ledgers_of(run)


def test_a_copy_that_trains_on_by_itself_releases_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("helpers.privacy.training.Training._save", interrupt)
        fine_tune_private(run, only="private")
    copied = Run(tmp_path / "copy" / "run", run.config)  # the same name elsewhere, and the same ledgers
    shutil.copytree(run.path, copied.path)

    def meanwhile(*given: Any) -> Any:
        audit = fit(*given)
        monkeypatch.setattr(private_training, "_fit", fit)
        fine_tune_private(run, only="private")
        return audit

    fit = private_training._fit
    monkeypatch.setattr(private_training, "_fit", meanwhile)
    with pytest.raises(LedgerError, match="for another result"):
        fine_tune_private(copied, only="private")
    assert (run.path / "models" / "private").exists() and not (copied.path / "models" / "private").exists()
    refused, released = (copied.path / "models" / ".private.part").stat(), (run.path / "models" / "private").stat()
    assert (refused.st_mode & 0o777, released.st_mode & 0o777) == (0o700, 0o755)
    inside = {file.stat().st_mode & 0o777 for file in (run.path / "models" / "private").rglob("*") if file.is_file()}
    assert inside == {0o644}


def test_nothing_is_read_before_it_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    monkeypatch.setattr("helpers.privacy.ledger.reserve", interrupt)
    monkeypatch.setattr(private_training, "read_examples", lambda *_: pytest.fail("it read records"))
    with pytest.raises(KeyboardInterrupt):
        fine_tune_private(run, only="private")


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (["embed_tokens"], "embed_tokens"),
        (["nowhere"], "no layers to adapt as asked"),
        (["q_proj", "nowhere"], "names nowhere, which tiny-random has not"),
    ],
)
def test_what_cannot_be_trained_privately_is_refused_before_it_is_paid_for(
    tmp_path: Path, layers: list[str], told: str
) -> None:
    run = joined(tmp_path, **{"lora.target_modules": layers})
    with pytest.raises((PrivacyError, ModelError), match=told):
        fine_tune_private(run)  # the private one comes first, so that no baseline is trained in vain
    assert not any((run.path / "models").glob("[!.]*"))
    assert {row["entries"] for row in [each.head() for each in ledgers_of(run)]} == {1}  # the grant alone


def test_records_that_change_after_they_were_paid_for_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = joined(tmp_path)

    def changing(*given: Any) -> None:
        with (run.home / "dataset" / "train.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(Example("late", "records", (), "late", unit="late").row()) + "\n")
        reserve(*given)

    monkeypatch.setattr("helpers.privacy.ledger.reserve", changing)
    with pytest.raises(RunError, match="was replaced while its cost was reserved"):
        fine_tune_private(run, only="private")
    assert not (run.path / "models" / "private").exists()


def test_a_holder_without_a_grant_is_not_trained_on(tmp_path: Path) -> None:
    run = opened(tmp_path, pipeline(tmp_path, (GRANT, "grant: null")))
    with pytest.raises(PrivacyError, match="grants no budget"):
        fine_tune_private(run, only="private")


def test_a_step_whose_noise_was_forgotten_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    monkeypatch.setattr("helpers.privacy.mechanism.noisy_sum", lambda clipped, **_: clipped.float())
    with pytest.raises(PrivacyError, match=r"nothing is released: (an attacker guessed|summed over all steps)"):
        fine_tune_private(run, only="private")
    assert not (run.path / "models" / "private").exists()
    assert all(
        row["reserved"] == 1 for row in [each.head() for each in ledgers_of(run)]
    )  # what was done stays paid for


def test_a_kill_between_commit_and_release_spends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps its last error
        patch.setattr("helpers.privacy.release.release", interrupt)
        fine_tune_private(run, only="private")
    assert kept.tb is not None  # it holds every frame, and nothing in them may hold the model's lock
    assert not (run.path / "models" / "private").exists()
    spent = spends(run)
    monkeypatch.setattr("helpers.privacy.training.draw", lambda *_: pytest.fail("it trained again"))
    fine_tune_private(run, only="private")
    assert spends(run) == spent and (run.path / "models" / "private" / "privacy_report.json").exists()


@pytest.mark.parametrize(("field", "value"), [("unit", "record"), ("fictitious", False)])
def test_ledgers_for_another_unit_or_for_real_records_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    run = opened(tmp_path)
    [hospital, *_] = pipeline_of(run).holders
    own = hospital.granting | {"ledger": "hospital", "serial": 1, "epsilon": 60.0, "delta": 1e-5, field: value}
    grant = sign(Grant.model_validate(own), Ed25519PrivateKey.generate())
    open_ledger(tmp_path / "ledgers", grant, begin=True)
    for only in (None, "non_private"):  # no training without privacy on what was declared real once
        with pytest.raises(LedgerError, match=f"hospital is refused: {field} is .*, its ledger has {value!r}"):
            fine_tune_private(run, only=only)
    assert not any((run.path / "models").glob("*"))


@pytest.mark.parametrize(("factor", "until"), [
    (1 + 1e-11, "helpers.privacy.training.Training._save"),
    (1 - 1e-11, "helpers.privacy.training.Training.measure"),
    (1 + 1e-11, "helpers.privacy.release.release"),
])  # fmt: skip
def test_a_training_goes_on_where_a_processor_computes_other_last_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, until: str
) -> None:
    run = joined(tmp_path, **{"privacy.target_epsilon": None, "privacy.noise_multiplier": 1.3})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(until, interrupt)
        fine_tune_private(run, only="private")
    before = spends(run)

    real = PRVAccountant.get_epsilon
    monkeypatch.setattr(PRVAccountant, "get_epsilon", lambda *g, **k: factor * real(*g, **k))
    spent.cache_clear()
    fine_tune_private(run, only="private")
    report = read_json(run.path / "models" / "private" / "privacy_report.json")
    assert {ledger.entries()[-1].result for ledger in ledgers_of(run)} == {report["adapter_sha256"]}
    assert [holder for holder, _ in spends(run)] == [holder for holder, _ in before]
    assert {epsilon for _, epsilon in spends(run)} == {report["epsilon"]}
    fine_tune_private(run, only="private")  # and what was released is used again


def test_a_plan_that_differs_by_more_is_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("helpers.privacy.training.Training._save", interrupt)
        fine_tune_private(run, only="private")
    longer = run.config.privacy.model_copy(update={"steps": run.config.privacy.steps + 1})
    (run.path / "manifest.json").unlink()  # else the run folder itself is refused
    with pytest.raises(LedgerError, match="recorded as reserve"):
        fine_tune_private(Run(run.path, run.config.model_copy(update={"privacy": longer})), only="private")


def test_a_training_does_not_go_on_from_steps_of_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("helpers.stages.private_training.MECHANISM", "noise that can be foretold")
        patch.setattr("helpers.stages.private_training.save_adapter", interrupt)
        fine_tune_private(run, only="private")
    with pytest.raises(PrivacyError, match="records, settings or code"):
        fine_tune_private(run, only="private")
    assert not (run.path / "models" / "private").exists()


def test_a_state_that_a_kill_left_half_written_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    left = run.path / "private" / "state" / "private" / ".0123.pt.k1ll3d"
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("helpers.privacy.training.Training._save", interrupt)
            fine_tune_private(run, only="private")
        assert not left.exists()
        left.write_bytes(b"a second continuation")


def test_ledgers_that_were_begun_anew_are_noticed(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    private = trained.config.privacy.model_copy(update={"ledgers": tmp_path / "elsewhere"})
    moved = Run(tmp_path / "run", trained.config.model_copy(update={"privacy": private}))
    with pytest.raises(LedgerError, match="lacks an entry"):
        ledgers_of(moved)


def test_a_damaged_ledger_stops_everything(tmp_path: Path) -> None:
    run = joined(tmp_path)
    ledgers_of(run)
    path = tmp_path / "ledgers" / "pharmacy.jsonl"
    path.write_text(path.read_text("utf-8").replace("60", "90"), encoding="utf-8")
    with pytest.raises(LedgerError, match="pharmacy"):
        fine_tune_private(run, only="private")
    write_json(run.path / "unrelated.json", {})  # the run folder itself is as usable as before
