"""What one private step costs against the course's fastest non-private one: the same rows, model and process.

`make bench` runs it. Time: the two kinds of steps take turns in one process; the median of each counts. Memory: each
kind runs in a process of its own, and what its peak lies above the loaded model counts. Both ratios go into
runs/bench.json under `private_step`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting

from helpers.config import PROJECT_ROOT, load_config
from helpers.dataset.join import join_providers
from helpers.dataset.pipeline import load_pipeline
from helpers.dataset.pseudonyms import read_key
from helpers.files import read_json, write_json
from helpers.models import load_base, load_tokenizer
from helpers.precision import compute_dtype
from helpers.training.private import backward_part
from helpers.training.row_adapters import adapter_layers, own_copies
from helpers.training.unit_optimizer import UnitOptimizer, secure_generator
from helpers.training.units import Unit, encode_units, unit_of_row

ROWS = 8
ROUNDS = 40


def parts(tokenizer: Any) -> list[list[Unit]]:
    """Micro-batches of eight patients with a record each, from the example holders."""
    pipeline = load_pipeline(load_config("cpu").private.pipeline)
    joined = join_providers(pipeline, read_key({}, fictitious=pipeline.fictitious), seed=0, progress=False)
    units = encode_units(joined.records.get_secret_value()["train"], tokenizer, max_length_tokens=128)
    single = [Unit(unit.name, unit.rows[:1]) for unit in units]
    return [single[start : start + ROWS] for start in range(0, ROWS * ROUNDS, ROWS)]


class Steps:
    """A model and its two kinds of steps."""

    def __init__(self) -> None:
        settings = load_config("cpu").private
        self.tokenizer = load_tokenizer("smollm2-135m-instruct")
        self.parts = parts(self.tokenizer)
        base = load_base("smollm2-135m-instruct")
        if base.device.type == "cpu":
            base.set_attn_implementation("eager")
        shape = LoraConfig(r=settings.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(base, shape).train()
        self.dtype = compute_dtype(base.device.type)
        self.layers = adapter_layers(self.model)
        weights = [layer.weight for layer in self.layers.values()]
        for weight in weights:
            weight.data = weight.data.float()
        self.plain = torch.optim.AdamW(weights, lr=1e-4)
        self.private = UnitOptimizer(
            torch.optim.AdamW(weights, lr=1e-4), noise_multiplier=0.7, max_grad_norm=settings.max_grad_norm,
            expected_batch_size=ROWS, generator=secure_generator(base.device),
        )  # fmt: skip

    def non_private(self, part: list[Unit]) -> None:
        backward_part(self.model, part, self.tokenizer, self.dtype, ROWS)
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


def measure_time() -> dict[str, float]:
    """Median seconds of each kind of step, taking turns."""
    steps = Steps()
    seconds: dict[str, list[float]] = {"non_private": [], "with_privacy": []}
    with steps.casting():
        for number, part in enumerate(steps.parts):
            for name, taken in seconds.items():
                started = time.perf_counter()
                getattr(steps, name)(part)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if number >= 5:  # the first ones warm up
                    taken.append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def measure_memory(name: str) -> float:
    """Peak MB above the loaded model over some steps of one kind."""
    steps = Steps()
    if torch.cuda.is_available():
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
            getattr(steps, name)(part)
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() - loaded) / 2**20
    stop.set()
    return (peak[0] - loaded) / 2**20


def main() -> None:
    """Measure both, print and keep the ratios."""
    if len(sys.argv) > 1:
        print(json.dumps(measure_memory(sys.argv[1])))
        return
    seconds = measure_time()
    memory = {}
    for name in seconds:
        told = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        memory[name] = float(told.stdout.splitlines()[-1])
    found = {
        "time_ratio": seconds["with_privacy"] / seconds["non_private"],
        "memory_ratio": memory["with_privacy"] / memory["non_private"],
        "seconds": seconds,
        "peak_mb_above_model": memory,
        "rows": ROWS,
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "dtype": str(compute_dtype("cuda" if torch.cuda.is_available() else "cpu")),
    }
    path = PROJECT_ROOT / "runs" / "bench.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), "private_step": found})
    print(json.dumps(found, indent=2))
    print(Path(path).relative_to(PROJECT_ROOT))


if __name__ == "__main__":
    main()
