"""The demo of older courses on its real data: PHEE's sentences, a planted secret, no privacy, ε = 8 and ε = 22.

    python tests/bench/phee.py path/to/phee.jsonl [--steps 30] [--only non_private]

The file holds PHEE (Sun et al., EMNLP 2022) as JSON lines with `id`, `context` and `split`. An id is
<report>_<sentence>; the sentences of a case report, up to eleven and mostly on one patient, are one unit. The texts
were published by their authors, so that a model without privacy may be trained on them. Figures go into runs/phee.json,
after every model; models that are there already are not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import PROJECT_ROOT, load_config
from helpers.evaluation.canaries import code_losses, make_canaries, training_records, whole_words
from helpers.evaluation.extraction import SECRET, free_samples, secret_revealed
from helpers.evaluation.leakage import canary_leakage
from helpers.evaluation.likelihood import mean_loss
from helpers.files import Record, read_json, read_jsonl, write_json
from helpers.models import load_base, load_tokenizer, record_tokens
from helpers.precision import best_device, private_dtype
from helpers.privacy.accounting import Plan, plan
from helpers.privacy.private import train_units
from helpers.privacy.release import verify

MODELS: dict[str, float | None] = {"non_private": None, "private_8": 8.0, "private_22": 22.0}
SECRET_COPIES, CANARY_COPIES = 32, 16
LONGEST = 128
EPOCHS = 2.0
"""How often a case report is drawn, on average."""
SEED = 0


def records(path: Path, tokenizer: Any) -> tuple[list[Record], list[Record], list[Record]]:
    """Training records with secret and canaries, sentences of the test split, and all canaries."""
    rows = [
        {"unit": row["id"].split("_")[0], "text": row["context"], "split": row["split"]}
        for row in read_jsonl(path)
        if len(record_tokens(tokenizer, row["context"])) <= LONGEST
    ]
    canaries = make_canaries(560, 1000, words=whole_words(tokenizer), seed=SEED)
    train = [
        *[{"unit": "secret", "text": SECRET}] * SECRET_COPIES,
        *training_records(canaries, CANARY_COPIES),
        *(row for row in rows if row["split"] == "train"),
    ]
    return train, [row for row in rows if row["split"] == "test"], canaries


def attacked(model: Any, tokenizer: Any, test: list[Record], canaries: list[Record], base: Any) -> dict[str, Any]:
    """Loss on unseen sentences, the secret, canaries and free samples."""
    losses = code_losses(model, tokenizer, canaries)
    leak = canary_leakage(canaries, losses, None if base is None else np.array(base))
    secret = secret_revealed(model, tokenizer, seed=SEED)
    return {
        "heldout_loss": mean_loss(model, tokenizer, test),
        "secret_greedy": secret["greedy"],
        "secret_sampled": secret["sampled"],
        "completions": {row["prompt"]: row["greedy"] for row in secret["rows"]},
        "canaries": {key: leak[key] for key in ("n_in", "n_out", "loss", "calibrated", "exposure")},
        "samples": free_samples(model, tokenizer, 6, seed=SEED),
        "canary_losses": losses.tolist(),
    }


def main() -> None:
    """Train what is missing, attack it, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phee", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "runs" / "phee.json")
    parser.add_argument("--only", choices=MODELS, help="train this model alone")
    options = parser.parse_args()
    config = load_config("cpu")
    settings, base_name = config.private, config.base_model
    tokenizer = load_tokenizer(base_name)
    train, test, canaries = records(options.phee, tokenizer)
    found: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
    if "base" not in found:
        found["base"] = attacked(
            load_base(base_name, dtype=private_dtype(best_device())), tokenizer, test, canaries, None
        )
        write_json(options.out, found)
    units = len({record["unit"] for record in train})
    rate = EPOCHS / options.steps
    few = test[:: max(1, len(test) // 200)]
    for name, epsilon in MODELS.items():
        if name in found or options.only not in (None, name):
            continue
        cost: Plan | None = None
        if epsilon is not None:
            cost = plan(units, options.steps, rate, target_epsilon=epsilon, noise_multiplier=None, delta=None)
        started = time.monotonic()
        identity = hashlib.sha256(f"{name} {options.steps} {settings} {config.lora}".encode()).hexdigest()
        trained = train_units(
            options.out.with_name(f".phee-{name}.pt"), identity=identity, base_name=base_name, quantisation="none",
            records=train, noise_multiplier=cost.noise_multiplier if cost else None,
            max_grad_norm=settings.max_grad_norm if cost else settings.twin_max_grad_norm,
            steps=options.steps, sample_rate=rate, rank=settings.rank, alpha=settings.alpha, dropout=0.0,
            target_modules=config.lora.target_modules,
            learning_rate=settings.learning_rate if cost else settings.twin_learning_rate,
            physical_rows=settings.physical_rows, max_length_tokens=LONGEST, gradient_checkpointing=False,
            checkpoints=10, seed=SEED, title=name, scores=5,
            score=lambda model, tokenizer: mean_loss(model, tokenizer, few),
        )  # fmt: skip
        if cost is not None:
            verify(
                trained.evidence, units=units, steps=options.steps, sample_rate=rate, epsilon=cost.epsilon,
                noise_multiplier=cost.noise_multiplier, max_grad_norm=settings.max_grad_norm, delta=cost.delta,
                sizes=[weight.numel() for weight in trained.model.parameters() if weight.requires_grad],
            )  # fmt: skip
        told = attacked(trained.model, tokenizer, test, canaries, found["base"]["canary_losses"])
        found = read_json(options.out)  # another process may have added its model
        found[name] = {
            "epsilon": cost and cost.epsilon, "delta": cost and cost.delta,
            "noise_multiplier": cost and cost.noise_multiplier, "units": units, "steps": options.steps,
            "tokens": trained.tokens, "step_seconds": trained.seconds / options.steps,
            "minutes": (time.monotonic() - started) / 60, "log": trained.log, **told,
        }  # fmt: skip
        write_json(options.out, found)
        print(name, {key: told[key] for key in ("heldout_loss", "secret_greedy", "secret_sampled")}, flush=True)


if __name__ == "__main__":
    main()
