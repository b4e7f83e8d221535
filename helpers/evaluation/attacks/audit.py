"""Everything the attacks find out about one model: what it leaks, and what it learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from helpers.evaluation.attacks.extraction import SECRET, continue_texts, secret_revealed, task_accuracy
from helpers.evaluation.attacks.membership import by_unit, epsilon_of_auc, membership
from helpers.files import Record
from helpers.models.likelihood import record_losses


@dataclass(frozen=True)
class Records:
    """What an audit compares.

    Attributes:
        train: records that were trained on, canaries and secret among them.
        validation: of unseen patients drawn like those of the training set.
        test: of unseen patients whose values no training record has.
        canaries: from `helpers.evaluation.attacks.canaries.make_canaries`.
    """

    train: list[Record]
    validation: list[Record]
    test: list[Record]
    canaries: list[Record]


def audit_model(
    model: Any, tokenizer: Any, records: Records, base: dict[str, Any] | None, *, seed: int
) -> dict[str, Any]:
    """Attack one model and measure what it learnt.

    Args:
        model: base or tuned.
        tokenizer: its tokenizer.
        records: of this run.
        base: what this function returned for the base model; None for the base model itself.
        seed: of sampled completions.

    Returns:
        `{"heldout_loss", "task_accuracy", "task", "secret_revealed", "secret", "canary_auc", "canary_auc_low",
        "canary_auc_high", "canary_epsilon", "canaries", "membership", "samples", "answers", "losses"}`:
        `canary_epsilon` is what the lower end of the AUC refutes (`epsilon_of_auc`), `canaries` and `membership` (of
        the holders' patients) come from `leakage.membership`, samples are begun by the model itself, answers drawn to
        questions of the test set, and losses, one a patient, are for figures and to compare other models with.
    """
    groups = {
        "canaries": {
            "in": [c for c in records.canaries if c["member"]],
            "out": [c for c in records.canaries if not c["member"]],
        },
        "membership": {
            "in": [r for r in records.train if r["text"] != SECRET and not r["unit"].startswith("canary/")],
            "out": records.validation,
        },
    }
    losses = {
        kind: {side: by_unit(rows, record_losses(model, tokenizer, rows)) for side, rows in sides.items()}
        for kind, sides in groups.items()
    }
    leaks = {kind: membership(sides, base["losses"].get(kind) if base else None) for kind, sides in losses.items()}
    shown = leaks["canaries"]["calibrated"] or leaks["canaries"]["loss"]
    secret = secret_revealed(model, tokenizer, seed=seed)
    asked = list(dict.fromkeys(record["question"] for record in records.test if record["question"]))[:4]
    answered = continue_texts(model, tokenizer, asked, max_new_tokens=16, temperature=1.0, seed=seed)
    [samples] = continue_texts(model, tokenizer, [""], max_new_tokens=40, temperature=1.0, samples=6, seed=seed)
    task = task_accuracy(model, tokenizer, records.test)
    return {
        "heldout_loss": float(record_losses(model, tokenizer, records.test).mean()),
        "task_accuracy": task["rate"],
        "task": task,
        "secret_revealed": secret["greedy"],
        "secret": secret,
        "canary_auc": shown["auc"],
        "canary_auc_low": shown["low"],
        "canary_auc_high": shown["high"],
        "canary_epsilon": epsilon_of_auc(shown["low"]),
        **leaks,
        "samples": samples,
        "answers": dict(zip(asked, (text for [text] in answered), strict=True)),
        "losses": {kind: {side: values.tolist() for side, values in sides.items()} for kind, sides in losses.items()},
    }
