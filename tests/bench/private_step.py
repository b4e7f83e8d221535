"""What a private step costs against the course's fastest non-private one: the same patients, model and process.

    python tests/bench/private_step.py [--model smollm2-135m-instruct] [--quantisation none] [--rounds 24]

`make bench` runs it. A step is that of the `cpu` profile: 48 patients with all their records. The private one is what
training does, ghosts, noise and all. The non-private one is PEFT as it comes, its records sorted by length into
batches, its gradient clipped as a whole. Both compute equal records once.

Time: the private step and non-private ones with each size of batches take turns on the same patients in one process.
The size with the least median counts, and of its pairs' ratios the median, which a machine that grows slower or faster
on the way leaves as it is. Memory: each kind runs in a process of its own, and what its peak lies above the loaded
model counts. Both ratios go into runs/bench.json under `private_step`.

`--model random-1.7b` takes random weights in the shape of SmolLM2-1.7B, which no package ships: time and memory do
not depend on what weights hold.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from operator import truediv
from pathlib import Path

import psutil
import torch
import transformers
from peft.helpers import disable_input_dtype_casting

from helpers.config import PROJECT_ROOT, load_config
from helpers.data.holders.join import join_providers
from helpers.data.holders.pipeline import load_pipeline
from helpers.data.holders.pseudonyms import read_key
from helpers.files import read_json, write_json
from helpers.models.find import load_tokenizer
from helpers.models.losses import batch_of, row_losses
from helpers.models.precision import best_device
from helpers.privacy import training
from helpers.privacy.ghosts import GHOSTS
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import Unit, encode_units
from helpers.run import HOLDERS, Run
from helpers.stages.private_training import recipe_of

SIZES = (16, 32, 64)
"""Records in a batch of the non-private step; the fastest counts."""
TOKENIZER = "smollm2-135m-instruct"
RANDOM = "random-1.7b"
SHAPE = {
    "vocab_size": 49152, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
    "num_attention_heads": 32, "tie_word_embeddings": True,
}  # fmt: skip


def prepared(model: str) -> str:
    """The model's name or folder; the random one is made once, into runs/."""
    if model != RANDOM:
        return model
    folder = PROJECT_ROOT / "runs" / f".{RANDOM}"
    if not (folder / "tokenizer_config.json").exists():
        config = transformers.LlamaConfig(**SHAPE)
        transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        load_tokenizer(TOKENIZER).save_pretrained(folder)
    return str(folder)


def batches(rounds: int) -> list[list[Unit]]:
    """The patients of each step, drawn from the example's."""
    config = load_config("cpu", HOLDERS)
    pipeline = load_pipeline(str(config.pipeline))
    joined = join_providers(pipeline, read_key({}, fictitious=pipeline.fictitious), seed=0)
    units = encode_units(joined.records.get_secret_value()["train"], load_tokenizer(TOKENIZER), max_length_tokens=128)
    chooser = random.Random(0)
    return [chooser.sample(units, round(config.privacy.patients_a_step)) for _ in range(rounds)]


class Steps:
    """A model and its two kinds of steps."""

    def __init__(self, model: str, quantisation: str, rounds: int) -> None:
        recipe = recipe_of(Run(PROJECT_ROOT / "runs", load_config("cpu", HOLDERS)), "private")
        assert recipe.cost is not None
        settings = recipe.settings.model_copy(update={"quantisation": quantisation})
        self.batches = batches(rounds)
        training.check_batch_composition = lambda *_, **__: {}  # once a training; its memory would stay
        self.training = training.Training(replace(recipe, base_name=model, settings=settings))
        self.model, self.dtype = self.training.model, self.training.patients.dtype
        self.weights = self.training.patients.weights
        self.plain = torch.optim.AdamW(self.weights, lr=1e-4, fused=True)
        self.private = self.training.private_step(recipe.cost, SecureGenerator())
        everybody = settings.patients_a_step + recipe.cost.sample_rate * GHOSTS / 2
        training.draw = lambda *_: list(range(round(everybody)))  # the same patients in each kind of step

    def run(self, size: int | None, batch: Sequence[Unit]) -> float:
        """Take one step, non-private in batches of `size` or private, and return its seconds."""
        started = time.perf_counter()
        if size is None:
            self.private(batch)
        else:
            self.non_private(batch, size)
        self.plain.zero_grad()
        if best_device() == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def non_private(self, batch: Sequence[Unit], size: int) -> None:
        records = [(row, begin, times) for unit in batch for (row, begin), times in unit.distinct.items()]
        records.sort(key=lambda record: -len(record[0]))
        bf16 = self.dtype is torch.bfloat16
        with disable_input_dtype_casting(self.model, active=bf16):
            for first in range(0, len(records), size):
                rows, begins, times = zip(*records[first : first + size], strict=True)
                shares = [each / (len(row) - begin) for row, begin, each in zip(rows, begins, times, strict=True)]
                with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=bf16):
                    losses = row_losses(self.model, batch_of(rows, begins, 0, self.model.device))
                (losses @ torch.tensor(shares, device=losses.device) / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.plain.step()


def measure_time(steps: Steps) -> dict[int | None, list[float]]:
    """Seconds of each kind of step, taking turns in an order of chance; the first ones warm up."""
    seconds: dict[int | None, list[float]] = {size: [] for size in (None, *SIZES)}
    chooser = random.Random(0)
    for number, batch in enumerate(steps.batches):
        for size in chooser.sample(list(seconds), len(seconds)):
            taken = steps.run(size, batch)
            if number >= len(steps.batches) // 8:
                seconds[size].append(taken)
    return seconds


def measure_memory(steps: Steps, size: int | None) -> float:
    """Peak MB above the loaded model over some steps of one kind."""
    if best_device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
        loaded = torch.cuda.memory_allocated()
    else:
        process, stop = psutil.Process(), threading.Event()
        loaded = process.memory_info().rss
        peak = [loaded]

        def watch() -> None:
            while not stop.wait(0.002):
                peak[0] = max(peak[0], process.memory_info().rss)

        threading.Thread(target=watch, daemon=True).start()
    for batch in steps.batches[:6]:
        steps.run(size, batch)
    if best_device() == "cuda":
        return float(torch.cuda.max_memory_allocated() - loaded) / 2**20
    stop.set()
    return (peak[0] - loaded) / 2**20


def main() -> None:
    """Measure both, print and keep the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TOKENIZER)
    parser.add_argument("--quantisation", default="none", choices=("none", "nf4"))
    parser.add_argument("--rounds", type=int, default=24, help="steps of each kind")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)  # a size, or 0 for the private step
    options = parser.parse_args()
    steps = Steps(prepared(options.model), options.quantisation, options.rounds)
    if options.memory_of is not None:
        print(json.dumps(measure_memory(steps, options.memory_of or None)))
        return
    seconds = measure_time(steps)
    size = min(SIZES, key=lambda size: statistics.median(seconds[size]))
    patients, dtype = len(steps.batches[0]), steps.dtype
    del steps
    memory = {}
    for kind in (None, size):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(kind or 0)]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        memory[kind] = float(told.stdout.splitlines()[-1])
    found = {
        "time_ratio": statistics.median(map(truediv, seconds[None], seconds[size])),
        "memory_ratio": memory[None] / memory[size],
        "seconds": {str(kind or "private"): statistics.median(taken) for kind, taken in seconds.items()},
        "peak_mb_above_model": {str(kind or "private"): peak for kind, peak in memory.items()},
        "patients": patients,
        "records_in_a_non_private_batch": size,
        "model": options.model,
        "quantisation": options.quantisation,
        "device": torch.cuda.get_device_name(0) if best_device() == "cuda" else best_device(),
        "dtype": str(dtype),
    }
    path = PROJECT_ROOT / "runs" / "bench.json"
    usual = (options.model, options.quantisation) == (TOKENIZER, "none")
    section = "private_step" if usual else f"private_step {options.model} {options.quantisation}"
    write_json(path, {**(read_json(path) if path.exists() else {}), section: found})
    print(json.dumps(found, indent=2))
    print(Path(path).relative_to(PROJECT_ROOT))


if __name__ == "__main__":
    main()
