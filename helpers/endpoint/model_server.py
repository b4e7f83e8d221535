"""transformers' own server for a folder with a whole model, run in a child process on this machine alone.

The child is this very file run with `python -m`; `child` says how it ends. It serves what the command
`transformers serve FOLDER` would, on a port that is free.
"""

import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from helpers.endpoint.child import child_server, watch_parent
from helpers.errors import ModelError
from helpers.files import write_atomic

START_S = 180  # seconds until it answers: torch is loaded once more, and then the model


def model_server(folder: Path) -> AbstractContextManager[str]:
    """Serve a model's folder; gives its OpenAI-compatible URL, `http://127.0.0.1:.../v1`.

    The model is called as the folder is, and no key is asked for: any program of this machine may ask while it runs.

    Raises:
        ModelError: the folder holds no whole model or has an @ in its name.
        EndpointError: the server died while it loaded the model, or took too long.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no whole model (config.json is missing). Merge an adapter into its base first."
        )
    folder = folder.resolve()  # `.` has no name
    if "@" in folder.name:
        raise ModelError(
            f"The folder {folder.name} cannot be served: what follows an @ is read as a version. Rename it."
        )
    return child_server(
        __spec__.name,
        folder.name,
        title="model's server",
        start_s=START_S,
        folder=folder.parent,
        env={"HF_HUB_OFFLINE": "1"},  # it loads this folder and nothing from the hub
    )


def _serve(name: str, address: Path) -> None:
    """Run the server until standard input closes; write its URL to `address` once it answers."""
    watchdog = watch_parent()
    from transformers.cli.serve import Serve

    served = Serve(name, host="127.0.0.1", port=0, non_blocking=True)  # loads the model before it returns
    while not served.server.started:
        time.sleep(0.05)
    port = served.server.servers[0].sockets[0].getsockname()[1]
    write_atomic(address, f"http://127.0.0.1:{port}")
    watchdog.join()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
