"""Profiles, overrides, mistakes, secrets and the fingerprint of a configuration."""

import re
from pathlib import Path
from typing import Any

import pytest
from fixture_types import GlossaryFile

from helpers.config import PROJECT_ROOT, load_config
from helpers.errors import ConfigError

ENTRY = {"acronym": "ABC", "definition": "Alpha Beta Gamma"}


def mistake(profile: str | Path = "smoke", overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(profile, overrides)
    return str(caught.value)


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu", "own_data"])
def test_profiles_load(profile: str) -> None:
    config = load_config(profile)
    assert config.profile == profile
    assert config.glossary.is_file()


def test_all_mistakes_in_one_message() -> None:
    overrides = {"sede": 1, "lora.rank": 0, "training.epochs": "many", "dataset": {"attempts": -1}, "a.b.c": 1}
    message = mistake(overrides=overrides)
    assert "5 mistakes" in message
    for part in ("sede: unknown key", "lora.rank", "training.epochs", "dataset.attempts", "received 'many'", "a: unk"):
        assert part in message


def test_what_may_be_a_secret_is_not_repeated() -> None:
    message = mistake(overrides={"sede": "my-5ecre7", "lora.rank": "a long text that nobody meant to show to anyone"})
    assert "sede: unknown key" in message and "lora.rank: Input should be" in message
    assert "5ecre7" not in message and "nobody" not in message


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"data.source": {"holders": 5}}, "holders: expected the path"),
        ({"data.source": {"holders": "a.yaml", "x": 1}}, "and no other key"),
        (
            {"data.source": {"holders": "p.yaml"}, "data.columns": {"question": "Q"}},
            "columns: only for tables",
        ),
        ({"privacy.target_epsilon": 0}, r"privacy\.target_epsilon: .*greater than 0"),
        ({"privacy.target_epsilon": -1.0}, r"privacy\.target_epsilon: .*greater than 0"),
        ({"privacy.further_epsilons": [3, 0]}, r"privacy\.further_epsilons\.1: .*greater than 0"),
        ({"privacy.delta": 1.0}, r"privacy\.delta: .*less than 1"),
        ({"privacy.noise_multiplier": 1.0}, "exactly one of target_epsilon and noise_multiplier"),
        ({"privacy.target_epsilon": None}, "exactly one of target_epsilon and noise_multiplier"),
    ],
)
def test_a_promise_that_is_none_is_refused(overrides: dict[str, Any], told: str) -> None:
    assert re.search(told, mistake(overrides=overrides))


def test_dotted_overrides_leave_their_neighbours() -> None:
    default, config = load_config("smoke"), load_config("smoke", {"lora.rank": 3, "endpoint.model": "x"})
    assert (config.lora.rank, config.lora.alpha) == (3, default.lora.alpha)
    assert config.endpoint.model == "x"


def test_readers_own_keys_are_replaced_whole() -> None:
    config = load_config("smoke", {"training.adapters": {"mine": "nf4"}, "training_arguments": {"weight_decay": 0.1}})
    assert config.training.adapters == {"mine": "nf4"}
    assert config.training_arguments == {"weight_decay": 0.1}
    assert "PEFT takes letters" in mistake(overrides={"training.adapters": {"v1.0": "none"}})
    assert "in_context" in mistake(overrides={"training.adapters": {"in_context": "none"}})
    assert "non_private" in mistake(overrides={"training.adapters": {"non_private": "none"}})
    assert "same number twice" in mistake(overrides={"privacy.further_epsilons": [3, 3.0000001]})


def test_overrides_are_not_changed_and_may_overlap() -> None:
    section = {"rank": 2}
    assert load_config("smoke", {"lora": section, "lora.alpha": 5}).lora.alpha == 5
    assert section == {"rank": 2}
    assert "lora.rank cannot be set" in mistake(overrides={"lora": 5, "lora.rank": 8})


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("endpoint.api_key", "plain-password", "OPENAI_API_KEY"),
        ("endpoint.password", 12345678, "OPENAI_API_KEY"),
        ("endpoint.model", "sk-abcdefgh12345678", "OPENAI_API_KEY"),
        ("training_arguments.hub_token", "hf_abcdefgh12345678", "HF_TOKEN"),
        ("lora.target_modules", ["q_proj", "hf_abcdefgh12345678"], "HF_TOKEN"),
        ("endpoint.base_url", "Bearer abcdefgh12345678", "OWUI_TOKEN"),
        ("privacy.pseudonym_key", "5ecre7", "PSEUDONYM_KEY"),
        ("privacy.key", "9f8e7d6c" * 8, "PSEUDONYM_KEY"),
        ("data.storage_options", {"headers": {"X-Api-Key": "5ecre7"}}, "AWS_ACCESS_KEY_ID"),
        ("data.storage_options", {"secretAccessKey": "5ecre7"}, "AWS_ACCESS_KEY_ID"),
        ("endpoint.extra", {"api-key": "5ecre7"}, "OPENAI_API_KEY"),
        ("data.source", "https://ghp_abcdefgh12345678@host/faq.csv", "AWS_ACCESS_KEY_ID"),
        ("data.source", {"load_dataset": {"path": "a", "token": "abcdefgh"}}, "HF_TOKEN"),
    ],
)
def test_secrets_are_refused_unseen(key: str, value: Any, line: str) -> None:
    message = mistake(overrides={key: value})
    assert key in message
    assert line in message
    assert ".env" in message
    if isinstance(value, dict):
        value = next(iter(value.values()))
    secrets = value[1:] if isinstance(value, list) else [*value.values()][-1:] if isinstance(value, dict) else [value]
    assert not [secret for secret in secrets if str(secret) in message]


def test_a_mapping_without_its_spaces() -> None:
    assert "put a space after each colon" in mistake(overrides={"data.columns": {"question:Frage": None}})


def test_what_only_looks_like_a_secret_is_taken() -> None:
    words = {"data.prompt.system": "Basic questions about badges.", "data.columns": {"question": "sk-learn-questions"}}
    config = load_config("smoke", words | {"data.source": {"load_dataset": {"path": "a", "token": True}}})
    assert config.data.prompt.system == words["data.prompt.system"]
    assert load_config("smoke", {"data.prompt.system": "Bearer securities"}).data.prompt.system == "Bearer securities"
    for address in ("abfs://container@account.dfs.core.windows.net/faq.csv", "https://host.example/?u=a@b.c"):
        assert load_config("smoke", {"data.source": address}).data.source == address
    chain = ("simplecache::s3://bucket/models",)
    assert load_config("smoke", {"training.additional_output_paths": chain}).training.additional_output_paths == chain


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "data:\n  source: a.csv\nlora: {rank: 2}\ndata:\n  rewordings: 1\n",
            r"line 4: the key 'data' stands there twice",
        ),
        ("lora:\n  rank: 2\n  rank: 3\n", "line 3: the key 'rank' stands there twice"),
        ("lora: &a\n  more: *a\n", "not valid YAML"),
    ],
)
def test_a_file_of_which_half_would_be_lost(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert re.search(told, mistake(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", -1, "seed: .*greater than or equal to 0"),
        ("seed", 2**40, "seed: .*less than 4294967296"),
        ("training.epochs", float("inf"), r"training\.epochs: .*finite"),
        ("glossary", "~nobody-here/g.json", "no such user"),
        ("training.additional_output_paths", ["$HOME/c"], r"'\$HOME/c' is no folder and no address"),
        ("training.additional_output_paths", ["s3:/b"], "'s3:/b' is no folder and no address"),
    ],
)
def test_values_that_end_in_a_library_s_error_later(key: str, value: Any, told: str) -> None:
    assert re.search(told, mistake(overrides={key: value}))


def test_secret_in_a_profile_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("endpoint:\n  token: abc123\n")
    assert re.match(r"mine\.yaml: endpoint\.token holds a secret", message := mistake(path))
    assert "abc123" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"lora: [1", "line 1"),
        (b"- 1\n- 2", "expected keys and values"),
        (b"lora:\n\trank: 1", "line 2"),
        (b"seed: \xff\xfe", "UTF-8"),
        (b"1: 2\non: 3", "1: unknown key\n  on: unknown key"),
    ],
)
def test_broken_profiles(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert expected in mistake(path)


def test_own_profile_with_bom_and_empty(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 7\n")
    assert (load_config(path).seed, load_config(path).profile) == (7, "mine")
    path.write_text("")
    assert load_config(path).seed == 0


def test_unknown_profile_lists_the_known() -> None:
    assert re.search("no profile or file 'huge'.*cpu, gpu, own_data, smoke", mistake("huge"))
    assert "no profile" in mistake("conf")


def test_fingerprint_follows_results_alone(glossary_file: GlossaryFile) -> None:
    path = glossary_file([ENTRY])
    before = load_config("smoke", {"glossary": str(path)}).fingerprint()
    assert re.fullmatch("[0-9a-f]{8}", before)
    transport = {"endpoint.timeout_s": 1, "endpoint.max_wait_s": 1, "endpoint.parallel_requests": 1}
    assert load_config("smoke", {"glossary": str(path), **transport}).fingerprint() == before
    assert load_config("smoke", {"glossary": str(path), "lora.rank": 5}).fingerprint() != before
    path.write_bytes(path.read_bytes() + b"\n")
    assert load_config("smoke", {"glossary": str(path)}).fingerprint() != before


def test_relative_glossary_is_anchored_at_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("smoke").glossary == PROJECT_ROOT / "example_data" / "acronyms.json"


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config("smoke").seed = 2  # type: ignore[misc]


def test_numbers_and_special_tokens_of_training_arguments(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training_arguments: {weight_decay: 1e-2, adam_epsilon: 1E-8, eos_token: <s>, run_name: e5}\n")
    found = load_config(path).training_arguments
    assert found == {"weight_decay": 0.01, "adam_epsilon": 1e-8, "eos_token": "<s>", "run_name": "e5"}


def test_a_password_in_an_address_is_refused() -> None:
    for key in ("endpoint.base_url", "data.source"):
        message = mistake(overrides={key: "https://me:pass-word@example.org/v1"})
        assert f"{key} holds a secret (not shown)" in message and "pass-word" not in message


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AKIA0"},
        {"account_key": "ab+c=="},
        {"connection_string": "AccountName=x"},
        {"client_kwargs": {"aws_secret_access_key": "abc"}},
        {"headers": {"Authorization": "abc"}},
        {"headers": {"X-Own": "Basic bWU6cGFzcw=="}},
        {"client_kwargs": {"auth": ["me", "abc"]}},
        {"ftp_pwd": "abc"},
    ],
)
def test_secrets_of_a_file_system_are_refused(options: dict[str, Any]) -> None:
    assert "holds a secret (not shown)" in mistake(overrides={"data.storage_options": options})
    fine = {"endpoint_url": "http://127.0.0.1:9000", "client_kwargs": {"region_name": "fr"}, "anon": True}
    assert load_config("smoke", {"data.storage_options": fine}).data.storage_options == fine


def test_a_signed_address_is_refused_and_an_ordinary_one_is_not() -> None:
    assert "holds a secret" in mistake(overrides={"data.source": "https://a.org/b.csv?x=1&X-Amz-Signature=0f"})
    assert load_config("smoke", {"data.source": "https://a.org/b.csv?download=true"}).data.source is not None
