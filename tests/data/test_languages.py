"""Packs: those of the course are whole, one of the reader's own is checked, and its mistakes are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixture_types import GlossaryFile, SmokeRun
from talker import Talker

from helpers.config import load_config
from helpers.data.example import Example, asked
from helpers.data.glossary.entries import Entry
from helpers.data.languages.pack import HERE, load_pack, shipped
from helpers.errors import ConfigError
from helpers.evaluation.answers import glossary_messages
from helpers.stages import create


@pytest.mark.parametrize(
    ("definition", "language", "said"),
    [
        ("Office communal des lectures", None, "asked in French, the language of the glossary"),
        ("Office of Readings", None, "asked in English, the language of the glossary"),
        ("Office of Readings", "fr", "asked in French, as dataset.language says"),
        ("Oficina de las lecturas", None, "There is no pack for the language of the glossary: questions are asked in"),
        ("Κέντρο Εξυπηρέτησης Πολιτών", None, "`python -m helpers.course make-pack LANGUAGE` makes one"),
    ],
)
def test_the_choice_is_printed(
    smoke_run: SmokeRun,
    glossary_file: GlossaryFile,
    capsys: pytest.CaptureFixture[str],
    talker: Talker,
    definition: str,
    language: str | None,
    said: str,
) -> None:
    glossary = glossary_file([{"acronym": "OCLE", "definition": definition}])
    server = {"endpoint.provider": "openai", "endpoint.base_url": talker.base_url, "endpoint.model": "scripted-model"}
    create(smoke_run({"glossary": str(glossary), "dataset.language": language, **server}))
    assert capsys.readouterr().out.count(said) == 1


@pytest.fixture
def french() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((HERE / "fr.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def pack_file(tmp_path: Path) -> Callable[[Any], str]:
    def write(content: Any) -> str:
        path = tmp_path / "oc.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return str(path)

    return write


def test_english_and_french_are_there() -> None:
    assert {"en", "fr"} <= {*shipped()}
    assert [load_pack(name).name for name in shipped()] == shipped()


def test_a_pack_of_the_readers_own(french: dict[str, Any], pack_file: Callable[[Any], str]) -> None:
    french |= {"language": "Occitan", "where": " en {field}"}
    del french["general"]
    language = pack_file(french)
    assert load_config("cpu", {"dataset.language": language}).dataset.language == language
    entry = Entry("AB (dret)", "AB", "x", field="dret", ambiguous=True, pack=load_pack(language))
    assert (entry.pack.name, entry.where) == ("oc", " en dret")
    [[message]] = glossary_messages([Example("1", "new_phrasing", asked("AB ?"), "")], [entry], 1)
    assert message["content"].startswith("Glossaire :\nAB (dret): x") and message["content"].endswith("Question : AB ?")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("openings", None, "openings: "),
        ("openings", [], "openings: "),
        ("openings", ["Bonjour !", True], "openings.1: "),
        ("train", {"forward": ["Que signifie ce sigle ?"]}, "train.forward.0: expected {acronym} and {where} once"),
        ("test", {"forward": ["{acronym}{where}{field} ?"]}, "test.forward.0: expected {acronym} and {where} once"),
        ("answers", {"unknown": []}, "answers.unknown: "),
        ("asks", {"reverse": ["sigle", "("]}, "asks.reverse.1: '(' is no regular expression"),
        ("where", " en santé", "where: expected {field} once"),
        ("greetings", ["Salut"], "greetings: unknown key"),
    ],
)
def test_a_mistake_is_named_by_its_key(
    french: dict[str, Any], pack_file: Callable[[Any], str], key: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pack(pack_file(french | {key: french[key] | value if isinstance(value, dict) else value}))
    assert "The language pack oc.yaml has 1 mistake" in str(caught.value) and expected in str(caught.value)


def test_a_language_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"there is no language or file 'tlh'\. Use one of en, fr"):
        load_pack("tlh")


def test_a_pack_counts_as_the_runs_data(french: dict[str, Any], pack_file: Callable[[Any], str]) -> None:
    overrides = {"dataset.language": pack_file(french)}
    before = load_config("cpu", overrides).fingerprint()
    assert pack_file(french | {"language": "Occitan"}) == overrides["dataset.language"]
    assert load_config("cpu", overrides).fingerprint() != before
