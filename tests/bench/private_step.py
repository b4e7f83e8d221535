"""What one private step costs against the course's fastest non-private one: the same rows, model and process.

    python tests/bench/private_step.py [--model smollm2-135m-instruct] [--quantisation none] [--rounds 80]

`make bench` runs it. Both clip, as every training of the course does: the one each patient, the other the whole batch.
A patient has one record here. Time: the two kinds of steps take turns on the same rows in one process; the median of
the pairs' ratios counts, which a machine that grows slower or faster on the way leaves as it is. Memory: each kind
runs in a process of its own, and what its peak lies above the loaded model counts. Both ratios go into
runs/bench.json under `private_step`.

`--model random-1.7b` takes random weights in the shape of SmolLM2-1.7B, which no package ships: time and memory do
not depend on what weights hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from operator import truediv
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting

from helpers.config import PROJECT_ROOT, load_config
from helpers.dataset.join import join_providers
from helpers.dataset.pipeline import load_pipeline
from helpers.dataset.pseudonyms import read_key
from helpers.files import read_json, write_json
from helpers.models import load_base, load_tokenizer
from helpers.precision import best_device, private_dtype
from helpers.privacy.private import backward_part
from helpers.privacy.row_adapters import adapter_layers, own_copies
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.unit_optimizer import UnitOptimizer
from helpers.privacy.units import Unit, encode_units, unit_of_row

ROWS = 8
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


def parts(tokenizer: Any, rounds: int) -> list[list[Unit]]:
    """Micro-batches of eight patients with a record each, from the example holders."""
    pipeline = load_pipeline(load_config("cpu").private.pipeline)
    joined = join_providers(pipeline, read_key({}, fictitious=pipeline.fictitious), seed=0, progress=False)
    units = encode_units(joined.records.get_secret_value()["train"], tokenizer, max_length_tokens=128)
    single = [Unit(unit.name, unit.rows[:1], unit.begins[:1]) for unit in units]
    whole = [single[start : start + ROWS] for start in range(0, len(single) - ROWS + 1, ROWS)]
    return [whole[number % len(whole)] for number in range(rounds)]


class Steps:
    """A model and its two kinds of steps."""

    def __init__(self, model: str, quantisation: str, rounds: int) -> None:
        settings = load_config("cpu").private
        self.tokenizer = load_tokenizer(model)
        self.parts = parts(self.tokenizer, rounds)
        base = load_base(model, quantisation=quantisation, dtype=private_dtype(best_device()))
        # On a CPU both are eager; elsewhere only private training insists on it (docs/decisions/0006).
        self.attention = {"non_private": base.config._attn_implementation, "with_privacy": "eager"}
        shape = LoraConfig(r=settings.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(base, shape).train()
        self.dtype = private_dtype(base.device.type)
        self.layers = adapter_layers(self.model)
        weights = [layer.weight for layer in self.layers.values()]
        for weight in weights:
            weight.data = weight.data.float()
        self.plain = torch.optim.AdamW(weights, lr=1e-4, fused=True)
        self.private = UnitOptimizer(
            torch.optim.AdamW(weights, lr=1e-4, fused=True), noise_multiplier=0.7, max_grad_norm=settings.max_grad_norm,
            expected_batch_size=ROWS, generator=SecureGenerator(),
        )  # fmt: skip

    def run(self, name: str, part: list[Unit]) -> float:
        """Take one step of a kind and return its seconds."""
        self.model.get_base_model().set_attn_implementation(self.attention[name])
        started = time.perf_counter()
        getattr(self, name)(part)
        if best_device() == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def non_private(self, part: list[Unit]) -> None:
        backward_part(self.model, part, self.tokenizer, self.dtype, ROWS)
        torch.nn.utils.clip_grad_norm_(self.plain.param_groups[0]["params"], 1.0)
        self.plain.step()
        self.plain.zero_grad()

    def with_privacy(self, part: list[Unit]) -> None:
        owners = unit_of_row(part)
        with own_copies(self.layers, len(owners), self.dtype):
            backward_part(self.model, part, self.tokenizer, self.dtype, 1.0)
        self.private.unit_of_row = owners
        self.private.step()
        self.private.zero_grad()

    def casting(self) -> Any:
        return disable_input_dtype_casting(self.model, active=self.dtype is torch.bfloat16)


def measure_time(steps: Steps) -> dict[str, list[float]]:
    """Seconds of each kind of step, taking turns and the first place."""
    seconds: dict[str, list[float]] = {"non_private": [], "with_privacy": []}
    with steps.casting():
        for number, part in enumerate(steps.parts):
            for name in sorted(seconds, reverse=bool(number % 2)):
                taken = steps.run(name, part)
                if number >= len(steps.parts) // 8:  # the first ones warm up
                    seconds[name].append(taken)
    return seconds


def measure_memory(steps: Steps, name: str) -> float:
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
    with steps.casting():
        for part in steps.parts[:15]:
            steps.run(name, part)
    if best_device() == "cuda":
        return float(torch.cuda.max_memory_allocated() - loaded) / 2**20
    stop.set()
    return (peak[0] - loaded) / 2**20


def main() -> None:
    """Measure both, print and keep the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TOKENIZER)
    parser.add_argument("--quantisation", default="none", choices=("none", "nf4"))
    parser.add_argument("--rounds", type=int, default=80, help="steps of each kind")
    parser.add_argument("--memory-of", choices=("non_private", "with_privacy"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = Steps(prepared(options.model), options.quantisation, options.rounds)
    if options.memory_of:
        print(json.dumps(measure_memory(steps, options.memory_of)))
        return
    seconds = measure_time(steps)
    del steps
    memory = {}
    for name in seconds:
        told = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--memory-of", name], check=True, capture_output=True, text=True
        )
        memory[name] = float(told.stdout.splitlines()[-1])
    found = {
        "time_ratio": statistics.median(map(truediv, seconds["with_privacy"], seconds["non_private"])),
        "memory_ratio": memory["with_privacy"] / memory["non_private"],
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "peak_mb_above_model": memory,
        "rows": ROWS,
        "model": options.model,
        "quantisation": options.quantisation,
        "device": torch.cuda.get_device_name(0) if best_device() == "cuda" else best_device(),
        "dtype": str(private_dtype(best_device())),
    }
    path = PROJECT_ROOT / "runs" / "bench.json"
    usual = (options.model, options.quantisation) == (TOKENIZER, "none")
    section = "private_step" if usual else f"private_step {options.model} {options.quantisation}"
    write_json(path, {**(read_json(path) if path.exists() else {}), section: found})
    print(json.dumps(found, indent=2))
    print(Path(path).relative_to(PROJECT_ROOT))


if __name__ == "__main__":
    main()
