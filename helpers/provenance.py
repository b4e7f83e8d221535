"""What a stage was made with and what it cost: versions, code, machine, time and memory."""

import hashlib
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

HELPERS = Path(__file__).parent
TRACKED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "sentence-transformers", "openai")


def surroundings() -> dict[str, Any]:
    """Revision of the code, Python, machine and versions of the libraries that matter."""
    return {
        "code_revision": _code_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: found.version for name in TRACKED for found in [*distributions(name=name)][:1]},
    }


@cache
def code_digest(name: str) -> str:
    """Twelve hex digits of a module or package of `helpers`, its YAML and HTML included."""
    path = HELPERS / name
    files = [path.with_suffix(".py")]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.*") if file.suffix in (".py", ".yaml", ".html"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _code_revision() -> str | None:
    """The commit, and whether this package differs from it.

    The whole repository is not compared: after a pull, git would filter every notebook, which takes it ten seconds.
    """
    git = partial(subprocess.run, cwd=HELPERS, capture_output=True, text=True, timeout=10)
    with suppress(OSError, subprocess.SubprocessError):
        commit = git(["git", "describe", "--always"], check=True).stdout.strip()
        changed = git(["git", "diff", "--quiet", "HEAD", "--", "."]).returncode
        return f"{commit}-dirty" if changed else commit
    return None


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure a block: fills `seconds` and `peak_memory_mb` (resident memory of this process, sampled)."""
    cost: dict[str, float] = {}
    process, stop = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    started = time.monotonic()
    watcher.start()
    try:
        yield cost
    finally:
        stop.set()
        watcher.join()
        cost["seconds"] = round(time.monotonic() - started, 2)
        cost["peak_memory_mb"] = round(peak[0] / 2**20, 1)
