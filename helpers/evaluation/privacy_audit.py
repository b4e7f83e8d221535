"""Everything the attacks find out about one model: what it leaks, and what it learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers.evaluation.canaries import check_received, code_losses
from helpers.evaluation.extraction import SECRET, continue_texts, free_samples, secret_revealed, task_accuracy
from helpers.evaluation.leakage import by_unit, canary_leakage, membership_inference
from helpers.evaluation.likelihood import mean_loss, record_losses
from helpers.evaluation.one_run_audit import audit, refutes
from helpers.files import Record

CLAIM = 1.0
"""The ε that the non-private baseline is made to claim; an audit that cannot refute it is worth nothing."""


def audit_model(
    model: Any,
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
    *,
    tokenizer: Any,
    canaries: Sequence[Record],
    delta: float,
    seed: int,
    times_drawn: dict[str, int] | None,
    chance: float,
    reference: dict[str, Any] | None,
) -> dict[str, Any]:
    """Attack one model and measure what it learnt.

    Args:
        model: base or tuned.
        train: records it was trained on, canaries and secret among them.
        validation: of unseen patients drawn like those of the training set.
        test: of unseen patients whose values no training record has.
        tokenizer: its tokenizer.
        canaries: from `helpers.evaluation.canaries.make_canaries`.
        delta: that the one-run audit refers to.
        seed: of sampled completions.
        times_drawn: how often each patient was drawn; None for the base model.
        chance: probability that a patient is drawn in any step.
        reference: what this function returned for the base model; None for the base model itself.

    Returns:
        `{"heldout_loss", "task_accuracy", "task", "secret_revealed", "secret", "canary_auc", "canary_auc_low",
        "canary_auc_high", "canaries", "membership", "one_run", "received", "samples", "answers",
        "scores"}`: the secret's `drawn` is the number of steps that drew its patient, samples are begun by the model
        itself, answers drawn to questions of the test set, and scores are
        losses of single canaries and records, in their order, for the figures and for comparison.
    """
    # First, because a training too short for any attack is refused here.
    received = check_received(canaries, times_drawn, chance) if times_drawn else None
    real = [record for record in train if record["question"] and not record["unit"].startswith("canary/")]
    canary_losses = code_losses(model, tokenizer, canaries)
    losses = {
        name: by_unit([r["unit"] for r in rows], record_losses(model, tokenizer, rows, title=name))
        for name, rows in (("train", real), ("validation", validation))
    }
    base = {name: np.array(values) for name, values in reference["scores"].items()} if reference else None
    leak = canary_leakage(canaries, canary_losses, base["canaries"] if base else None)
    shown = leak["calibrated"] or leak["loss"]
    secret = secret_revealed(model, tokenizer, seed=seed)
    victim = next((record["unit"] for record in train if record["text"] == SECRET), None)
    asked = list(dict.fromkeys(record["question"] for record in test if record["question"]))[:4]
    answered = continue_texts(model, tokenizer, asked, max_new_tokens=16, temperature=1.0, seed=seed)
    tossed = np.array([c["tossed"] for c in canaries])
    coins = np.array([c["member"] for c in canaries])[tossed]
    scores = np.array(leak.pop("scores"))[tossed]
    return {
        **what_was_learnt(model, tokenizer, test),
        "secret_revealed": secret["greedy"],
        "secret": {"text": SECRET, "drawn": times_drawn[victim] if times_drawn and victim else None, **secret},
        "canary_auc": shown["auc"],
        "canary_auc_low": shown["low"],
        "canary_auc_high": shown["high"],
        "canaries": leak,
        "membership": membership_inference(losses["train"], losses["validation"], base["train"], base["validation"])
        if base
        else None,
        "one_run": {
            **audit(scores, coins, delta=delta),
            "claim": refutes(scores, coins, claimed_epsilon=CLAIM, delta=delta),
        },
        "received": received,
        "samples": free_samples(model, tokenizer, 6, seed=seed),
        "answers": dict(zip(asked, (text for [text] in answered), strict=True)),
        "scores": {"canaries": canary_losses.tolist(), **{name: values.tolist() for name, values in losses.items()}},
    }


def what_was_learnt(model: Any, tokenizer: Any, test: Sequence[Record]) -> dict[str, Any]:
    """Loss and task accuracy on unseen patients: `{"heldout_loss", "task_accuracy", "task"}`; arguments as above."""
    task = task_accuracy(model, tokenizer, test)
    return {"heldout_loss": mean_loss(model, tokenizer, test), "task_accuracy": task["rate"], "task": task}
