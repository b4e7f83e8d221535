"""Which chat server is asked: its address, model and key, from the configuration and the environment."""

import codecs
import io
import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from dotenv.parser import parse_stream
from pydantic import SecretStr
from rapidfuzz import fuzz, process

from helpers.config_layers import SECRET_SHAPE
from helpers.errors import ConfigError

NAMES = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "OWUI_URL", "OWUI_TOKEN", "OWUI_FAV_MODEL")
"""Environment variables that are read."""
# Paths below a server's address; what follows the scheme is a host, whatever it is called.
_ENDS = re.compile(
    r"(?<![:/])(/chat/completions|/completions|/responses|/models|/c/[^/]+|/auth|/workspace.*|/admin.*)$"
)
_ROOT_ENDS = re.compile(r"((?<![:/])/(openai|ollama|api))?((?<![:/])/v\d+)?$")


class Server(NamedTuple):
    """A chat server."""

    base_url: str | None
    """None for the embedded one."""
    model: str | None
    """Of the embedded server the path of a GGUF file. None: the first one offered, or the embedded server's own."""
    api_key: SecretStr | None

    @property
    def place(self) -> str:
        """Its address without what may be secret (a user's name and password, a query), or `embedded`."""
        if self.base_url is None:
            return "embedded"
        *scheme, address = self.base_url.split("://", 1)
        address, _, query = address.partition("?")
        if "@" in query:  # a password with a question mark, or a query with a secret
            return "an address with ? and @"
        return "://".join([*scheme, address.rpartition("@")[2].rstrip("/")])

    def name(self, model: str | None = None) -> str:
        """What files call a model of this server, by default the configured one; the embedded one's is a file."""
        model = model or self.model or "any model"
        return f"{model if self.base_url else PurePath(model).stem} at {self.place}"

    def is_called(self, name: str) -> bool:
        """Whether a file's `name` may stand for this server; an unnamed model is any of the server's."""
        return name == self.name() if self.model else name.endswith(f" at {self.place}")


def read_env(path: Path) -> None:
    """Set the environment variables of a `.env` file that are not set yet, whichever editor wrote it.

    Raises ConfigError where it is no text, or a line names no variable and its value.
    """
    if not path.is_file():
        return
    content, text = path.read_bytes(), "\0"
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    with suppress(UnicodeDecodeError):
        text = content.decode(encoding)
    if "\0" in text:  # outside `except`: an error of decoding holds the file's content
        raise ConfigError(f"{path.name} is no UTF-8 text. Save it as UTF-8 in your editor.")
    found: dict[str, str] = {}  # of a name that stands twice, the last value counts
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key and line.value is None):
            blank = len(line.original.string) - len(line.original.string.lstrip("\r\n"))
            number = line.original.line + line.original.string[:blank].count("\n")
            raise ConfigError(
                f"{path.name}, line {number} (not shown) is no NAME=VALUE with its value on the same line. "
                "Correct it; a remark begins with #."
            )
        if line.key:
            found[line.key] = line.value or ""  # as it stands there: a key may hold ${
    for name, value in found.items():
        os.environ.setdefault(name, value)


def tidied(address: str) -> str:
    """Clean up a pasted address: no quotation marks, no page or method at its end, and with a scheme."""
    text = address.strip().strip("\"'<>").strip()
    if not re.match(r"[a-z]+://", text, re.IGNORECASE):
        host = re.split(r"[/:?]", text.rpartition("@")[2].lstrip("["))[0]
        near = "." not in host or ":" in text
        with suppress(ValueError):
            near = bool(ipaddress.ip_address(host)) or near
        text = f"{'http' if near else 'https'}://{text}"
    address, _, query = re.split(r"\s#|/#", text)[0].strip().partition("?")
    query = "" if re.match(r"models?=", query) else query  # of a page that a browser shows
    return _ENDS.sub("", address.rstrip("/")).rstrip("/") + (f"?{query}" if query else "")


def addresses(base_url: str) -> list[str]:
    """Where a server's API may lie: at an address (without query), or below what is left without its usual ends."""
    root = _ROOT_ENDS.sub("", base_url)
    ends = (f"{root}{end}" for end in ("/v1", "/api", "/api/v1", "/openai/v1"))
    return list(dict.fromkeys([base_url, f"{base_url.removesuffix('/v1')}/v1", *ends]))


def resolve_endpoint(provider: str, base_url: str | None, model: str | None, env: Mapping[str, str]) -> Server:
    """Find the endpoint's address, model and key in the configuration and the environment.

    Provider `auto` means the server of `base_url` or of a complete OPENAI_BASE_URL and OPENAI_API_KEY pair, else Open
    WebUI where OWUI_URL is set, else OPENAI_BASE_URL without a key, else the embedded one. Configured values
    win over the environment, in which empty variables count as unset; keys come from the environment alone. Raises
    ConfigError where a variable is missing or misspelt, or settings exclude one another.
    """
    # Docker's --env-file keeps the quotation marks.
    env = {name: text for name, value in env.items() if (text := value.strip().strip("\"'"))}
    openai_url = base_url or env.get("OPENAI_BASE_URL")
    if provider == "auto":
        if base_url or {"OPENAI_BASE_URL", "OPENAI_API_KEY"} <= env.keys():
            provider = "openai"
        else:
            provider = "open_webui" if "OWUI_URL" in env else "openai" if openai_url else "embedded"
        if provider == "embedded":
            _refuse_misspelt(env)
    if provider == "embedded":
        if base_url:
            raise ConfigError(
                f"endpoint.base_url is {Server(base_url, None, None).place!r}, but endpoint.provider is 'embedded', "
                "which has its own address; set endpoint.base_url to null, or endpoint.provider to 'openai'."
            )
        return Server(None, model, None)
    if provider == "openai":
        url, key, model = openai_url, env.get("OPENAI_API_KEY"), model or env.get("OPENAI_MODEL")
        missing = "" if url else "OPENAI_BASE_URL"
    else:
        root = _ROOT_ENDS.sub("", tidied(env["OWUI_URL"])) if "OWUI_URL" in env else ""
        url, key, model = base_url or f"{root}/api", env.get("OWUI_TOKEN"), model or env.get("OWUI_FAV_MODEL")
        missing = "OWUI_URL" if not (base_url or root) else "" if key else "OWUI_TOKEN"
    if missing:
        _refuse_misspelt(env)
        raise ConfigError(
            f"endpoint.provider is {provider!r}, but {missing} is not set; set it in the environment or in "
            ".env, or set endpoint.provider to 'embedded'."
        )
    host = re.sub(r"^https?://", "", str(url)).partition("/")[0]
    if re.search(r"\s\S+=", str(url)) or ("." not in host and SECRET_SHAPE.match(host)):
        raise ConfigError(
            "The chat server's address is an API key, or several settings (not shown). Correct "
            "endpoint.base_url, or in .env OPENAI_BASE_URL or OWUI_URL: one setting on each line."
        )
    key = re.sub(r"^bearer\s+", "", key or "", flags=re.IGNORECASE)
    return Server(tidied(str(url)), model, SecretStr(key) if key else None)


def _refuse_misspelt(env: Mapping[str, str]) -> None:
    """Raise ConfigError where variables name a server that would not be asked, so that none passes in silence."""
    for name in sorted(env.keys() - NAMES):
        meant = ""
        if re.match(r"OWUI|OPEN_?WEB_?UI", name, re.IGNORECASE):
            found = process.extractOne(name.upper(), NAMES[3:], scorer=fuzz.ratio, score_cutoff=72)
            meant = found[0] if found else ""
        elif name == "OPENAI_API_BASE" or fuzz.ratio(name.upper(), "OPENAI_BASE_URL") >= 80:
            meant = "OPENAI_BASE_URL"
        if meant and meant not in env:
            raise ConfigError(
                f"{name} is set, but nothing reads it; {meant} is probably meant. Rename it in .env or in the "
                "environment, or set endpoint.provider to the server that you mean."
            )
    if half := [name for name in ("OWUI_TOKEN", "OWUI_FAV_MODEL") if name in env and "OWUI_URL" not in env]:
        raise ConfigError(
            f"{half[0]} is set, but OWUI_URL is not set. Add OWUI_URL=<address of your Open WebUI> to .env, or set "
            "endpoint.provider to the server that you mean."
        )
