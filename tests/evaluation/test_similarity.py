from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import ModelError
from helpers.evaluation.similarity import cosines, load_sentence_model, load_static_model, rouge_l


@pytest.fixture(scope="module")
def sentence_model() -> Any:
    return load_sentence_model()


def static_model(vectors: dict[str, list[float]]) -> Any:
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(vectors)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return StaticModel(np.array(list(vectors.values()), dtype=np.float32), tokenizer)


def test_rouge_l_counts_the_longest_common_subsequence() -> None:
    # 3 of 4 words in order on both sides: F1 = 0.75.
    assert rouge_l(["the cat sat down"], ["the cat lay down"]) == pytest.approx([0.75])


def test_rouge_l_reads_other_scripts_and_punctuation() -> None:
    answers = ["Ευρωπαϊκή Ένωση", "欧州連合です", '{"Quoted",\n"term"}', ""]
    scores = rouge_l(answers, ["ευρωπαϊκή ένωση", "欧州連合", "quoted term", "x"])
    assert scores == pytest.approx([1, 0.8, 1, 0])


def test_sentence_similarity(sentence_model: Any) -> None:
    answers = ["A cat sleeps.", "A kitten is asleep.", "Taxes rose in May.", "  "]
    same, near, far, blank = cosines(answers, ["A cat sleeps."] * 4, sentence_model)
    assert same == pytest.approx(1, abs=1e-5)
    assert 1 > near > 0.6 > 0.3 > far >= -1
    assert blank == 0


def test_static_similarity_is_a_cosine() -> None:
    model = static_model({"[UNK]": [0, 0], "east": [2, 0], "north": [0, 1], "west": [-1, 0]})
    answers = ["east", "east", "east", "east north", ""]
    references = ["east", "north", "west", "east", "east"]
    assert cosines(answers, references, model) == pytest.approx([1, 0, -1, 2 / 5**0.5, 0], abs=1e-6)


def test_static_model_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.evaluation.similarity.CACHE", tmp_path / "unused")
    static_model({"[UNK]": [0, 0], "east": [2, 0]}).save_pretrained(str(tmp_path / "own"))
    model = load_static_model(str(tmp_path / "own"))
    assert cosines(["east"], ["east"], model) == pytest.approx([1])
    assert not (tmp_path / "unused").exists()


@pytest.mark.slow
def test_distilled_static_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.evaluation.similarity.CACHE", tmp_path)
    first = load_static_model()
    near, far = cosines(["a cat sleeps", "taxes rose"], ["the kitten slept"] * 2, first)
    assert near > far
    again = load_static_model()
    assert cosines(["a cat sleeps"], ["the kitten slept"], again) == pytest.approx([near], abs=1e-3)
    assert first.dim == 256


class Overflowing:
    def encode(self, texts: list[str], **_: Any) -> list[list[float]]:
        return [[{"odd": np.nan, "large": np.inf}.get(text, 1.0), 1.0] for text in texts]


def test_vectors_that_are_no_numbers_are_like_nothing() -> None:
    assert cosines(["odd", "a", "large"], ["a", "b", "odd"], Overflowing()) == pytest.approx([0, 1, 0])


def test_no_items() -> None:
    assert rouge_l([], []) == []
    assert cosines([], [], None) == []


def test_lengths_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        rouge_l(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        cosines(["east", "east"], ["east"], static_model({"[UNK]": [0, 0], "east": [2, 0]}))


def test_missing_model_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"score\.sentence_model: .*nowhere"):
        load_sentence_model(missing)
    with pytest.raises(ModelError, match=r"score\.static_model: .*nowhere"):
        load_static_model(missing)
