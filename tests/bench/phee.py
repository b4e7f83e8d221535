"""The demo of older courses on its real data: PHEE's sentences, a planted secret, no privacy, ε = 8 and ε = 22.

    python tests/bench/phee.py path/to/phee.jsonl [--steps 30] [--only private_8]

The file holds PHEE (Sun et al., EMNLP 2022) as JSON lines with `id`, `context` and `split`. An id is
<report>_<sentence>; the sentences of a case report, up to eleven and mostly on one patient, are one unit. The texts
were published by their authors, so that a model without privacy may be trained on them. It is not in the ledger, which
is that of a holder of real records, signed with a key of its own. Figures go into runs/phee.json, after every
model; models that are there already are not trained again.
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
from helpers.files import Record, read_json, read_jsonl, sha256, write_json
from helpers.models import load_base, load_tokenizer, record_tokens, save_adapter
from helpers.privacy.accounting import Plan, plan
from helpers.privacy.grants import Grant, holders_key, sign
from helpers.privacy.ledger import Ledger, commit, open_ledger, reserve
from helpers.privacy.release import verify
from helpers.privacy.training import Recipe, Training

MODELS: dict[str, float | None] = {"non_private": None, "private_8": 8.0, "private_22": 22.0}
SECRET_COPIES, CANARY_COPIES = 32, 16
LONGEST = 128
DECLARED = 1400
"""Case reports, canaries and the secret, as somebody would tell them: a round figure."""
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


def few_of(test: list[Record]) -> list[Record]:
    """Some 200 sentences of the test split."""
    return test[:: max(1, len(test) // 200)]


def phee_ledger(folder: Path) -> Ledger:
    """The ledger of one holder of all reports, its grant signed with a key that lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    grant = Grant(
        holder="phee",
        ledger="phee",
        serial=1,
        unit="patient",
        patient_key={"column": "id", "before": "_"},
        fictitious=False,
        epsilon=40.0,
        delta=1e-5,
    )
    return open_ledger(folder, sign(grant, holders_key(folder / "phee.key")), begin=True)


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
        found["base"] = attacked(load_base(base_name), tokenizer, test, canaries, None)
        write_json(options.out, found)
    rate = EPOCHS / options.steps
    validation = [dict(row, text=row["text"]) for row in few_of(test)]
    for name, epsilon in MODELS.items():
        if name in found or options.only not in (None, name):
            continue
        cost: Plan | None = None
        if epsilon is not None:
            cost = plan(DECLARED, options.steps, rate, target_epsilon=epsilon, scores=5, split="PHEE's own")
        recipe = Recipe(
            base_name=base_name,
            quantisation="none",
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=0.0,
            target_modules=config.lora.target_modules,
            learning_rate=settings.learning_rate if cost else settings.baseline_learning_rate,
            steps=options.steps,
            expected_batch=rate * DECLARED,
            sample_rate=rate,
            noise_multiplier=cost.noise_multiplier if cost else None,
            max_grad_norm=settings.max_grad_norm if cost else settings.baseline_max_grad_norm,
            validation_noise=cost.validation_noise if cost else None,
            scores=5,
            max_length_tokens=LONGEST,
            seed=SEED,
            physical_rows=settings.physical_rows,
            gradient_checkpointing=False,
            checkpoints=10,
            threads=None,
        )
        started = time.monotonic()
        training, state = Training(recipe), options.out.with_name(f".phee-{name}.pt")
        identity = hashlib.sha256(f"{name} {recipe}".encode()).hexdigest()
        if cost is not None:
            ledger = phee_ledger(options.out.with_name("phee-ledger"))
            reserve([ledger], identity[:32], name, cost.cost)
        trained = training.run(state, identity, train, validation, name)
        audit = None
        if cost is not None:
            audit = verify(trained, cost)
            save_adapter(options.out.with_name(f"phee-{name}"), trained.model, trained.tokenizer, base_name)
            weights = options.out.with_name(f"phee-{name}") / "adapter_model.safetensors"
            commit([ledger], identity[:32], sha256(weights))
        told = attacked(trained.model, tokenizer, test, canaries, found["base"]["canary_losses"])
        found = read_json(options.out)  # another process may have added its model
        found[name] = {
            "epsilon": cost and cost.epsilon,
            "delta": cost and cost.delta,
            "noise_multiplier": cost and cost.noise_multiplier,
            "declared": DECLARED,
            "steps": options.steps,
            "tokens": trained.tokens,
            "step_seconds": trained.seconds / options.steps,
            "minutes": (time.monotonic() - started) / 60,
            "log": trained.log,
            "mechanism_audit": audit,
            "ledger": ledger.head() if cost is not None else None,
            **told,
        }
        write_json(options.out, found)
        print(name, {key: told[key] for key in ("heldout_loss", "secret_greedy", "secret_sampled")}, flush=True)


if __name__ == "__main__":
    main()
