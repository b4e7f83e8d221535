"""A server in a child process that cannot outlive its parent, on a free port of this machine alone.

The child is a module run with `python -m`; its last argument is the file into which it writes its address once it
answers. It ends when its standard input closes, however the notebook that started it ends; and a crash in native code
takes the child alone.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.errors import EndpointError


@contextmanager
def child_server(
    module: str,
    *arguments: str,
    title: str,
    start_s: float,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a module as a server; yield its URL, `http://127.0.0.1:.../v1`, and kill it afterwards.

    `arguments` are those before the address file; messages call the server `title`; it may take `start_s` seconds until
    it answers. `folder` is the child's working folder. Of `env`, variables count that are not set already.

    Raises:
        EndpointError: the server died while it loaded, or took too long.
    """
    with TemporaryDirectory(prefix="server-", ignore_cleanup_errors=True) as temporary:
        log, address = Path(temporary, "log"), Path(temporary, "address")
        with (
            log.open("wb") as log_file,
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(address)],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**(env or {}), **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Stopping a notebook's cell must not stop its server.
            ) as process,
        ):
            try:
                yield _wait_until_ready(process, address, log, title, start_s)
            finally:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], address: Path, log: Path, title: str, start_s: float) -> str:
    give_up_at = time.monotonic() + start_s
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            tail = log.read_text(encoding="utf-8", errors="replace").split("\n")[-6:]
            raise EndpointError(
                f"The {title} stopped with exit code {process.returncode} before it was ready; is its model "
                f"whole, and memory free? It said: {' '.join(tail).strip()}"
            )
        if address.exists():
            return f"{address.read_text(encoding='utf-8')}/v1"
        time.sleep(0.05)
    raise EndpointError(f"The {title} was not ready after {start_s:.0f} s; close other programs and run again.")


def watch_parent() -> threading.Thread:
    """In the child: start the thread that ends this process when its standard input closes."""
    thread = threading.Thread(target=_exit_with_parent, daemon=True)
    thread.start()
    return thread


def _exit_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would turn an error of the main thread into an abort
        pass
    os._exit(0)
