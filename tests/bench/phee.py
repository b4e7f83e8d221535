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
from helpers.data.example import Example
from helpers.evaluation.attacks.canaries import MEMBER, make_canaries, planted_examples, whole_words
from helpers.evaluation.attacks.extraction import SECRET, continue_texts, secret_revealed
from helpers.evaluation.attacks.membership import example_losses, membership
from helpers.files import read_json, read_jsonl, sha256, write_json
from helpers.models.find import load_tokenizer
from helpers.models.load import load_base, save_adapter
from helpers.models.tokens import learnt_rows
from helpers.privacy.accounting import plan
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


def records(path: Path, tokenizer: Any) -> tuple[list[Example], list[Example], list[Example]]:
    """Training texts with secret and canaries, sentences of the test split, and all canaries."""
    rows = [
        Example(row["id"], row["split"], (), row["context"], unit=row["id"].split("_")[0]) for row in read_jsonl(path)
    ]
    lengths = [len(row) for row, _ in learnt_rows(rows, tokenizer)]
    rows = [row for row, length in zip(rows, lengths, strict=True) if length <= LONGEST]
    canaries = make_canaries(560, 1000, words=whole_words(tokenizer), seed=SEED)
    train = [
        *[Example("secret", "secret", (), SECRET, unit="secret")] * SECRET_COPIES,
        *planted_examples(canaries, CANARY_COPIES),
        *(row for row in rows if row.bucket == "train"),
    ]
    return train, [row for row in rows if row.bucket == "test"], canaries


def few_of(test: list[Example]) -> list[Example]:
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


def attacked(model: Any, tokenizer: Any, test: list[Example], canaries: list[Example], base: Any) -> dict[str, Any]:
    """Loss on unseen sentences, the secret, canaries and free samples."""
    sides = {"in": [c for c in canaries if c.bucket == MEMBER], "out": [c for c in canaries if c.bucket != MEMBER]}
    losses = {side: example_losses(model, tokenizer, rows) for side, rows in sides.items()}
    leak = membership(losses, {side: np.array(values) for side, values in base.items()} if base else None)
    secret = secret_revealed(model, tokenizer, seed=SEED)
    [samples] = continue_texts(model, tokenizer, [""], max_new_tokens=40, temperature=1.0, samples=6, seed=SEED)
    return {
        "heldout_loss": float(example_losses(model, tokenizer, test).mean()),
        "secret_greedy": secret["greedy"],
        "secret_sampled": secret["sampled"],
        "completions": {row["prompt"]: row["greedy"] for row in secret["rows"]},
        "canaries": leak,
        "samples": samples,
        "canary_losses": {side: values.tolist() for side, values in losses.items()},
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
    settings, base_name = config.privacy, config.base_model
    tokenizer = load_tokenizer(base_name)
    train, test, canaries = records(options.phee, tokenizer)
    found: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
    if "base" not in found:
        found["base"] = attacked(load_base(base_name), tokenizer, test, canaries, None)
        write_json(options.out, found)
    rate = EPOCHS / options.steps
    validation = few_of(test)
    for name, epsilon in MODELS.items():
        if name in found or options.only not in (None, name):
            continue
        cost = None
        if epsilon is not None:
            cost = plan(DECLARED, options.steps, rate, target_epsilon=epsilon, scores=5, split="PHEE's own")
        own = {
            "steps": options.steps,
            "patients_a_step": rate * DECLARED,
            "patients_expected": DECLARED,
            "max_length_tokens": LONGEST,
            "scores": 5,
        }
        recipe = Recipe(base_name, config.lora.target_modules, settings.model_copy(update=own), cost, SEED, None)
        started = time.monotonic()
        training, state = Training(recipe), options.out.with_name(f".phee-{name}.pt")
        identity = hashlib.sha256(f"{name} {recipe}".encode()).hexdigest()
        if cost is not None:
            ledger = phee_ledger(options.out.with_name("phee-ledger"))
            reserve([ledger], identity[:32], name, cost)
        training.run(state, identity, train, validation, name)
        audit = None
        if cost is not None:
            audit = verify(training, cost)
            save_adapter(options.out.with_name(f"phee-{name}"), training.model, training.tokenizer, base_name)
            weights = options.out.with_name(f"phee-{name}") / "adapter_model.safetensors"
            commit([ledger], identity[:32], sha256(weights))
        told = attacked(training.model, tokenizer, test, canaries, found["base"]["canary_losses"])
        found = read_json(options.out)  # another process may have added its model
        found[name] = {
            "epsilon": cost and cost.epsilon,
            "delta": cost and cost.delta,
            "noise_multiplier": cost and cost.noise_multiplier,
            "declared": DECLARED,
            "steps": options.steps,
            "tokens": training.tokens,
            "minutes": (time.monotonic() - started) / 60,
            "log": training.log,
            "mechanism_audit": audit,
            "ledger": ledger.head() if cost is not None else None,
            **told,
        }
        write_json(options.out, found)
        print(name, {key: told[key] for key in ("heldout_loss", "secret_greedy", "secret_sampled")}, flush=True)


if __name__ == "__main__":
    main()
