"""Everything the attacks find out about one model."""

from collections.abc import Mapping, Sequence
from typing import Any

from helpers.data.example import Example
from helpers.evaluation.attacks.canaries import MEMBER, OUTSIDER
from helpers.evaluation.attacks.extraction import continue_texts, secret_revealed
from helpers.evaluation.attacks.membership import by_unit, epsilon_of_auc, example_losses, membership


def audit_model(
    model: Any,
    tokenizer: Any,
    examples: Mapping[str, Sequence[Example]],
    base: dict[str, Any] | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Attack one model, base or tuned.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        examples: `canaries`; and of the holders' patients, without what was planted, those of `train`, unseen ones
            drawn like them (`validation`), and perhaps unseen ones whose values no training example has (`test`).
        base: what this function returned for the base model; None for the base model itself.
        seed: of sampled completions.

    Returns:
        `{"heldout_loss", "secret_revealed", "secret", "canary_auc", "canary_auc_low", "canary_auc_high",
        "canary_epsilon", "canaries", "membership", "samples", "losses"}`: `canary_epsilon` is what the lower end of the
        AUC refutes, `canaries` and `membership` (of the holders' patients) come from `membership`, samples are begun by
        the model itself, and losses, one a patient, are for figures and to compare other models with.
    """
    inside, outside = ([c for c in examples["canaries"] if c.bucket == bucket] for bucket in (MEMBER, OUTSIDER))
    groups: dict[str, dict[str, Sequence[Example]]] = {
        "canaries": {"in": inside, "out": outside},
        "membership": {"in": examples["train"], "out": examples["validation"]},
    }
    losses = {
        kind: {side: by_unit(rows, example_losses(model, tokenizer, rows)) for side, rows in sides.items()}
        for kind, sides in groups.items()
    }
    leaks = {kind: membership(sides, base["losses"].get(kind) if base else None) for kind, sides in losses.items()}
    shown = leaks["canaries"]["calibrated"] or leaks["canaries"]["loss"]
    secret = secret_revealed(model, tokenizer, seed=seed)
    [samples] = continue_texts(model, tokenizer, [""], max_new_tokens=40, temperature=1.0, samples=6, seed=seed)
    return {
        "heldout_loss": float(example_losses(model, tokenizer, examples["test"] or examples["validation"]).mean()),
        "secret_revealed": secret["greedy"],
        "secret": secret,
        "canary_auc": shown["auc"],
        "canary_auc_low": shown["low"],
        "canary_auc_high": shown["high"],
        "canary_epsilon": epsilon_of_auc(shown["low"]),
        **leaks,
        "samples": samples,
        "losses": {kind: {side: values.tolist() for side, values in sides.items()} for kind, sides in losses.items()},
    }
