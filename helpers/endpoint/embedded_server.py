"""llama.cpp's own server, run in a child process for readers who have no chat endpoint at hand.

The child is this very file run with `python -m`; `child` says how it ends.
"""

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from helpers.endpoint.child import child_server, watch_parent
from helpers.errors import ModelError
from helpers.files import write_atomic

CONTEXT = 1024  # tokens of the longest prompt and answer together
START_S = 60  # seconds that the server may take to load the model
# How often libgomp's threads look whether the others are ready before they sleep. By default they look for so long that
# one busy program beside the server makes requests time out; never looking takes 1.5 to 3.5 times as long alone
# (docs/decisions/0009).
_SPINS = {"GOMP_SPINCOUNT": "500"}


def embedded_server(gguf: Path, parallel: int) -> AbstractContextManager[str]:
    """Serve a GGUF file on a free loopback port, `parallel` requests at a time; gives its URL, `http://.../v1`.

    Raises:
        ModelError: there is no such file.
        EndpointError: the server died while it loaded the model, or took too long.
    """
    if not gguf.is_file():
        raise ModelError(f"There is no GGUF file at {gguf}; give the path of one that exists.")
    return child_server(
        __spec__.name,
        str(gguf.resolve()),
        str(parallel),
        title="embedded chat server",
        start_s=START_S,
        env={} if "OMP_WAIT_POLICY" in os.environ else _SPINS,
    )


def _serve(gguf: Path, parallel: int, address: Path) -> None:
    """Run the server until standard input closes; write its URL to `address` once it answers."""
    watchdog = watch_parent()
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


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
