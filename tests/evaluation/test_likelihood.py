"""Losses of texts: equal to one text at a time, whatever the batch, the padding side and the question."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.data.example import Example, asked
from helpers.errors import EvaluationError
from helpers.evaluation.attacks.membership import example_losses
from helpers.models.find import load_tokenizer
from helpers.models.load import load_base
from helpers.models.tokens import start_token

TEXTS = [
    "Patient code: lantern",
    "A man of 54 was given zolumab against gout and developed a rash within two days of the first dose.",
    "Hi",
    "She took the tablets, all of them, on the first day; nothing happened to her.",
    "Le patient a reçu le traitement à l'hôpital.",
]


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Iterator[tuple[Any, Any]]:
    model = load_base(tiny).float()
    model.get_input_embeddings().weight.data.mul_(20)  # random weights would find everything equally likely
    yield model, load_tokenizer(tiny)


def plain(texts: list[str]) -> list[Example]:
    return [Example(str(number), "records", (), text) for number, text in enumerate(texts)]


def one_by_one(model: Any, ids: list[int], given: int) -> float:
    """The mean over the tokens behind the first `given`."""
    shares = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].double().log_softmax(-1)
    return -float(np.mean([float(shares[at - 1, ids[at]]) for at in range(given, len(ids))]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_losses_equal_one_text_at_a_time(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, side: str, batch_size: int
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr("helpers.evaluation.attacks.membership.BATCH", batch_size)
    monkeypatch.setattr(tokenizer, "padding_side", side)
    losses = example_losses(model, tokenizer, plain(TEXTS))
    end, start = tokenizer.eos_token_id, start_token(tokenizer)
    rows = [[start, *tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in TEXTS]
    expected = [one_by_one(model, row, given=1) for row in rows]
    assert losses.dtype == np.float64
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def test_the_prompt_is_given_and_the_answer_scored_in_the_chat_template(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    example = Example("1", "records", asked("What does the patient take?"), "Zolumab, by mouth.")
    prompt = tokenizer.apply_chat_template(list(example.prompt), add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(example.messages)["input_ids"]
    [loss] = example_losses(model, tokenizer, [example])
    assert loss == pytest.approx(one_by_one(model, whole, len(prompt)), rel=1e-5)
    [other] = example_losses(model, tokenizer, [replace(example, prompt=asked("Something else?"))])
    assert other != pytest.approx(loss, rel=1e-3)


def test_the_model_is_scored_without_dropout(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = example_losses(model, tokenizer, plain(TEXTS))
    model.config.attention_dropout, kept = 0.9, model.config.attention_dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    try:
        assert (example_losses(model, tokenizer, plain(TEXTS)) == before).all()
    finally:
        model.config.attention_dropout = kept
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = kept


def test_a_broken_model_is_refused(tiny: str) -> None:
    model = load_base(tiny).float()
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="no finite loss for 1 examples"):
        example_losses(model, load_tokenizer(tiny), plain(["Hi there"]))
