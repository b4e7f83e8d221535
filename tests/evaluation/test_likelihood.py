"""Losses of texts: equal to one text at a time, whatever the batch, the padding side and the prefix."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from helpers.errors import EvaluationError
from helpers.evaluation.likelihood import mean_loss, text_losses
from helpers.models import load_base, load_tokenizer, record_tokens

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


def one_by_one(model: Any, tokenizer: Any, text: str, given: int) -> float:
    ids = torch.tensor([record_tokens(tokenizer, text, whole=False)], device=model.device)
    shares = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return -float(sum(shares[at - 1, ids[0, at]] for at in range(given, ids.shape[1])))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_losses_equal_one_text_at_a_time(loaded: tuple[Any, Any], side: str, batch_size: int) -> None:
    model, tokenizer = loaded
    tokenizer.padding_side = side
    losses = text_losses(model, tokenizer, TEXTS, batch_size=batch_size)
    expected = [one_by_one(model, tokenizer, text, given=1) for text in TEXTS]
    assert losses.dtype == np.float64
    assert np.ptp(expected) > 10
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-4)


def test_the_prefix_is_given_and_not_scored(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    losses = text_losses(model, tokenizer, TEXTS, prefixes=PREFIXES)
    given = [len(record_tokens(tokenizer, prefix, whole=False)) for prefix in PREFIXES]
    expected = [one_by_one(model, tokenizer, text, n) for text, n in zip(TEXTS, given, strict=True)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-4)
    whole = text_losses(model, tokenizer, TEXTS)
    assert (losses < whole).sum() == 4 and losses[2] == pytest.approx(whole[2])


def test_a_token_across_the_border_is_scored(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    assert len(tokenizer(" lantern")["input_ids"]) == 1
    [across] = text_losses(model, tokenizer, ["Patient code: lantern"], prefixes=["Patient code: lan"])
    [clean] = text_losses(model, tokenizer, ["Patient code: lantern"], prefixes=["Patient code:"])
    assert across == pytest.approx(clean)


def test_per_token_is_the_mean_over_scored_tokens(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    summed = text_losses(model, tokenizer, TEXTS, prefixes=PREFIXES)
    scored = [
        len(record_tokens(tokenizer, t)) - len(record_tokens(tokenizer, p))
        for t, p in zip(TEXTS, PREFIXES, strict=True)
    ]
    mean = text_losses(model, tokenizer, TEXTS, prefixes=PREFIXES, per_token=True)
    np.testing.assert_allclose(mean, summed / scored)
    records = [{"text": text, "question": prefix} for text, prefix in zip(TEXTS, PREFIXES, strict=True)]
    assert mean_loss(model, tokenizer, records) == pytest.approx(mean.mean())
    whole = text_losses(model, tokenizer, TEXTS, per_token=True)
    assert mean_loss(model, tokenizer, [{"text": text} for text in TEXTS]) == pytest.approx(whole.mean())


def test_the_model_is_scored_without_dropout_and_left_as_it_was(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = text_losses(model, tokenizer, TEXTS)
    model.config.attention_dropout, kept = 0.9, model.config.attention_dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    try:
        assert (text_losses(model, tokenizer, TEXTS) == before).all()
        assert model.training
    finally:
        model.eval()
        model.config.attention_dropout = kept
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = kept


@pytest.mark.parametrize(
    ("texts", "prefixes", "told"),
    [
        (["secret", ""], None, "Text 1 of 2 has no token"),
        (["secret"], ["secret"], "Text 0 of 1 has no token"),
        (["secret"], ["else"], "does not begin with its prefix"),
    ],
)
def test_nothing_to_score_is_refused_without_showing_the_text(
    loaded: tuple[Any, Any], texts: list[str], prefixes: list[str] | None, told: str
) -> None:
    with pytest.raises(EvaluationError, match=told) as caught:
        text_losses(*loaded, texts, prefixes=prefixes)
    assert "secret" not in str(caught.value)


def test_a_broken_model_is_refused(tiny: str) -> None:
    model = load_base(tiny).float()
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="no finite loss for 1 texts"):
        text_losses(model, load_tokenizer(tiny), ["Hi there"])
