"""Writing conversations: how much faster several requests at once are, and what thousands of entries take.

    python tests/bench/generation.py [--entries 16] [--rounds 2]

`make bench` runs it. *Requests at once*: a few conversations about each entry, written by the embedded server with 1,
4, 8 and 16 requests at once, in turns; seconds are medians over the rounds. Conversations of one entry wait for each
other, so that few entries would leave lanes empty. *Entries*: 100, 1,000 and 10,000 of them worded by the phrasing
bank, each in a process of its own; seconds, and what the process's peak of memory lies above that of 100 entries.
Figures go into runs/bench.json under `generation`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from helpers.config import PROJECT_ROOT, load_config
from helpers.data.glossary.entries import Entry, load_glossary
from helpers.data.glossary.writer import write_conversations
from helpers.endpoint.chat import ChatEndpoint, open_endpoint
from helpers.files import read_json, write_json, write_jsonl
from helpers.server import Server

AT_ONCE = (1, 4, 8, 16)
FEW = {"forward_by_model": 4, "reverse_by_model": 2, "forward_by_bank": 1, "reverse_by_bank": 1}
SIZES = (100, 1_000, 10_000)


def written_s(entries: list[Entry], at_once: int) -> float:
    """Seconds that the embedded server takes for conversations about `entries`."""
    config = load_config("cpu", {"endpoint.provider": "embedded", "endpoint.parallel_requests": at_once})
    settings = config.dataset.model_copy(update=FEW)
    with tempfile.TemporaryDirectory() as folder, open_endpoint(config.endpoint) as endpoint:
        endpoint.probe()
        began = time.monotonic()
        write_conversations(entries, endpoint, settings, path=Path(folder, "c.jsonl"), seed=0)
        return time.monotonic() - began


def by_bank(count: int) -> dict[str, float]:
    """Seconds and peak of memory, in MB, for `count` entries worded by the bank."""
    config = load_config("cpu")
    settings = config.dataset.model_copy(update={"forward_by_model": 0, "reverse_by_model": 0})
    entries = [Entry(f"A{number}", f"A{number}", f"Agency number {number} of the bench") for number in range(count)]
    nobody = ChatEndpoint(Server("http://127.0.0.1:9/v1", "none", None), config.endpoint)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        path = Path(folder, "c.jsonl")
        write_jsonl(path, write_conversations(entries, nobody, settings, path=path, seed=0))  # as `create` does
        took_s = time.monotonic() - began
    return {"s": took_s, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--by-bank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_bank:
        print(json.dumps(by_bank(options.by_bank)))
        return
    entries = load_glossary(PROJECT_ROOT / "example_data" / "acronyms.json", options.entries)
    times: dict[int, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for at_once in AT_ONCE:
            times[at_once].append(written_s(entries, at_once))
    medians = {at_once: statistics.median(of) for at_once, of in times.items()}
    default = load_config("cpu").endpoint.parallel_requests
    sizes: dict[int, Any] = {}
    for count in SIZES:
        command = [sys.executable, __file__, "--by-bank", str(count)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        sizes[count] = json.loads(said.splitlines()[-1])
    least, *_, most = SIZES
    found = {
        "seconds_at_once": {str(at_once): round(seconds, 1) for at_once, seconds in medians.items()},
        "speedup_over_sequential": round(medians[1] / medians[default], 2),
        "default_over_best": round(medians[default] / min(medians.values()), 2),
        "ms_per_entry": {str(count): round(1000 * of["s"] / count, 2) for count, of in sizes.items()},
        "kB_per_entry": round((sizes[most]["MB"] - sizes[least]["MB"]) * 1024 / (most - least), 2),
    }
    path = PROJECT_ROOT / "runs" / "bench.json"
    write_json(path, (read_json(path) if path.exists() else {}) | {"generation": found})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
