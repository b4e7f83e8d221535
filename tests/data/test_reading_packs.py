"""The words by which answers are read: a language is one more file, and a mistake in it is named."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers.data.matching import declines
from helpers.data.reading import folding, packs, statements
from helpers.errors import ConfigError


def forget() -> None:
    for cached in (packs.load_reading, statements.pattern, folding.fold, folding.pattern_of, folding._number_words):
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for path in packs.PACKS.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(packs, "PACKS", tmp_path)
    forget()
    yield tmp_path
    forget()


def add(folder: Path, **changed: object) -> None:
    reading = {key: {} if key == "numbers" else [] for key in packs.Reading.model_fields} | changed
    (folder / "de.yaml").write_text(yaml.safe_dump({"reading": reading}, allow_unicode=True), "utf-8")


def test_a_third_language_is_one_more_file(folder: Path) -> None:
    assert not declines("Das weiß ich leider nicht.")
    forget()
    add(folder, refuses=["weiß ~nicht"])
    assert declines("Das weiß ich leider nicht.")
    assert declines("Je ne sais pas.")


def test_a_pack_need_not_read_answers(folder: Path) -> None:
    (folder / "el.yaml").write_text("language: Greek", "utf-8")
    assert declines("Je ne sais pas.")


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"refuses": ["weiß (nicht"]}, "refuses"), ({"refuses": "weiß nicht"}, "refuses"), ({"refuse": []}, "refuse")],
)
def test_a_mistake_in_a_pack_is_named(folder: Path, changed: dict[str, object], named: str) -> None:
    add(folder, **changed)
    with pytest.raises(ConfigError, match=rf"(?s)de\.yaml.*{named}"):
        packs.load_reading()
