"""What the default profile promises of its private half: the leak without privacy, none with it, at a fair price."""

from pathlib import Path

import pytest

from helpers.files import read_json
from helpers.run import open_private_run
from helpers.stages.audit import audit_privacy
from helpers.stages.private_training import fine_tune_private, told_of


@pytest.mark.slow  # two trainings and their audit on the real model
def test_the_default_leaks_without_privacy_and_keeps_the_gain_with_it(tmp_path: Path) -> None:
    run = open_private_run("cpu", tmp_path / "run", {"privacy.ledgers": str(tmp_path / "ledgers")})
    fine_tune_private(run)
    privacy = audit_privacy(run)
    assert read_json(run.home / "results.json")["privacy"] == privacy
    base, baseline, private = (privacy["models"][name] for name in ("base", "non_private", "private"))
    curve = [row["heldout_loss"] for row in told_of(run, "non_private")["log"]]
    assert baseline["secret_revealed"] == 1.0 and baseline["canary_auc"] >= 0.95
    assert privacy["epsilon"] <= 8 and privacy["delta"] <= 1e-5 and privacy["audit_works"]
    assert private["secret_revealed"] == 0.0 and private["canary_auc_high"] <= 0.62
    tokens = [told_of(run, name)["tokens"] for name in ("non_private", "private")]
    assert max(tokens) <= 40_000
    assert read_json(run.path / "models" / "private" / "training.json")["mechanism_audit"]["p_value"] > 1e-3
    gain, whole = (base["heldout_loss"] - found["heldout_loss"] for found in (private, baseline))
    assert gain >= 0.85 * (whole + curve[-1] - min(curve))  # of the baseline at its best
