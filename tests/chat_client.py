"""The chat client as tests use it."""

import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from scripted_server import (
    MODEL,
)

from helpers.config import Endpoint, load_config
from helpers.endpoint.chat import ChatEndpoint
from helpers.errors import EndpointError
from helpers.server import Server, tidied

KEY = "sk-very-secret-0123456789"
ASK: Any = [{"role": "user", "content": "Is WHO the World Health Organization?"}]
OPTIONS: Any = {"max_tokens": 60, "temperature": 0.0, "seed": 1}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["correct", "incorrect"]},
        "reason": {"type": "string", "maxLength": 200},
    },
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
VERDICT = {"verdict": "correct", "reason": "It {is}."}


def endpoint(url: str, **settings: Any) -> ChatEndpoint:
    defaults: dict[str, Any] = {"timeout_s": 5, "max_attempts": 2, "max_wait_s": 5, "loading_s": 5}
    model, address = settings.pop("model", MODEL), tidied(settings.pop("address", f"{url}/v1"))
    return ChatEndpoint(Server(address, model, SecretStr(KEY)), configured(**(defaults | settings)))


def configured(**settings: Any) -> Endpoint:
    return load_config("smoke", {f"endpoint.{name}": value for name, value in settings.items()}).endpoint


def message_of(action: Callable[[], Any], within_s: float = 3, kind: type = EndpointError) -> str:
    """Run a failing action; check what holds for every failure, and return its message."""
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        action()
    assert time.monotonic() - start < within_s
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    assert KEY not in "".join(traceback.format_exception(error))
    assert "\n" not in str(error) and str(error).endswith(".")
    return str(error)
