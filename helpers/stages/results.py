"""03: answers are scored, and the report is written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from helpers.config import PROJECT_ROOT, load_config
from helpers.data.example import read_examples
from helpers.errors import RunError
from helpers.files import Record, read_json, read_jsonl, write_json, write_jsonl
from helpers.run import Run, flat
from helpers.stages.data import chat_endpoint, pipeline_of, read_card
from helpers.stages.models import adapters_of, trained_models
from helpers.stages.notebooks import ANSWER, PREPARE, SCORE, maker

SCORES = ("evaluation",)
"""Code that decides scores."""
OF_FILES = ("glossary", "data.source")
"""Keys of the configuration that are words of their own in the command of a run."""


def score(run: Run) -> dict[str, Any]:
    """03: score every model's answers, let the judge read a sample, and gather results.json."""
    from helpers.evaluation import results
    from helpers.evaluation.judge import judge_sample
    from helpers.evaluation.similarity import load_metrics

    settings = run.config.score
    folder = run.ensure("dataset", sample="test.jsonl", made_by=maker(run, PREPARE))
    predictions = run.ensure("predictions", sample="base.jsonl", made_by=maker(run, ANSWER))
    order = [name for name in _model_order(run) if (predictions / f"{name}.jsonl").exists()]
    trained = trained_models(run)  # answers of a model of other data may be left
    order = [name for name in order if name in trained or not (run.path / "models" / name / "training.json").exists()]
    inputs = [folder / "train.jsonl", folder / "test.jsonl", *(predictions / f"{name}.jsonl" for name in order)]
    path = run.home / "scores" / "results.json"
    judged = settings.judge_items
    if judged and run.config.pipeline and not pipeline_of(run).fictitious and run.server().base_url:
        print("No judge: patients' records are not sent to a chat server.")
        judged = 0
    same = not judged or _same_judge(run, path)
    if same and run.finished("score", inputs, SCORES):
        return gather_results(run)
    scores = {name: run.home / "scores" / f"{name}.jsonl" for name in order}
    with run.stage("score", inputs, [path, *scores.values()], code=SCORES):
        test = read_examples(folder / "test.jsonl")
        answers = {name: results.read_answers(predictions / f"{name}.jsonl", test) for name in order}
        train = None if run.config.pipeline else folder / "train.jsonl"
        kept = run.home / "models" / "cross_encoder"
        metrics, quality = load_metrics(settings, train, kept, seed=run.config.seed)
        verdicts: dict[str, list[Record]] = {name: [] for name in order}
        identity = _identity(run)
        if judged:
            with chat_endpoint(run) as endpoint:
                identity["judge"] = endpoint.name
                verdicts = judge_sample(
                    test, answers, endpoint, count=judged, folder=run.home / "judge", seed=run.config.seed
                )
        rows = {}
        for name in order:
            rows[name] = results.score_answers(test, answers[name], metrics=metrics, verdicts=verdicts[name])
            write_jsonl(scores[name], rows[name])
        gathered = results.collect_results(
            test,
            answers,
            rows,
            {name: _cost(run, name) for name in order},
            run=identity,
            dataset=_dataset(run),
            training=_training(run),
            cross_encoder=quality,
        )
        write_json(path, gathered)
    return gather_results(run)


def _same_judge(run: Run, scored: Path) -> bool:
    """Whether the server that is configured gave the verdicts; says so where another did."""
    judge = read_json(scored)["run"].get("judge") if scored.exists() else None
    if judge is None or run.server().is_called(judge):
        return True
    print(f"The answers were judged by {judge}; another judge is configured now, and reads them anew.")
    return False


def gather_results(run: Run) -> dict[str, Any]:
    """Put what scoring and the privacy audit found so far into results.json, which tables and plots are drawn from."""
    scored, audited = run.home / "scores" / "results.json", run.home / "audit.json"
    results = read_json(scored) if scored.exists() else {"run": _identity(run)}
    if audited.exists():
        results["privacy"] = read_json(audited)
    write_json(run.home / "results.json", results)
    return results


def report(run: Run) -> Path:
    """03: write report.html from results.json alone."""
    from helpers.report.page import write_report

    source, target = run.home / "results.json", run.home / "report.html"
    if not source.exists():
        raise RunError(f"{source} is missing. Run {maker(run, SCORE)} on this run folder first.")
    with run.stage("report", [source], [target]):
        write_report(source, target)
    return target


def _model_order(run: Run) -> list[str]:
    return ["base", "in_context", *adapters_of(run)]


def _cost(run: Run, name: str) -> dict[str, Any]:
    record = run.record(f"answer {name}") or {}
    return {"seconds": record.get("seconds"), "peak_memory_mb": record.get("peak_memory_mb")}


def _identity(run: Run) -> dict[str, Any]:
    manifest, config = run.manifest, run.config
    return {
        "id": manifest["id"],
        "profile": config.profile,
        "base_model": config.base_model,
        "glossary" if config.data.source is None else "data": _source(run),
        "command": _command(run),
        "seed": config.seed,
        "date": manifest["started"][:10],
        "code_revision": manifest["code_revision"],
        "machine": manifest["machine"],
        "versions": manifest["versions"],
        "from_example_data": manifest["from_example_data"],
    }


def _source(run: Run) -> str:
    from helpers.data.table.source import named

    config = run.config
    path = config.pipeline or (config.glossary if config.data.source is None else None)
    return path.name if path else named(config.data.source)


def _dataset(run: Run) -> dict[str, Any]:
    """What the report tells of the data: the card, or of a join's the part that fits on a line."""
    card = read_card(run)
    return {key: card[key] for key in ("units", "cap", "buckets")} if run.config.pipeline else card


def _command(run: Run) -> str:
    """What makes this run again."""

    def shown(path: Path) -> str:
        return shlex.quote(
            path.relative_to(PROJECT_ROOT).as_posix() if path.is_relative_to(PROJECT_ROOT) else str(path)
        )

    config, own = run.config, dict(flat(run.config.as_dict()))
    shipped = (PROJECT_ROOT / "conf" / f"{config.profile}.yaml").is_file()
    usual = dict(flat(load_config(config.profile).as_dict())) if shipped else own
    changed = {key: value for key, value in own.items() if value != usual.get(key) and key not in OF_FILES}
    pairs = [f"--set {key}={shlex.quote(json.dumps(value, ensure_ascii=False))}" for key, value in changed.items()]
    words = ["make run", f"CONF={shlex.quote(config.profile) if shipped else f'path/to/{config.profile}.yaml'}"]
    if (data := config.table or config.pipeline) and shipped:
        words.append(f"DATA={shown(data)}")
    words += [f"GLOSSARY={shown(config.glossary)}"] if own["glossary"] != usual["glossary"] else []
    words += [f"OPTIONS={shlex.quote(' '.join(pairs))}"] if pairs else []
    return " ".join([*words, f"RUN={shown(run.path)}"])


def _training(run: Run) -> dict[str, Any]:
    """What is told of each training, with its losses."""
    trained = {}
    for name in adapters_of(run):
        folder = run.path / "models" / name
        if not (folder / "training.json").exists():
            continue
        if run.config.pipeline:
            from helpers.stages.private_training import told_of

            told = told_of(run, name)
            told["log"] = [{"step": row["step"], "eval_loss": row["heldout_loss"]} for row in told["log"]]
        else:
            told = {"log": read_jsonl(folder / "training_log.jsonl"), **read_json(folder / "training.json")}
        trained[name] = told
    return trained
