"""The course through a real Open WebUI, in front of the embedded model: addresses, keys, writing, a kill, the judge.

    make test-open-webui

Installs Open WebUI into an environment of its own (3 to 6 GB, once) below .cache/, starts it on this machine, signs up,
and goes through what a reader does. Stops at the first thing that is not as it should be; figures go into
runs/open_webui.json.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import papermill
from pydantic import SecretStr

from helpers.config import PROJECT_ROOT, load_config
from helpers.endpoint.chat import ChatEndpoint
from helpers.endpoint.embedded_server import embedded_server
from helpers.errors import EndpointError
from helpers.files import read_jsonl, write_json
from helpers.installed import embedded_gguf
from helpers.server import resolve_endpoint

VERSION = "0.12.4"
PLACE = PROJECT_ROOT / ".cache" / "open-webui"
FORMS = ("{root}", "{root}/", "{root}/api", "{root}/api/v1", "{root}/openai", "{root}/c/0a1b", "{root}/?models=any",
         "{bare}", "'{root}/api/chat/completions'")  # fmt: skip
"""Addresses as people paste them."""


def installed() -> Path:
    """The program, installed first where it is missing."""
    program = PLACE / "bin" / "open-webui"
    if not program.exists():
        print(f"Installing Open WebUI {VERSION} into {PLACE.relative_to(PROJECT_ROOT)} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
        subprocess.run([PLACE / "bin" / "pip", "install", "--quiet", f"open-webui=={VERSION}"], check=True)
    return program


def call(url: str, token: str = "", **body: Any) -> Any:
    """POST (or GET, without a body) and decode."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


@contextmanager
def open_webui(model_server: str, folder: Path) -> Iterator[str]:
    """Serve Open WebUI on a free port; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "DATA_DIR": str(folder), "OFFLINE_MODE": "True", "RAG_EMBEDDING_ENGINE": "openai", "WEBUI_SECRET_KEY": "s",
        "OPENAI_API_BASE_URL": model_server, "OPENAI_API_KEY": "none", "ENABLE_OLLAMA_API": "False",
        "ENABLE_SIGNUP": "True", "DEFAULT_USER_ROLE": "user",
    }  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [installed(), "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            for _ in range(600):
                try:
                    call(f"http://127.0.0.1:{port}/health")
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()[-3000:]
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def refused(url: str, token: str) -> str:
    """What the client says about a key that does not work."""
    settings = load_config("smoke", {"endpoint.provider": "open_webui"}).endpoint
    server = resolve_endpoint("open_webui", None, None, {"OWUI_URL": url, "OWUI_TOKEN": token})
    try:
        ChatEndpoint(server, settings).check()
    except EndpointError as error:
        return str(error)
    raise AssertionError("the key was accepted")


def course(command: str, run: Path, env: dict[str, str], *more: str) -> subprocess.Popen[str]:
    size = ["--set", "dataset.max_entries=4", "--set", "dataset.forward_by_model=8"]
    arguments = [sys.executable, "-m", "helpers.course", command, "--conf", "smoke", "--run", str(run), *size, *more]
    return subprocess.Popen(
        arguments, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, float]:
    """Wait for a command that has to succeed: what it printed, and seconds."""
    begun = time.monotonic()
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return printed, round(time.monotonic() - begun, 1)


def notebook(run: Path, env: dict[str, str]) -> tuple[float, list[dict[str, Any]]]:
    """Run notebook 01-create_dataset/01: seconds, and what was written."""
    begun, source = time.monotonic(), PROJECT_ROOT / "01-create_dataset" / "01-write_conversations.ipynb"
    parameters = {
        "conf": "smoke",
        "run": str(run),
        "overrides": {"dataset.max_entries": 4, "dataset.forward_by_model": 8},
    }
    target = run.with_suffix(".ipynb")
    options = {"cwd": source.parent, "kernel_name": "python3", "progress_bar": False}
    with patch.dict(os.environ, env):
        papermill.execute_notebook(source, target, parameters, **options)
    return round(time.monotonic() - begun, 1), read_jsonl(run / "dataset" / "conversations.jsonl")


def main() -> None:
    installed()
    found: dict[str, Any] = {"version": VERSION}
    folder = Path(tempfile.mkdtemp(prefix="open-webui-"))
    try:
        with embedded_server(embedded_gguf(), 8) as model_server, open_webui(model_server, folder) as root:
            user = {"name": "a", "email": "a@example.org", "password": "a long pass word"}
            token = call(f"{root}/api/v1/auths/signup", **user)["token"]
            for form in FORMS:
                address = form.format(root=root, bare=root.removeprefix("http://"))
                server = resolve_endpoint("open_webui", None, None, {"OWUI_URL": address, "OWUI_TOKEN": token})
                chat = ChatEndpoint(server, load_config("smoke").endpoint)
                model = chat.check()
                found["probe"] = chat.probe()
                as_openai = resolve_endpoint("openai", address, None, {})._replace(api_key=SecretStr(token))
                ChatEndpoint(as_openai, load_config("smoke").endpoint).check()
                print(f"{address}: {model}", flush=True)
            others = {
                role: call(f"{root}/api/v1/auths/add", token, **user | {"email": f"{role}@example.org", "role": role})[
                    "token"
                ]
                for role in ("user", "pending")
            }
            for told, key, wanted in (
                ("a wrong token", "a-wrong-token", "anew"),
                ("a user without access to the model", others["user"], "administrator"),
                ("a user who waits for approval", others["pending"], "administrator to approve it"),
                ("an API key where they are off", "sk-0123456789abcdef0123456789abcdef", "takes no API keys"),
            ):
                message = refused(root, key)
                print(f"{told}: {message}", flush=True)
                assert wanted in message, message
            env = {"OWUI_URL": root, "OWUI_TOKEN": token, "OWUI_FAV_MODEL": model, "OPENAI_BASE_URL": ""}
            run = folder / "run"
            killed = course("create", run, env)
            path = run / "dataset" / "conversations.jsonl"
            while killed.poll() is None and not (path.exists() and len(read_jsonl(path)) > 2):
                time.sleep(0.05)
            killed.kill()
            killed.communicate()
            before = len(read_jsonl(path))
            printed, found["create_after_kill_s"] = finish(course("create", run, env))
            assert f"{model} at {root}" in printed, printed
            rows = read_jsonl(path)
            found |= {"before_kill": before, "conversations": len(rows)}
            found["by_model"] = sum(row["origin"] == "model" for row in rows)
            assert 0 < before < len(rows) and found["by_model"]
            _, found["create_s"] = finish(course("create", folder / "again", env))
            found["notebook_s"], written = notebook(folder / "notebook", env)
            writers = {row["writer"] for row in written if row["origin"] == "model"}
            assert writers and all(root in writer for writer in writers), writers
            embedded = {"OWUI_URL": "", "OWUI_TOKEN": "", "OPENAI_BASE_URL": ""}
            _, found["create_embedded_s"] = finish(course("create", folder / "embedded", embedded))
            for command in ("prepare", "fine-tune", "answer"):
                finish(course(command, run, env))
            _, found["score_s"] = finish(course("score", run, env))
            verdicts = [row for path in (run / "judge").glob("*.jsonl") for row in read_jsonl(path)]
            found["verdicts"] = sum(row["verdict"] is not None for row in verdicts)
            assert found["verdicts"] and all(root in row["judge"] for row in verdicts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(PROJECT_ROOT / "runs" / "open_webui.json", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
