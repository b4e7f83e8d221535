"""The command line as a test calls it."""

from pathlib import Path

import pytest
from talker import Talker

from helpers.course import main

KEY = "sk-very-secret-key-0123456789"


def arguments(command: str, run: Path, talker: Talker | None, *more: str) -> list[str]:
    url = talker.base_url if talker else "http://127.0.0.1:9/v1"
    endpoint = ["--set", "endpoint.provider=openai", "--set", f"endpoint.base_url={url}"]
    return [command, "--conf", "smoke", "--run", str(run), *endpoint, *more]


def refused(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    capsys.readouterr()  # of commands before
    assert main(command) == 2
    message = capsys.readouterr().err.strip()
    assert "Traceback" not in message
    assert KEY not in message
    return message
