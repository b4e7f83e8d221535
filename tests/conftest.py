"""No test, nor any process that one starts, may use the network or see the developer's keys."""

import atexit
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
OFFLINE = str(HERE / "offline")
PRIVATE = ("OPENAI_", "OWUI_", "HF_TOKEN", "PSEUDONYM_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def _isolate() -> None:
    for name in list(os.environ):
        if name.upper().startswith(PRIVATE):
            del os.environ[name]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["ACCELERATE_USE_CPU"] = "true"  # the tests are for the CPU, that of a machine with a GPU too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several tests run processes side by side (0009)
    if "PYTEST_XDIST_WORKER" in os.environ:
        for limit in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):  # several workers; the embedded server asks joblib
            os.environ.setdefault(limit, "1")
    elif "SHARED_BY_TESTS" not in os.environ:
        os.environ["SHARED_BY_TESTS"] = tempfile.mkdtemp(prefix="tests-")  # for the workers too
        atexit.register(shutil.rmtree, os.environ["SHARED_BY_TESTS"], ignore_errors=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH", "")]))
    sys.path[:0] = [OFFLINE, str(HERE)]
    # Python has run its own start-up file by now, perhaps another sitecustomize: this process runs ours here.
    sys.modules.pop("sitecustomize", None)
    import sitecustomize

    assert sitecustomize.__file__ == str(Path(OFFLINE, "sitecustomize.py"))


_isolate()  # at once: modules such as huggingface_hub read the environment when they are imported

from fixture_types import GlossaryFile, SmokeRun  # noqa: E402
from talker import Talker  # noqa: E402

from helpers.run import Run, open_run  # noqa: E402


def pytest_xdist_auto_num_workers() -> int:
    """One more process than cores: some always wait, for a server, a clock or a kernel that starts."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish() -> None:
    """Leave all that is imported out of garbage collection: accelerate asks for one after each training."""
    gc.freeze()  # saves a tenth of the time


@pytest.fixture(autouse=True)
def _own_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep stages from reading the developer's .env into this process."""
    monkeypatch.setattr("helpers.run.read_env", lambda _: None)


@pytest.fixture(scope="session")
def tiny() -> str:
    """Folder of the tiny random Llama, made once below .cache/."""
    from helpers.models.find import resolve_model

    return resolve_model("tiny-random")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small Llama and its tokenizer, of two layers and some thousand numbers."""
    from small_models import save_small

    folder = tmp_path_factory.mktemp("models") / "small"
    save_small(folder)
    return str(folder)


@pytest.fixture
def fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as a processor without bf16 does, so that results can be compared to the last digits."""
    monkeypatch.setattr("helpers.models.precision.cpu_multiplies_bf16", lambda: False)


@pytest.fixture
def glossary_file(tmp_path: Path) -> GlossaryFile:
    """Write a glossary: rows become JSON, text and bytes are written as they are."""

    def write(content: Any, name: str = "glossary.json") -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def smoke_run(tmp_path: Path) -> SmokeRun:
    """Open a run folder of the smoke profile with overrides, and make it."""

    def make(overrides: dict[str, Any] | None = None, folder: str = "run") -> Run:
        run = open_run("smoke", tmp_path / folder, overrides)
        run.begin()
        return run

    return make


@pytest.fixture
def talker() -> Iterator[Talker]:
    """A chat server that writes and judges; set its `fail_from` to make it fail."""
    with Talker() as server:
        yield server


@pytest.fixture
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same patients in the same splits for all tests, so that the noise is looked for once."""
    from few_patients import KEY

    monkeypatch.setenv("PSEUDONYM_KEY", KEY)


@pytest.fixture
def trained(one_key: None) -> Run:
    """A run with the baseline and the private model of 600 patients; tests leave it as it is."""
    from few_patients import trained_once

    return trained_once()
