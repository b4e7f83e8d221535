"""The words by which answers are read: a language is one more file, and a mistake in it is named."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers.data.languages import pack
from helpers.data.matching import declines
from helpers.data.reading import folding, packs, statements
from helpers.errors import ConfigError


def forget() -> None:
    of_packs, of_texts = (pack.load_pack, pack.load_reading), (statements.pattern, folding.fold, folding.pattern_of)
    for cached in (*of_packs, *of_texts, folding._number_words):
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for path in pack.HERE.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(pack, "HERE", tmp_path)
    forget()
    yield tmp_path
    forget()


def add(folder: Path, **changed: object) -> None:
    reading = {key: {} if key == "numbers" else [] for key in packs.Reading.model_fields} | changed
    write(folder / "de.yaml", yaml.safe_load((folder / "fr.yaml").read_text("utf-8")) | {"reading": reading})


def write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")


def test_a_third_language_is_one_more_file(folder: Path) -> None:
    assert not declines("Das weiß ich leider nicht.")
    forget()
    add(folder, refuses=["weiß ~nicht"])
    assert declines("Das weiß ich leider nicht.")
    assert declines("Je ne sais pas.")


def test_a_pack_need_not_read_answers(folder: Path) -> None:
    greek = yaml.safe_load((folder / "fr.yaml").read_text("utf-8"))
    del greek["reading"]
    write(folder / "el.yaml", greek | {"language": "Greek"})
    assert declines("Je ne sais pas.")


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"refuses": ["weiß (nicht"]}, "refuses"), ({"refuses": "weiß nicht"}, "refuses"), ({"refuse": []}, "refuse")],
)
def test_a_mistake_in_a_pack_is_named(folder: Path, changed: dict[str, object], named: str) -> None:
    add(folder, **changed)
    with pytest.raises(ConfigError, match=rf"(?s)de\.yaml.*{named}"):
        pack.load_reading()
