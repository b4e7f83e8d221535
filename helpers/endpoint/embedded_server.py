"""llama.cpp's own server, run in a child process for readers who have no chat endpoint at hand.

The child is this very file run with `python -m`. It ends when its standard input closes, so it cannot
outlive the notebook that started it, however that notebook ends; and a crash in native code takes the
child alone.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.errors import EndpointError, ModelError
from helpers.files import write_atomic

CONTEXT = 1024  # tokens of the longest prompt and answer together
START_S = 60  # seconds that the server may take to load the model
# How often libgomp's threads look whether the others are ready before they sleep. By default they look for so long that
# one busy program beside the server makes requests time out; never looking costs a third (docs/decisions/0009).
_SPINS = {"GOMP_SPINCOUNT": "3000"}


@contextmanager
def embedded_server(gguf: Path, parallel: int) -> Iterator[str]:
    """Serve a GGUF file on a free loopback port, `parallel` requests at a time; yield its URL, `http://.../v1`.

    Raises:
        ModelError: there is no such file.
        EndpointError: the server died while it loaded the model, or took too long.
    """
    if not gguf.is_file():
        raise ModelError(f"There is no GGUF file at {gguf}; give the path of one that exists.")
    spins = {} if "OMP_WAIT_POLICY" in os.environ else _SPINS
    with TemporaryDirectory(prefix="embedded-server-", ignore_cleanup_errors=True) as folder:
        log, address = Path(folder, "log"), Path(folder, "address")
        with (
            log.open("wb") as log_file,
            subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(gguf.resolve()), str(parallel), str(address)],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env={**spins, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Stopping a notebook's cell must not stop its server.
            ) as process,
        ):
            try:
                yield _wait_until_ready(process, address, log)
            finally:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], address: Path, log: Path) -> str:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            tail = log.read_text(encoding="utf-8", errors="replace").split("\n")[-6:]
            raise EndpointError(
                f"The embedded chat server stopped with exit code {process.returncode} before it was ready; "
                f"is the GGUF file whole, and memory free? It said: {' '.join(tail).strip()}"
            )
        if address.exists():
            return f"{address.read_text(encoding='utf-8')}/v1"
        time.sleep(0.05)
    raise EndpointError(
        f"The embedded chat server was not ready after {START_S} s; close other programs and run again."
    )


def _serve(gguf: Path, parallel: int, address: Path) -> None:
    """Run the server until standard input closes; write its URL to `address` once it answers."""
    watchdog = threading.Thread(target=_exit_with_parent, daemon=True)
    watchdog.start()
    import joblib  # type: ignore[import-untyped]
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {gguf.stem}  # Without it the model is listed under its path on this machine.
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_parallel, params.n_ctx = parallel, parallel * CONTEXT
    params.cache_prompt = True  # Requests that share a long beginning pay for it once.
    # joblib heeds a container's CPU quota; more threads than that make llama.cpp many times slower.
    params.cpuparams.n_threads = joblib.cpu_count(only_physical_cores=True)
    params.ui = params.endpoint_slots = False  # The slots page would show prompts to other users.
    params.verbosity = 1  # Errors alone.
    server = xllamacpp.Server(params)  # Returns once the model is loaded.
    write_atomic(address, server.listening_address)
    watchdog.join()


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
