"""03: answers are scored, and the report is written."""

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.config import PROJECT_ROOT, load_config
from helpers.config_layers import flat
from helpers.data.example import read_examples
from helpers.data.table.source import named
from helpers.errors import RunError
from helpers.files import Record, read_json, read_jsonl, write_json, write_jsonl
from helpers.run import Run
from helpers.stages.common import ANSWER, PREPARE, SCORE, chat_endpoint, maker, pipeline_of, read_card
from helpers.stages.models import adapters_of, trained_models

SCORES = ("data/languages", "data/matching", "data/reading", "evaluation")
"""Code that decides scores."""


def score(run: Run) -> dict[str, Any]:
    """03: score every model's answers, let the judge read a sample, and gather results.json."""
    config, settings = run.config, run.config.score
    folder = run.ensure("dataset", sample="test.jsonl", made_by=maker(run, PREPARE))
    predictions = run.ensure("predictions", sample="base.jsonl", made_by=maker(run, ANSWER))
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    trained = trained_models(run)
    paths = {
        name: predictions / f"{name}.jsonl"
        for name in ("base", "in_context", *adapters_of(run))
        if (predictions / f"{name}.jsonl").exists()  # perhaps left by a model that was trained on other data
        and (name in trained or not (run.path / "models" / name / "training.json").exists())
    }
    inputs = [train, test, *paths.values()]
    path, judged = run.home / "scores" / "results.json", settings.judge_items
    if judged and config.pipeline and not pipeline_of(run).fictitious and run.server().base_url:
        print("No judge: patients' records are not sent to a chat server.")
        judged = 0
    if (not judged or _same_judge(run, path)) and run.finished("score", inputs, SCORES):
        return gather_results(run)
    from helpers.evaluation import results
    from helpers.evaluation.judge import judge_sample
    from helpers.evaluation.similarity import load_metrics

    scores = {name: run.home / "scores" / f"{name}.jsonl" for name in paths}
    with run.stage("score", inputs, [path, *scores.values()], code=SCORES):
        items = read_examples(test)
        answers = {name: results.read_answers(path_of, items) for name, path_of in paths.items()}
        kept = run.home / "models" / "cross_encoder"
        metrics, quality = load_metrics(settings, None if config.pipeline else train, kept, seed=config.seed)
        verdicts: dict[str, list[Record]] = {}
        identity, card = _identity(run), read_card(run)
        if judged:
            with chat_endpoint(run) as endpoint:
                identity["judge"] = endpoint.name
                verdicts = judge_sample(
                    items, answers, endpoint, count=judged, folder=run.home / "judge", seed=config.seed
                )
        rows = {}
        for name, given in answers.items():
            rows[name] = results.score_answers(items, given, metrics=metrics, verdicts=verdicts.get(name, []))
            write_jsonl(scores[name], rows[name])
        records: dict[str, Any] = {name: run.record(f"answer {name}") or {} for name in answers}
        gathered = results.collect_results(
            items,
            answers,
            rows,
            {name: {key: of.get(key) for key in ("seconds", "peak_memory_mb")} for name, of in records.items()},
            run=identity,
            # Of a join's card, the part that fits on a line.
            dataset={key: card[key] for key in ("units", "cap", "buckets")} if config.pipeline else card,
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
    results: Any = None
    with suppress(OSError, ValueError):  # not there, or no JSON
        results = read_json(source)
    if not isinstance(results, dict) or "models" not in results:
        raise RunError(f"{source} holds no results. Run {maker(run, SCORE)} on this run folder first.")
    with run.stage("report", [source], [target]):
        write_report(results, target)
    return target


def _identity(run: Run) -> dict[str, Any]:
    manifest, config = run.manifest, run.config
    data = {"glossary": config.glossary.name}
    if config.data.source is not None:
        data = {"data": config.pipeline.name if config.pipeline else named(config.data.source)}
    return {
        "id": manifest["id"],
        "profile": config.profile,
        "base_model": config.base_model,
        **data,
        "command": _command(run),
        "seed": config.seed,
        "date": manifest["started"][:10],
        **{key: manifest[key] for key in ("code_revision", "machine", "versions", "from_example_data")},
    }


def _command(run: Run) -> str:
    """What makes this run again."""

    def shown(path: Path) -> str:
        return path.relative_to(PROJECT_ROOT).as_posix() if path.is_relative_to(PROJECT_ROOT) else str(path)

    config, own = run.config, dict(flat(run.config.model_dump(mode="json")))
    shipped = (PROJECT_ROOT / "conf" / f"{config.profile}.yaml").is_file()
    usual = dict(flat(load_config(config.profile).model_dump(mode="json"))) if shipped else own
    data = config.table or config.pipeline
    words_of_their_own = ("glossary", "data.source") if data else ("glossary",)
    if isinstance(own["data.source"], str):  # behind the question mark of an address may be what nobody should see
        own["data.source"] = own["data.source"].partition("?")[0]
    pairs = [
        f"--set {key}={shlex.quote(json.dumps(value, ensure_ascii=False))}"
        for key, value in own.items()
        if value != usual.get(key) and key not in words_of_their_own
    ]
    words = {
        "CONF": config.profile if shipped else f"path/to/{config.profile}.yaml",
        "DATA": shown(data) if data and shipped else "",
        "GLOSSARY": shown(config.glossary) if own["glossary"] != usual["glossary"] else "",
        "OPTIONS": " ".join(pairs),
        "RUN": shown(run.path),
    }
    return " ".join(["make run", *(f"{word}={shlex.quote(value)}" for word, value in words.items() if value)])


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
            asked = folder / "hot_test.jsonl"
            told["hot_test"] = read_jsonl(asked) if asked.exists() else []
        trained[name] = told
    return trained
