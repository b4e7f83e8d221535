"""Which chat server is asked: its address, model and key, from the configuration and the environment."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Literal, NamedTuple

from pydantic import SecretStr

from helpers.errors import ConfigError

Provider = Literal["auto", "embedded", "openai", "open_webui"]


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
        scheme, found, address = self.base_url.partition("://")
        shown = (address if found else scheme).partition("?")[0].rpartition("@")[2].rstrip("/")
        return f"{scheme}://{shown}" if found else shown

    def name(self, model: str | None = None) -> str:
        """What files call a model of this server, by default the configured one; the embedded one's is a file."""
        model = model or self.model or "any model"
        return f"{model if self.base_url else PurePath(model).stem} at {self.place}"

    def is_called(self, name: str) -> bool:
        """Whether a file's `name` may stand for this server; an unnamed model is any of the server's."""
        return name == self.name() if self.model else name.endswith(f" at {self.place}")


def resolve_endpoint(provider: Provider, base_url: str | None, model: str | None, env: Mapping[str, str]) -> Server:
    """Find the endpoint's address, model and key in the configuration and the environment.

    `auto` means the server of `base_url` or of a complete OPENAI_BASE_URL and OPENAI_API_KEY pair, else Open
    WebUI where OWUI_URL is set, else OPENAI_BASE_URL without a key, else the embedded one. Configured values
    win over the environment, in which empty variables count as unset; keys come from the environment alone. Raises
    ConfigError where a variable is missing, or settings exclude one another.
    """
    env = {name: value.strip() for name, value in env.items() if value.strip()}
    if provider == "auto":
        openai_url = base_url or env.get("OPENAI_BASE_URL")
        complete = base_url or (openai_url and "OPENAI_API_KEY" in env)
        provider = (
            "openai" if complete else "open_webui" if "OWUI_URL" in env else "openai" if openai_url else "embedded"
        )
    if provider == "embedded":
        if base_url:
            raise ConfigError(
                f"endpoint.base_url is {base_url!r}, but endpoint.provider is 'embedded', which has its own "
                "address; set endpoint.base_url to null, or endpoint.provider to 'openai'."
            )
        return Server(None, model, None)
    if provider == "openai":
        url, key = base_url or env.get("OPENAI_BASE_URL"), env.get("OPENAI_API_KEY")
        model, missing = model or env.get("OPENAI_MODEL"), None if url else "OPENAI_BASE_URL"
    else:
        root = env.get("OWUI_URL", "").rstrip("/").removesuffix("/api")
        url, key = base_url or (root and f"{root}/api"), env.get("OWUI_TOKEN")
        model = model or env.get("OWUI_FAV_MODEL")
        missing = "OWUI_URL" if not url else None if key else "OWUI_TOKEN"
    if missing:
        raise ConfigError(
            f"endpoint.provider is {provider!r}, but {missing} is not set; set it in the environment or in "
            ".env, or set endpoint.provider to 'embedded'."
        )
    return Server(url, model, SecretStr(key) if key else None)
