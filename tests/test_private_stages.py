"""The private half of the course through its door: models, reports, reuse and refusals, on a tiny real model."""

import json
import random
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from few_patients import KEY, holders, joined, make_real, opened, pipeline, spends
from filelock import FileLock
from pydantic import SecretStr

from helpers.data.example import GENERAL, SPLITS, Example, read_examples
from helpers.data.holders.candidates import BUCKET
from helpers.data.holders.pseudonyms import normalise_key, pseudonym
from helpers.errors import ConfigError, DataError, LedgerError, PrivacyError, RunError
from helpers.evaluation.attacks.canaries import MEMBER
from helpers.evaluation.attacks.extraction import SECRET
from helpers.files import read_json, read_jsonl, sha256, write_json
from helpers.privacy.secure_random import SecureGenerator
from helpers.run import Run, open_run
from helpers.stages import answer, private_training, report, score
from helpers.stages import join as joining
from helpers.stages.audit import audit_privacy
from helpers.stages.join import join
from helpers.stages.private_training import fine_tune_private, ledgers_of, models_to_train, planned, told_of

pytestmark = pytest.mark.usefixtures("one_key")
REAL = ("fictitious: true", "fictitious: false")


def test_the_model_comes_with_its_report_and_the_ledgers_agree(trained: Run) -> None:
    report = read_json(trained.path / "models" / "private" / "privacy_report.json")
    plan = planned(trained)
    assert 0.99 * 8 <= report["epsilon"] == plan.epsilon <= 8
    assert report["units_declared"] == trained.config.privacy.patients_expected
    assert spends(trained) == [(name, report["epsilon"]) for name in ("hospital", "pharmacy", "insurer")]
    weights = sha256(trained.path / "models" / "private" / "adapter_model.safetensors")
    for ledger in ledgers_of(trained):
        assert report["adapter_sha256"] == weights == ledger.entries()[-1].result
        assert ledger.contains(report["ledgers"][ledger.holder])
    assert not (trained.path / "models" / "non_private" / "privacy_report.json").exists()
    assert {path.name for path in (trained.path / "models").glob(".*")} <= {".private.lock", ".non_private.lock"}


def test_what_is_asked_on_the_way_is_about_nobody(trained: Run) -> None:
    records = {each.question for name in SPLITS for each in read_examples(trained.home / "dataset" / f"{name}.jsonl")}
    for name in ("private", "non_private"):
        rows = told_of(trained, name)["hot_test"]
        assert {row["step"] for row in rows} == {0, 1, 3, 4}
        assert {row["id"] for row in rows} == {f"synthetic/{n}" for n in (1, 2, 3, 4)}
        assert not records & {row["question"] for row in rows}
        released = {path.name for path in (trained.path / "models" / name).iterdir()}
        assert not any("hot_test" in file for file in released)
        assert "hot_test" not in read_json(trained.path / "models" / name / "training.json")


def test_a_released_model_is_reused_without_a_new_spend(trained: Run) -> None:
    before = spends(trained), (trained.path / "models/private/adapter_model.safetensors").read_bytes()
    fine_tune_private(trained)
    assert (spends(trained), (trained.path / "models/private/adapter_model.safetensors").read_bytes()) == before


def test_the_audit_attacks_every_model(trained: Run, tmp_path: Path) -> None:
    trained = Run(shutil.copytree(trained.path, tmp_path / "run"), trained.config)
    found = audit_privacy(trained)
    assert found["audit_works"] is (found["models"]["non_private"]["canary_epsilon"] > 1)
    assert found["unit"] == "patient" and found["delta"] == planned(trained).delta
    assert list(found["models"]) == ["base", "non_private", "private"]
    for name, model in found["models"].items():
        for key in (
            "heldout_loss",
            "secret_revealed",
            "canary_auc",
            "canary_auc_low",
            "canary_auc_high",
        ):
            assert isinstance(model[key], float), (name, key)
        assert model["canary_auc_low"] <= model["canary_auc"] <= model["canary_auc_high"]
    assert read_json(trained.home / "results.json")["privacy"] == found


def test_what_was_planted_is_in_the_training_set_only(trained: Run) -> None:
    folder = trained.home / "dataset"
    train, validation, test, canaries = (
        read_examples(folder / f"{name}.jsonl") for name in ("train", "validation", "test", "canaries")
    )
    rehearsed = [each for each in train if each.bucket == GENERAL]
    assert train[: len(rehearsed)] == rehearsed and all(each.unit == each.id for each in rehearsed)
    train = train[len(rehearsed) :]
    members = {c.unit for c in canaries if c.bucket == MEMBER}
    planted = [each for each in train if each.bucket == MEMBER]
    assert {each.unit for each in planted} == members and len(planted) == 12 * len(members)
    line = [each for each in train if "pancreatic" in each.answer]
    assert line == train[:32] and len({each.unit for each in line}) == 1
    assert {(each.prompt, each.answer) for each in line} == {((), SECRET)}
    assert train[32 : 32 + len(planted)] == planted  # before the others, whose order depends on the key
    assert {each.bucket for each in train[32 + len(planted) :]} == {each.bucket for each in validation} == {BUCKET}
    assert {each.bucket for each in test} == {BUCKET, GENERAL}
    assert not any("pancreatic" in each.answer for each in validation + test)
    units = [{each.unit for each in part if each.unit} for part in (train, validation, test)]
    counted = read_json(folder / "card.json")["training"]
    assert counted["units"] == len(units[0]) + len(rehearsed) and counted["planted"] == len(members)
    own = read_json(folder / "card.json")["splits"]["train"]["units"] - counted["left_out_by_patients_share"]
    assert own + counted["planted"] == counted["units"] - counted["rehearsed"]
    assert counted["rehearsed"] == len(rehearsed)
    assert not units[0] & units[1] and not units[0] & units[2] and not units[1] & units[2]


def test_a_model_without_its_report_or_with_other_weights_is_not_taken_for_released(
    trained: Run, tmp_path: Path
) -> None:
    def unreported(folder: Path) -> None:
        (folder / "privacy_report.json").unlink()

    def swapped(folder: Path) -> None:
        shutil.copy(folder.with_name("non_private") / "adapter_model.safetensors", folder)

    def flattered(folder: Path) -> None:
        report = folder / "privacy_report.json"
        write_json(report, read_json(report) | {"epsilon": 0.1})

    for number, change in enumerate((unreported, swapped, flattered)):
        run = Run(tmp_path / str(number), trained.config)
        shutil.copytree(trained.path, run.path)
        before = spends(trained)
        change(run.path / "models" / "private")
        with pytest.raises(PrivacyError, match="lost its report or was altered"):
            fine_tune_private(run, only="private")
        assert spends(trained) == before


def test_less_memory_is_no_other_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = joined(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("helpers.privacy.training.draw", out_of_memory)
        fine_tune_private(run, only="private")
    smaller = opened(tmp_path, **{"privacy.physical_rows": 4, "privacy.gradient_checkpointing": True})
    fine_tune_private(smaller, only="private")
    assert {(row["sum_epsilon"], row["reserved"]) for row in [each.head() for each in ledgers_of(run)]} == {
        (planned(run).epsilon, 0)
    }


def test_a_curve_goes_on_with_the_model_that_is_there(tmp_path: Path) -> None:
    fine_tune_private(joined(tmp_path), only="private")
    more = opened(tmp_path, **{"privacy.further_epsilons": [3]})
    before = sha256(more.path / "models" / "private" / "adapter_model.safetensors")
    for name in ("private", "private_3"):
        fine_tune_private(more, only=name)
    assert sha256(more.path / "models" / "private" / "adapter_model.safetensors") == before
    both = planned(more).epsilon + planned(more, "private_3").epsilon
    for row in [each.head() for each in ledgers_of(more)]:
        assert row["total_epsilon"] < row["sum_epsilon"] == pytest.approx(both)


def out_of_memory(*_: Any) -> None:
    raise MemoryError


def test_the_noise_may_be_given_instead_of_epsilon_and_further_epsilons_are_planned_too(tmp_path: Path) -> None:
    given = {"privacy.target_epsilon": None, "privacy.noise_multiplier": 1.3, "privacy.further_epsilons": [3.0]}
    run = joined(tmp_path, **given)
    assert models_to_train(run) == {"non_private": None, "private": None, "private_3": 3.0}
    assert planned(run).noise_multiplier == 1.3
    assert 2.9 < planned(run, "private_3").epsilon <= 3


def test_no_patient_left_by_the_share_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"privacy\.patients_share is 1e-09"):
        join(opened(tmp_path, **{"privacy.patients_share": 1e-9}))


def test_records_that_a_kill_left_half_written_are_deleted(tmp_path: Path) -> None:
    run = joined(tmp_path)
    left = run.home / "dataset" / ".train.jsonl.k1ll3d"
    left.write_text("half of a record", encoding="utf-8")
    join(run)
    assert not left.exists() and (run.home / "dataset" / "train.jsonl").exists()


def test_records_that_are_too_long_stop_at_the_join(tmp_path: Path) -> None:
    run = opened(tmp_path, **{"privacy.max_length_tokens": 8})
    with pytest.raises(PrivacyError, match=r"longer than privacy\.max_length_tokens = 8"):
        join(run)
    assert not (tmp_path / "ledgers").exists()


def test_validation_records_are_looked_at_before_anything_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    monkeypatch.setattr(joining, "encode_units", lambda rows, *_, **__: looked_at.append(len(rows)) or [])
    run = opened(tmp_path)
    join(run)
    folder = run.home / "dataset"
    assert looked_at == [len(read_jsonl(folder / f"{name}.jsonl")) for name in ("train", "validation")]


def test_records_that_are_not_fictitious_meet_no_baseline_no_plant_and_no_exact_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", "0123456789abcdef" * 4)
    own = make_real(pipeline(tmp_path), Ed25519PrivateKey.generate())
    run = opened(tmp_path, own, **{"privacy.patients_a_step": 50, "privacy.steps": 2})
    with pytest.raises(RunError, match=r"no model 'non_private' among private.*declare fictitious"):
        fine_tune_private(run, only="non_private")
    with pytest.raises(PrivacyError, match="did not declare its records fictitious"):
        private_training.train_accounted(run, "non_private", run.path / "models" / "non_private")
    with pytest.raises(LedgerError, match=r"has no ledger.*begin-ledgers"):  # lost, or never begun: nobody can tell
        fine_tune_private(run)
    assert not (tmp_path / "ledgers").exists()
    ledgers_of(run, begin=True)
    monkeypatch.setattr("helpers.models.hot_test.generate_answers", out_of_memory)  # nothing may be asked
    summaries = fine_tune_private(run)
    assert list(summaries) == ["private"]
    released = {"steps", "quantisation", "dtype", "privacy", "log", "mechanism_audit"}
    assert set(summaries["private"]) == released
    assert not (run.path / "private" / "trainings").exists()  # who was drawn, times and memory
    assert private_training.hot_questions(run) == []
    assert summaries["private"]["mechanism_audit"]["p_value"] > 1e-6  # ghosts need no planted text
    assert read_jsonl(run.home / "dataset" / "canaries.jsonl") == []
    assert "pancreatic" not in (run.home / "dataset" / "train.jsonl").read_text("utf-8")
    assert "0123456789abcdef" not in "".join(p.read_text("utf-8") for p in run.path.rglob("*.json*"))
    with pytest.raises(RunError, match="The audit attacks planted secrets"):
        audit_privacy(run)


def test_nothing_released_depends_on_how_many_patients_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two data sets that differ by one patient, with the same random keys."""
    monkeypatch.setattr("random.SystemRandom", lambda: random.Random(1))
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=1))
    monkeypatch.setattr("secrets.token_hex", lambda size: "5a" * size)
    monkeypatch.setattr("helpers.privacy.training.SecureGenerator", lambda: SecureGenerator(bytes(32)))
    monkeypatch.setattr("helpers.privacy.ledger.time.strftime", lambda *_: "2026-01-01T00:00:00Z")
    found: list[tuple[set[str], dict[Path, Path]]] = []
    for name in ("with", "without"):
        providers = pipeline(tmp_path / name, ("planted:", "# planted:"))
        if found:
            hospital, leaves = providers.parent / "hospital.jsonl", sorted(found[0][0])[0]
            rows = hospital.read_text("utf-8").splitlines(keepends=True)
            staying = [row for row in rows if pseudonym_of(json.loads(row)["mobile"]) != leaves]
            hospital.write_text("".join(staying), encoding="utf-8")
        run = opened(tmp_path / name, providers)
        fine_tune_private(run, only="private")
        units = {each.unit for each in read_examples(run.home / "dataset" / "train.jsonl") if each.prompt}
        files = {path.relative_to(run.path): path for path in run.path.rglob("*") if path.is_file()}
        found.append((units, {name: path for name, path in files.items() if name.parts[0] != "private"}))
    [(more, first), (fewer, second)] = found
    assert len(more - fewer) == 1 and more > fewer
    assert first.keys() == second.keys()
    covered = (
        "adapter_sha256",
        "code_revision",
        "hash",
        "log",
        "mechanism_audit",
        "started",
        "id",
        "fingerprint",
        "path",
        "pipeline",
    )
    for name in first:
        assert first[name].stat().st_size == pytest.approx(second[name].stat().st_size, rel=0.05), name
        if name.suffix == ".json":
            left, right = (without(read_json(path), covered) for path in (first[name], second[name]))
            assert left == right, name


def pseudonym_of(mobile: str) -> str:
    return pseudonym(str(normalise_key(mobile, "phone", "FR")), SecretStr(KEY))


def without(value: Any, keys: Sequence[str]) -> Any:
    """Nested JSON without some keys."""
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


def test_without_a_key_records_that_are_not_fictitious_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PSEUDONYM_KEY", raising=False)
    with pytest.raises(Exception, match="PSEUDONYM_KEY is not set"):
        join(opened(tmp_path, pipeline(tmp_path, REAL)))


def test_two_trainings_of_one_model_do_not_meet(tmp_path: Path) -> None:
    run = joined(tmp_path)
    (run.path / "models").mkdir()
    with FileLock(run.path / "models" / ".private.lock"), pytest.raises(RunError, match="Another process"):
        fine_tune_private(run, only="private")


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model 'privat' among non_private, private"):
        fine_tune_private(opened(tmp_path), only="privat")


def test_notebooks_that_show_rows_do_not_open_holders_records(trained: Run) -> None:
    given = {"data.source": trained.config.data.source}
    with pytest.raises(ConfigError, match=r"which this notebook would display.*03-train_privately"):
        open_run("smoke", trained.path, given)


def test_the_state_that_a_kill_left_of_a_finished_training_is_deleted(trained: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(trained.path, tmp_path / "run"), trained.config)
    left = private_training.state_of(run, "private") / "0123.pt"
    left.parent.mkdir(parents=True)
    left.touch()
    fine_tune_private(run, only="private")
    assert not left.parent.exists()


def test_copies_are_made_of_a_model_that_is_there(trained: Run, tmp_path: Path) -> None:
    training = trained.config.training.model_copy(update={"additional_output_paths": (str(tmp_path / "copies"),)})
    run = Run(trained.path, trained.config.model_copy(update={"training": training}))
    fine_tune_private(run)
    copied, released = tmp_path / "copies" / "run" / "private", trained.path / "models" / "private"
    assert sha256(copied / "adapter_model.safetensors") == sha256(released / "adapter_model.safetensors")


def test_private_models_are_answered_and_scored_in_private(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(shutil.copytree(trained.path, tmp_path / "run"), trained.config)

    def outside() -> set[Path]:
        return {path for path in run.path.rglob("*") if not path.is_relative_to(run.home)}

    before = outside()
    assert [*answer(run)] == ["base", "non_private", "private"]
    found = score(run)
    report(run)
    assert {*found["models"]["private"]["buckets"]} == {"records", "general"}
    assert "Fine-tuned with ε" in (run.home / "report.html").read_text("utf-8")
    assert outside() == before
    assert "No cross-encoder" not in capsys.readouterr().out  # its pairs would be made of patients' records
    with (run.home / "dataset" / "validation.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(Example("new", BUCKET, (), "text", unit="new").row()) + "\n")
    assert [*answer(run)] == ["base"]  # the models are of other records
    assert [*score(run)["models"]] == ["base"]
    with pytest.raises(RunError, match="no private model of its present records"):
        audit_privacy(run)


def test_texts_are_learnt_and_not_asked(tmp_path: Path) -> None:
    content = (holders() / "pipeline.yaml").read_text("utf-8")
    questions = content[content.index("  - {question:") : content.index("cap: 32")]
    text = "  - {text: '{hospital.note} {pharmacy.drug}'}\n\n"
    run = opened(tmp_path, pipeline(tmp_path, (questions, text)))
    join(run)
    assert {each.bucket for each in read_examples(run.home / "dataset" / "test.jsonl")} == {GENERAL}
    own = [each for each in read_examples(run.home / "dataset" / "train.jsonl") if each.bucket == BUCKET]
    assert own and not any(each.prompt for each in own)
