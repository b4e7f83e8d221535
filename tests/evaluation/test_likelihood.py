"""Losses of texts: equal to one text at a time, whatever the batch, the padding side and the question."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from helpers.errors import EvaluationError
from helpers.files import Record
from helpers.models.find import load_tokenizer
from helpers.models.likelihood import record_losses, record_tokens
from helpers.models.load import load_base

TEXTS = [
    "Patient code: lantern",
    "A man of 54 was given zolumab against gout and developed a rash within two days of the first dose.",
    "Hi",
    "She took the tablets, all of them, on the first day; nothing happened to her.",
    "Le patient a reçu le traitement à l'hôpital.",
]
PREFIXES = ["Patient code:", "A man of 54 was given", "", "She took", "Le patient a reçu"]


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Iterator[tuple[Any, Any]]:
    model = load_base(tiny).float()
    model.get_input_embeddings().weight.data.mul_(20)  # random weights would find everything equally likely
    yield model, load_tokenizer(tiny)


def rows(prefixes: list[str] | None = None) -> list[Record]:
    return [{"text": t, "question": p} for t, p in zip(TEXTS, prefixes or [""] * len(TEXTS), strict=True)]


def one_by_one(model: Any, tokenizer: Any, text: str, given: int) -> float:
    """The mean over the tokens behind the first `given`."""
    ids = torch.tensor([record_tokens(tokenizer, text, whole=False)], device=model.device)
    shares = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return -float(np.mean([float(shares[at - 1, ids[0, at]]) for at in range(given, ids.shape[1])]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_losses_equal_one_text_at_a_time(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, side: str, batch_size: int
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr("helpers.models.likelihood.BATCH", batch_size)
    monkeypatch.setattr(tokenizer, "padding_side", side)
    losses = record_losses(model, tokenizer, [{"text": text} for text in TEXTS])
    expected = [one_by_one(model, tokenizer, text, given=1) for text in TEXTS]
    assert losses.dtype == np.float64
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def test_the_question_is_given_and_not_scored(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    losses = record_losses(model, tokenizer, rows(PREFIXES))
    given = [len(record_tokens(tokenizer, prefix, whole=False)) for prefix in PREFIXES]
    expected = [one_by_one(model, tokenizer, text, n) for text, n in zip(TEXTS, given, strict=True)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    whole = record_losses(model, tokenizer, rows())
    assert (losses != whole).sum() == 4 and losses[2] == pytest.approx(whole[2])


def test_a_token_across_the_border_is_scored(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    assert len(tokenizer(" lantern")["input_ids"]) == 1
    records = [{"text": "Patient code: lantern", "question": start} for start in ("Patient code: lan", "Patient code:")]
    across, clean = record_losses(model, tokenizer, records)
    assert across == pytest.approx(clean)


def test_the_model_is_scored_without_dropout(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = record_losses(model, tokenizer, rows())
    model.config.attention_dropout, kept = 0.9, model.config.attention_dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    try:
        assert (record_losses(model, tokenizer, rows()) == before).all()
    finally:
        model.config.attention_dropout = kept
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = kept


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([{"text": "secret"}, {"text": ""}], "Record 1 of 2 does not"),
        ([{"text": "secret", "question": "secret"}], "has no token behind it to score"),
        ([{"text": "secret", "question": "else"}], "does not begin with its question"),
    ],
)
def test_nothing_to_score_is_refused_without_showing_the_text(
    loaded: tuple[Any, Any], records: list[Record], told: str
) -> None:
    with pytest.raises(EvaluationError, match=told) as caught:
        record_losses(*loaded, records)
    assert "secret" not in str(caught.value)


def test_a_broken_model_is_refused(tiny: str) -> None:
    model = load_base(tiny).float()
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="no finite loss for 1 records"):
        record_losses(model, load_tokenizer(tiny), [{"text": "Hi there"}])
