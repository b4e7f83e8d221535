"""Threads sleep while they wait where another program is busy, and spin where none is."""

import os
import subprocess
import sys

import pytest

from helpers.config import PROJECT_ROOT

ASKED = (
    "from helpers.threads import wait_politely; import os; print(wait_politely(), os.environ.get('OMP_WAIT_POLICY'))"
)
PLAIN = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}


def told(**more: str) -> str:
    run = [sys.executable, "-c", ASKED]
    return subprocess.run(
        run, env={**PLAIN, **more}, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_beside_a_busy_program_threads_sleep() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
        try:
            assert told() == "True PASSIVE"
            assert told(GOMP_SPINCOUNT="7") == "False None"  # the reader's own choice
            assert told(OMP_WAIT_POLICY="ACTIVE") == "False ACTIVE"
        finally:
            loop.kill()


def test_alone_they_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import threads

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "busy_cores", lambda: 0.1)
    assert not threads.wait_politely() and "OMP_WAIT_POLICY" not in os.environ
