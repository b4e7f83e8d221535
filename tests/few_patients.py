"""Runs on the example's three holders with half of 600 patients, whose records are joined in seconds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock

from helpers.config import PROJECT_ROOT
from helpers.data.holders.pipeline import load_pipeline
from helpers.files import write_json
from helpers.privacy.grants import Grant, sign
from helpers.run import Run, open_private_run
from helpers.stages.join import join
from helpers.stages.private_training import fine_tune_private, ledgers_of

KEY = "0123456789abcdef" * 4
GRANT = "grant: {epsilon: 60, delta: 1.0e-5}"


def once(make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, for the first process of the tests that asks; nobody changes it afterwards."""
    folder = Path(os.environ["SHARED_BY_TESTS"], make.__name__)
    done = folder.with_suffix(".done")
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def _holders(folder: Path) -> None:
    example = PROJECT_ROOT / "example_data"
    shutil.copytree(example / "providers", folder, ignore=shutil.ignore_patterns("public"))
    made = [sys.executable, str(example / "make_providers.py"), "--patients", "600", "--folder", str(folder)]
    subprocess.run(made, check=True)


def holders() -> Path:
    """The folder of 600 patients and the pipeline."""
    return once(_holders)


def opened(folder: Path, pipeline: Path | None = None, **overrides: Any) -> Run:
    own = {
        "privacy.ledgers": str(folder / "ledgers"),
        "data.source": {"holders": str(pipeline or holders() / "pipeline.yaml")},
        "privacy.patients_share": 0.5,
        "privacy.steps": 4,
        "privacy.patients_a_step": 30,
        "privacy.max_length_tokens": 64,
    }
    return open_private_run("smoke", folder / "run", own | overrides)


def _joined(folder: Path) -> None:
    join(opened(folder))


def joined(folder: Path, **overrides: Any) -> Run:
    """A run of its own whose records were joined before; the tests need the environment's `KEY`."""
    run = opened(folder, **overrides)
    shutil.copytree(once(_joined) / "run" / "private", run.path / "private", dirs_exist_ok=True)
    return run


def _trained(folder: Path) -> None:
    fine_tune_private(joined(folder))


def trained_once() -> Run:
    """A run with the baseline and the private model; tests leave it as it is."""
    return opened(once(_trained))


def pipeline(folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the example's pipeline in which words are replaced."""
    shutil.copytree(holders(), folder / "providers")
    path = folder / "providers" / "pipeline.yaml"
    content = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    path.write_text(content, encoding="utf-8")
    return path


def make_real(path: Path, key: Ed25519PrivateKey, *, epsilon: float = 1000.0, delta: float = 1e-2) -> Path:
    """Declare the records of a pipeline real, with a grant that each holder signed, and return it."""
    content = path.read_text("utf-8").replace("fictitious: true", "fictitious: false")
    path.write_text(content, encoding="utf-8")
    for holder in load_pipeline(path).holders:
        amounts = {"ledger": f"{holder.name}-2026", "serial": 1, "epsilon": epsilon, "delta": delta}
        grant = sign(Grant.model_validate(holder.granting | amounts), key)
        write_json(path.with_name(f"{holder.name}_grant.json"), grant.model_dump())
        signed = f"grant: {{file: {holder.name}_grant.json, public_key: {grant.public_key}}}"
        content = content.replace(GRANT, signed, 1)
    path.write_text(content, encoding="utf-8")
    return path


def spends(run: Run) -> list[tuple[str, float]]:
    """For each holder, the sum of the single ε of all trainings."""
    return [(row["holder"], row["sum_epsilon"]) for row in [each.head() for each in ledgers_of(run)]]


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
