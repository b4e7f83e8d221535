"""Which chat server is asked: settings, environment, `.env` files and addresses as people paste them."""

import os
from pathlib import Path

import pytest
from chat_client import KEY
from pydantic import SecretStr

from helpers.errors import ConfigError
from helpers.server import read_env, resolve_endpoint


def test_settings_come_from_configuration_then_environment() -> None:
    open_webui = {"OWUI_URL": "http://w/api/", "OWUI_TOKEN": "t", "OWUI_FAV_MODEL": "m"}
    server = {"OPENAI_BASE_URL": "http://o/v1", "OPENAI_API_KEY": "k", "OPENAI_MODEL": "n"}
    token, key = SecretStr("t"), SecretStr("k")
    # Onyxia's chart injects OPENAI_* when the user's own AI provider is on: it comes before the vault's Open WebUI.
    assert resolve_endpoint("auto", None, None, open_webui | server) == ("http://o/v1", "n", key)
    assert resolve_endpoint("auto", None, None, open_webui) == ("http://w/api", "m", token)
    assert resolve_endpoint("auto", None, None, server | {"OWUI_URL": " "}) == ("http://o/v1", "n", key)
    for empty in (" ", '""', " '' "):  # Docker's --env-file keeps the quotation marks
        assert resolve_endpoint("auto", None, None, {"OPENAI_BASE_URL": empty, "OWUI_URL": empty}).base_url is None
    assert resolve_endpoint("auto", "http://c/v1", None, {}) == ("http://c/v1", None, None)
    assert resolve_endpoint("auto", None, None, {"OPENAI_API_KEY": "k"}) == (None, None, None)
    assert resolve_endpoint("openai", "http://c/v1", "x", server) == ("http://c/v1", "x", key)
    assert resolve_endpoint("embedded", None, None, open_webui | server) == (None, None, None)
    for provider, env, missing in [
        ("openai", {"OPENAI_API_KEY": KEY}, "OPENAI_BASE_URL"),
        ("open_webui", {"OWUI_TOKEN": KEY}, "OWUI_URL"),
        ("open_webui", {"OWUI_URL": "http://w"}, "OWUI_TOKEN"),
    ]:
        with pytest.raises(ConfigError, match=f"{missing} is not set") as caught:
            resolve_endpoint(provider, None, None, env)
        assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match=r"endpoint\.base_url"):
        resolve_endpoint("embedded", "http://c/v1", None, {})


@pytest.mark.parametrize(
    "content",
    [
        "OPENAI_BASE_URL=http://h/v1\nOPENAI_API_KEY=k\n".encode("utf-8-sig"),
        "OPENAI_BASE_URL=http://h/v1\r\nOPENAI_API_KEY=k\r\n".encode("utf-16"),
        b"export OPENAI_BASE_URL=http://h/v1/chat/completions\nOPENAI_API_KEY = k\n",
        b"OPENAI_BASE_URL=http://h/v1 # the lab's\nOPENAI_API_KEY=k # mine\n",
        b"OPENAI_BASE_URL=\"http://h/v1\"\nOPENAI_API_KEY='Bearer k'\n",
    ],
)
def test_every_form_of_an_env_file_is_read(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    (tmp_path / ".env").write_bytes(content)
    read_env(tmp_path / ".env")
    server = resolve_endpoint("auto", None, None, os.environ)
    assert server == ("http://h/v1", None, SecretStr("k"))


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("OPENAI_BASE_URL: http://h/v1", 1),
        ("OPENAI_API_KEY=\nsk-5ecre7key", 2),
        ('A=1\nOPENAI_API_KEY="sk-5ecre7key', 2),
        ('{"OPENAI_API_KEY": "sk-5ecre7key"}', 1),
        ("A=1\n\n\nOPENAI_API_KEY: sk-5ecre7key", 4),
    ],
)
def test_a_line_that_would_be_dropped_is_named(content: str, number: int, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(content)
    with pytest.raises(ConfigError, match=rf"\.env, line {number} \(not shown\)") as caught:
        read_env(tmp_path / ".env")
    assert "5ecre7" not in str(caught.value)


def test_a_key_is_read_as_it_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    (tmp_path / ".env").write_text("# mine\n\nOPENAI_API_KEY=an-old-one\nOPENAI_API_KEY=sk-${ab}cd\n")
    read_env(tmp_path / ".env")
    assert os.environ == {"OPENAI_API_KEY": "sk-${ab}cd"}


@pytest.mark.parametrize("url", ["http://h/v1 OPENAI_API_KEY=sk-5ecre7key", "sk-5ecre7key1", "http://sk-5ecre7key1"])
def test_a_key_in_place_of_the_address_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="one setting on each line") as caught:
        resolve_endpoint("auto", None, None, {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"})
    assert "5ecre7" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://sk-llm-gateway.corp.example/v1", "http://hf_spaces1.internal/v1"])
def test_a_host_that_begins_as_a_key_is_one(url: str) -> None:
    assert resolve_endpoint("auto", url, None, {}).base_url == url


@pytest.mark.parametrize("content", ["OPENAI_API_KEY=k".encode("utf-16-le"), b"OPENAI_API_KEY=k\0"])
def test_an_env_file_with_nulls_is_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigError, match="Save it as UTF-8"):
        read_env(tmp_path / ".env")


def test_an_env_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("OPENAI_API_KEY=gehœim-é".encode("cp1252"))
    with pytest.raises(ConfigError, match="Save it as UTF-8") as caught:
        read_env(tmp_path / ".env")
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://h:3000/", "http://h:3000/api"),
        ("http://h:3000/c/0a1b-2c", "http://h:3000/api"),
        ("https://chat.example.fr/?models=llama", "https://chat.example.fr/api"),
        ("chat.example.fr", "https://chat.example.fr/api"),
        ("localhost:3000", "http://localhost:3000/api"),
        ("'http://h/api/v1'", "http://h/api"),
        ("http://h/openai", "http://h/api"),
        ("http://h/api/chat/completions", "http://h/api"),
        ("http://api/v1", "http://api/api"),
        ("https://h/team/openwebui/auth", "https://h/team/openwebui/api"),
    ],
)
def test_the_address_of_open_webui_is_read_however_it_is_pasted(given: str, address: str) -> None:
    assert resolve_endpoint("auto", None, None, {"OWUI_URL": given, "OWUI_TOKEN": "t"}).base_url == address


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OWUI_ULR", "OWUI_URL"),
        ("OPENWEBUI_URL", "OWUI_URL"),
        ("owui_url", "OWUI_URL"),
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("OPENAI_BASEURL", "OPENAI_BASE_URL"),
    ],
)
def test_a_misspelt_variable_does_not_pass_in_silence(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is set, but nothing reads it; {meant} is probably meant"):
        resolve_endpoint("auto", None, None, {name: "http://h", "OPENAI_API_KEY": "k"})
    assert resolve_endpoint("auto", None, None, {"OPENAI_ORG_ID": "o", "OPENAI_LOG": "info"}).base_url is None
    with pytest.raises(ConfigError, match="OWUI_URL is not set"):
        resolve_endpoint("auto", None, None, {"OWUI_TOKEN": "t"})
