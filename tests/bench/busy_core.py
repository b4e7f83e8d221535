"""What a program beside the course costs it: training, answering and writing, alone and with an endless loop beside.

`python tests/bench/busy_core.py` measures the course as it is; `--spins 1000 3000 default passive` other ways to wait,
in turns. Each figure is the median of three rounds, in seconds; alone and busy take turns within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.threads import wait_politely

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
WORK = ("training", "answering", "writing")


def training() -> float:
    """Seconds of a LoRA step of 16 conversations of 48 tokens."""
    import torch
    from peft import LoraConfig, get_peft_model

    from helpers.models.load import load_base

    model = get_peft_model(load_base("smollm2-135m-instruct"), LoraConfig(r=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    tokens = torch.randint(1000, 40_000, (16, 48))
    times = []
    for _ in range(4):
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16):
            model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.monotonic() - began)
    return statistics.median(times[1:])


def answering() -> float:
    """Seconds of 32 answers of at most 24 tokens."""
    from helpers.models.find import load_tokenizer
    from helpers.models.generate import generate_answers
    from helpers.models.load import load_base

    name = "smollm2-135m-instruct"
    asked = [[{"role": "user", "content": f"What is the capital of country number {n}?"}] for n in range(32)]
    model, tokenizer = load_base(name), load_tokenizer(name)
    began = time.monotonic()
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
        began = time.monotonic()
        list(pool.map(lambda messages: endpoint.complete(messages, max_tokens=32, temperature=0.0, seed=0), asked))
        return time.monotonic() - began


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if loop:
            loop.kill()
            loop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spins", nargs="+", default=["course"], help="course, default, passive or a number")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        wait_politely()  # as every stage does
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
                for busy in (False, True):
                    environment = {**plain, "PYTHONPATH": str(ROOT), **ways.get(way, {"GOMP_SPINCOUNT": way})}
                    with beside(busy):
                        said = subprocess.run(
                            [sys.executable, __file__, "--work", work], env=environment, check=True, timeout=300,
                            capture_output=True, text=True,
                        ).stdout  # fmt: skip
                    found[f"{work}, {way}, {'busy' if busy else 'alone'}"].append(float(said.split()[-1]))
    medians = {name: round(statistics.median(times), 3) for name, times in found.items()}
    for work in WORK:
        for way in options.spins:
            alone, busy = (medians[f"{work}, {way}, {how}"] for how in ("alone", "busy"))
            print(f"{work:>10} {way:>8}: alone {alone:7.3f} s, busy {busy:7.3f} s, {busy / alone:.2f} times as long")
    (ROOT / "runs").mkdir(exist_ok=True)
    (ROOT / "runs" / "busy_core.json").write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
