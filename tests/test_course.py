"""The command line: every stage, its errors, and what a kill leaves behind."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
import pytest
from command_line import KEY, arguments, refused
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from few_patients import make_real, pipeline
from scripted_server import Response, ScriptedServer, failure
from talker import Talker

from helpers.course import main
from helpers.data.example import read_examples
from helpers.files import read_jsonl


@pytest.mark.parametrize(
    ("response", "more", "says"),
    [
        (failure(401, f"wrong key {KEY}"), [], "key"),
        (failure(404, "no such model"), [], "model"),
        (Response(429, {"Retry-After": "3600"}, "{}"), ["endpoint.max_wait_s=1"], "429"),
        (failure(500), ["endpoint.max_wait_s=1"], "500"),
        (Response(200, {}, "{}", 30.0), ["endpoint.timeout_s=0.3", "endpoint.max_attempts=1"], "0.3"),
    ],
    ids=["401", "unknown model", "429 for ever", "500", "hang"],
)
def test_an_endpoint_that_fails_midway_loses_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    talker: Talker,
    response: Response,
    more: list[str],
    says: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    talker.fail_from, talker.fails_with = 16, response  # behind the probe and the trial
    transport = ["endpoint.parallel_requests=1", "endpoint.max_attempts=2", *more]
    options = [part for setting in transport for part in ("--set", setting)]
    started = time.monotonic()
    message = refused(capsys, arguments("create", tmp_path / "run", talker, *options))
    assert time.monotonic() - started < 20
    assert says in message
    written = read_jsonl(tmp_path / "run" / "dataset" / "conversations.jsonl")
    assert written
    # With the server well again the same command goes on, and asks for nothing that is already there.
    talker.fail_from = None
    before = len(talker.requests)
    assert main(arguments("create", tmp_path / "run", talker, *options)) == 0
    again = read_jsonl(tmp_path / "run" / "dataset" / "conversations.jsonl")
    assert {row["id"]: row for row in written}.items() <= {row["id"]: row for row in again}.items()
    assert len(talker.requests) > before
    assert KEY not in "".join(p.read_text("utf-8") for p in (tmp_path / "run").rglob("*") if p.is_file())


def test_a_gated_model_without_a_token(tmp_path: Path) -> None:
    gated = Response(
        401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model owner/gated is restricted."}
    )
    with ScriptedServer(gated) as hub:
        ended = subprocess.run(
            [sys.executable, "-m", "helpers.course", "fine-tune", "--conf", "smoke", "--run", str(tmp_path / "run"),
             "--set", "base_model=owner/gated"],
            capture_output=True, text=True, timeout=120,
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")},
        )  # fmt: skip
        assert hub.requests and not any("authorization" in request.headers for request in hub.requests)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert "owner/gated is a gated model" in last and "HF_TOKEN=" in last and ".env" in last


ODD_GLOSSARIES = {
    "one entry": [{"acronym": "DHAB", "definition": "Drug Handling Advisory Board"}],
    "BOM, scripts, quotes, two fields": [
        {"acronym": "ΕΕΠ", "definition": "Ένωση Ελλήνων Πιλότων"},
        {"acronym": "НИИ", "definition": "Научно-исследовательский институт", "verbose_def": "место,\nгде думают"},
        {"acronym": "北大", "definition": "北京大学"},
        {"acronym": "BRC", "definition": 'The "Big {Red}\n {0}} Cat", it\'s 100 % \\d', "field": "law"},
        {"acronym": "BRC", "definition": "Basic Rate Contract", "field": "health"},
    ],
}


@pytest.mark.parametrize("rows", ODD_GLOSSARIES.values(), ids=ODD_GLOSSARIES)
def test_odd_glossaries_go_all_the_way(
    talker: Talker, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, str]]
) -> None:
    glossary = tmp_path / "g.json"
    glossary.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8-sig")
    options = ["--glossary", str(glossary), "--set", "training.adapters={lora: none}", "--set", "score.judge_items=0"]
    options += ["--set", "dataset.max_entries=null"]
    for command in ("create", "prepare", "fine-tune", "answer", "score", "report"):
        assert main(arguments(command, tmp_path / "run", talker, *options)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text("utf-8"))
    assert results["models"]["lora"]["buckets"]["new_phrasing"]["n"] == 3 * len(rows)
    assert "{0}}" in (tmp_path / "run" / "dataset" / "train.jsonl").read_text("utf-8") or len(rows) == 1
    assert (tmp_path / "run" / "report.html").exists() and "Report:" in capsys.readouterr().out
    card = json.loads((tmp_path / "run" / "dataset" / "card.json").read_text("utf-8"))
    assert card["attempts"] == card["kept_model"] + card["rejected"] and card["kept"] > card["kept_model"]
    assert card["model_share"] >= 0.5
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert all(stage["outputs"] for stage in manifest["stages"].values())


@pytest.mark.slow
def test_thousands_of_entries_are_prepared(talker: Talker, tmp_path: Path) -> None:
    letters = [f"{a}{b}{c}{d}" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST" for c in "UVWXYZABCD" for d in "EFGHIJKLMN"]
    glossary = tmp_path / "g.json"
    glossary.write_text(json.dumps([{"acronym": a, "definition": f"Definition of {a.lower()}"} for a in letters]))
    settings = {
        "glossary": str(glossary), "dataset.max_entries": "null", "dataset.forward_by_model": 0,
        "dataset.reverse_by_model": 0, "dataset.forward_by_bank": 1, "dataset.reverse_by_bank": 1,
        "dataset.unknown_train": 1, "dataset.test_new_phrasings": 1, "dataset.test_reverse": 1,
    }  # fmt: skip
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    for command in ("create", "prepare"):
        assert main(arguments(command, tmp_path / "run", talker, *options)) == 0
    card = json.loads((tmp_path / "run" / "dataset" / "card.json").read_text("utf-8"))
    assert card["kept"] == 2 * len(letters)
    both = {kind: card["train"][kind] + card["validation"].get(kind, 0) for kind in ("forward", "reverse", "unknown")}
    assert both == dict.fromkeys(("forward", "reverse", "unknown"), len(letters))


def test_a_full_disk_keeps_what_was_finished(talker: Talker, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # A limit on the size of a file fails a write as a full disk does, at a moment that repeats.
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); " + (
        "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from helpers.course import main; sys.exit(main(sys.argv[1:]))"
    )
    command = arguments("create", run, talker)
    ended = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "run the same command again" in ended.stderr.strip().splitlines()[-1]
    written = read_jsonl(run / "dataset" / "conversations.jsonl")
    assert written
    before = len(talker.requests)
    assert main(command) == 0
    again = read_jsonl(run / "dataset" / "conversations.jsonl")
    assert all(row in again for row in written)
    assert len(talker.requests) - before < 2 * len(again)


Results = dict[str, Any]


@pytest.fixture
def whole_course(talker: Talker, tmp_path: Path) -> Callable[[str], Path]:
    def run_all(name: str) -> Path:
        for command in ("create", "prepare", "fine-tune", "answer", "score", "report"):
            assert main(arguments(command, tmp_path / name, talker)) == 0
        return tmp_path / name

    return run_all


def comparable(run: Path) -> dict[str, Any]:
    """Everything that must not depend on how often a run was killed."""
    results: Results = json.loads((run / "results.json").read_text("utf-8"))
    for model in results["models"].values():
        del model["seconds"], model["peak_memory_mb"]
    files = [*run.glob("dataset/*.jsonl"), *run.glob("predictions/*.jsonl"), *run.glob("scores/*.jsonl")]
    kept = {path.relative_to(run).as_posix(): path.read_text("utf-8") for path in files}
    return kept | {"models": results["models"], "separation": results["separation"]}


def kill_when(command: list[str], grown: Callable[[], bool]) -> bool:
    """Start a command, SIGKILL it as soon as `grown()`; returns whether it was still running."""
    child = subprocess.Popen(
        [sys.executable, "-m", "helpers.course", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not grown() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    alive = child.poll() is None
    if alive:
        os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return alive


def has_lines(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@pytest.mark.slow
def test_kills_change_nothing(talker: Talker, tmp_path: Path, whole_course: Callable[[str], Path]) -> None:
    undisturbed = comparable(whole_course("whole"))
    run = tmp_path / "killed"
    talker.delay_s = 0.05
    conversations = run / "dataset" / "conversations.jsonl"
    assert kill_when(
        arguments("create", run, talker), lambda: conversations.exists() and bool(conversations.stat().st_size)
    )
    talker.delay_s = 0.0
    for command in ("create", "prepare"):
        assert main(arguments(command, run, talker)) == 0
    checkpoints = run / "models" / "lora" / "checkpoints"
    assert kill_when(arguments("fine-tune", run, talker), lambda: bool(list(checkpoints.glob("*/trainer_state.json"))))
    for command in ("fine-tune", "answer"):
        assert main(arguments(command, run, talker)) == 0
    talker.delay_s = 0.1
    verdicts = run / "judge" / "base.jsonl"
    assert kill_when(arguments("score", run, talker), lambda: has_lines(verdicts))
    talker.delay_s = 0.0
    for command in ("score", "report"):
        assert main(arguments(command, run, talker)) == 0
    assert comparable(run) == undisturbed


@pytest.mark.first
def test_real_records_are_learnt_privately_and_none_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_real(pipeline(tmp_path), Ed25519PrivateKey.generate())
    monkeypatch.setenv("PSEUDONYM_KEY", "0123456789abcdef" * 4)
    source = f"data.source={{holders: {own}}}"
    options = [source, f"privacy.ledgers={tmp_path / 'ledgers'}", "privacy.patients_a_step=50"]
    given = ["--conf", "smoke", "--run", str(tmp_path / "run"), *(w for option in options for w in ("--set", option))]
    assert main(["begin-ledgers", *given]) == main(["run-private", *given]) == 0
    told = capsys.readouterr().out
    assert f"hospital: {tmp_path / 'ledgers' / 'hospital.jsonl'}" in told
    assert "04-audit_privacy.ipynb are left out" in told and "models/private/privacy_report.html" in told
    cells = [c for path in (tmp_path / "run" / "notebooks").iterdir() for c in nbformat.read(path, 4).cells]
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    shown = html.unescape("".join([told, *map(str, chain.from_iterable(output.values() for output in outputs))]))
    dataset = tmp_path / "run" / "private" / "dataset"
    parts = [read_examples(dataset / f"{name}.jsonl") for name in ("train", "validation", "test")]
    records = [record for part in parts for record in part if record.unit]
    raw = read_jsonl(own.with_name("hospital.jsonl"))
    assert len(records) > 100 and len(raw) > 500 and "synthetic look-alikes" in shown
    starts = {record.question[:45] for record in records} | {row["note"][:45] for row in raw}  # a table cuts at 50
    assert not [start for start in starts if start in shown]
    assert not [row["mobile"] for row in raw if str(row["mobile"]) in shown]
    assert "0123456789abcdef" not in shown
    tables = [
        output["data"]["text/html"]
        for cell in cells
        if cell.cell_type == "code" and ".round(decimals)" in cell.source
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    counts = [int(count) for count in re.findall(r"<td[^>]*>(\d+)</td>", "".join(tables))]
    assert len(tables) == 4 and max(counts) > 500 and not any(count % 10 for count in counts)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert main(["prepare", *given]) == main(["begin-ledgers", *given]) == 0
    told = capsys.readouterr().out
    counts = [int(count) for count in re.findall(r"(\d+) (?:of \d|rows|\()", told)]
    assert "hospital: " in told and "rows are in a record (to the nearest ten). Left out: " in told and len(counts) > 5
    assert not any(count % 10 for count in counts) and "private/dataset/card.json" in told
    assert "hospital.jsonl, trainings so far: 1" in told


def test_an_option_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["prepare", "--conf", "smoke", f"--run={tmp_path / 'a'}", "--set", "seed=1", "--set", "threads=1"]
    assert "--run is given 2 times" in refused(capsys, [*twice, "--run", str(tmp_path / "b")])
    assert not [*tmp_path.iterdir()]
