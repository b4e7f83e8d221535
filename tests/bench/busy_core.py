"""What a program beside the course costs it: training, answering and writing, alone and with an endless loop beside.

The loop begins before the work does (busy) or in its midst (later). `python tests/bench/busy_core.py` measures the
course as it is; `--spins 1000 3000 default passive` other ways to wait, in turns. Each figure is the median of three
rounds, in seconds; the three take turns within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from helpers.threads import watch_cores

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
WORK = ("training", "answering", "writing")
BESIDE = ("alone", "busy", "later")


def begin() -> float:
    """Say that the work begins, so that a loop may begin too; returns the time."""
    print("begun", flush=True)
    return time.monotonic()


def training() -> float:
    """Mean seconds of six LoRA steps of 16 conversations of 48 tokens, after a first one."""
    import torch
    from peft import LoraConfig, get_peft_model

    from helpers.models.load import load_base

    model = get_peft_model(load_base("smollm2-135m-instruct"), LoraConfig(r=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    tokens = torch.randint(1000, 40_000, (16, 48))
    for step in range(7):
        if step == 1:
            began = begin()
        with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype is torch.bfloat16):
            model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.monotonic() - began) / 6


def answering() -> float:
    """Seconds of 32 answers of at most 24 tokens."""
    from helpers.models.find import load_tokenizer
    from helpers.models.generate import generate_answers
    from helpers.models.load import load_base

    name = "smollm2-135m-instruct"
    asked = [[{"role": "user", "content": f"What is the capital of country number {n}?"}] for n in range(32)]
    model, tokenizer = load_base(name), load_tokenizer(name)
    began = begin()
    generate_answers(model, tokenizer, asked, max_new_tokens=24, batch_size=32)
    return time.monotonic() - began


def writing() -> float:
    """Seconds of eight replies of the embedded server, four at once."""
    from concurrent.futures import ThreadPoolExecutor

    from helpers.config import load_config
    from helpers.endpoint.chat import open_endpoint

    settings = load_config("cpu", {"endpoint.provider": "embedded", "endpoint.parallel_requests": 4}).endpoint
    with open_endpoint(settings) as endpoint, ThreadPoolExecutor(4) as pool:
        asked = [[{"role": "user", "content": f"Tell me about the number {n}."}] for n in range(8)]
        began = begin()
        list(pool.map(lambda messages: endpoint.complete(messages, max_tokens=32, temperature=0.0, seed=0), asked))
        return time.monotonic() - began


def measured(work: str, environment: dict[str, str], beside: str) -> float:
    """What one of the functions above finds in a process of its own."""
    loop = [sys.executable, "-c", "while True: pass"]
    with ExitStack() as stack:
        if beside == "busy":
            stack.callback(subprocess.Popen(loop).kill)
        command = [sys.executable, __file__, "--work", work]
        child = stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        assert child.stdout
        for line in child.stdout:
            if line == "begun\n" and beside == "later":
                stack.callback(subprocess.Popen(loop).kill)
            last = line
        return float(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spins", nargs="+", default=["course"], help="course, default, passive or a number")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        watch_cores()  # as every stage does
        print(globals()[options.work]())
        return
    ways: dict[str, dict[str, str]] = {
        "course": {},
        "default": {"GOMP_SPINCOUNT": "300000"},
        "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
    plain = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for work in WORK:
            for way in options.spins:
                for beside in BESIDE:
                    environment = {**plain, "PYTHONPATH": str(ROOT), **ways.get(way, {"GOMP_SPINCOUNT": way})}
                    found[f"{work}, {way}, {beside}"].append(measured(work, environment, beside))
    medians = {name: round(statistics.median(times), 3) for name, times in found.items()}
    for work in WORK:
        for way in options.spins:
            alone, busy, later = (medians[f"{work}, {way}, {beside}"] for beside in BESIDE)
            print(f"{work:>10} {way:>8}: {alone:.3f} s alone, times {busy / alone:.2f} busy, {later / alone:.2f} later")
    (ROOT / "runs").mkdir(exist_ok=True)
    (ROOT / "runs" / "busy_core.json").write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
