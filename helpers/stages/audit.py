"""03, with fictitious holders' records as source: every model is attacked."""

from pathlib import Path
from typing import Any

import torch

from helpers.data.example import SPLITS, read_examples
from helpers.data.holders.candidates import BUCKET
from helpers.errors import RunError
from helpers.evaluation.attacks.audit import audit_model
from helpers.files import read_json, write_json
from helpers.models.find import load_tokenizer
from helpers.models.load import attach_adapters, load_base
from helpers.run import Run
from helpers.stages.common import pipeline_of
from helpers.stages.models import trained_models
from helpers.stages.private_training import BASELINE, told_of
from helpers.stages.results import gather_results, report


def audit_privacy(run: Run) -> dict[str, Any]:
    """03: attack every model of the run, and gather what leaked under results.json's `privacy`."""
    pipeline, data = pipeline_of(run), run.home / "dataset"
    folders = trained_models(run)
    if not pipeline.fictitious:
        raise RunError("The audit attacks planted secrets, and real records have none. Run it on the example holders.")
    if "private" not in folders:
        raise RunError("This run has no private model of its present records. Run the command fine-tune first.")
    if not pipeline.split.validation:
        raise RunError("The audit compares with patients held back: give split.validation a share in the pipeline.")
    read = [data / f"{name}.jsonl" for name in (*SPLITS, "canaries")]
    inputs = {"base": read, **{name: [*read, path] for name, path in folders.items()}}
    outputs = {name: run.home / "audit" / f"{name}.json" for name in inputs}
    todo = [name for name in inputs if not run.finished(f"audit {name}", inputs[name])]
    if todo:
        examples = {path.stem: read_examples(path) for path in read}
        for part in SPLITS:  # without what was planted, and without common knowledge
            examples[part] = [each for each in examples[part] if each.bucket == BUCKET]
        tokenizer, base_name = load_tokenizer(run.config.base_model), run.config.base_model
        dtype = getattr(torch, read_json(folders["private"] / "training.json")["dtype"])
        quantisation, threads = run.config.privacy.quantisation, run.config.threads
        model: Any = load_base(base_name, quantisation=quantisation, threads=threads, dtype=dtype)
        for name in todo:  # the base comes first: the others are compared with it
            with run.stage(f"audit {name}", inputs[name], [outputs[name]]):
                base = None
                if name != "base":
                    base = read_json(outputs["base"])
                    model = attach_adapters(model, {name: folders[name]}, base_name)
                write_json(outputs[name], audit_model(model, tokenizer, examples, base, seed=run.config.seed))
                model = model if name == "base" else model.unload()
    summary = run.home / "audit.json"
    write_json(summary, _privacy_section(run, folders, outputs))
    if "models" in gather_results(run):
        report(run)  # written before the audit, it lacks what was found
    return read_json(summary)


def _privacy_section(run: Run, folders: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """What results.json holds: the figures of every audit, without losses of single patients."""
    models: dict[str, Any] = {}
    for name, path in outputs.items():
        models[name] = {key: value for key, value in read_json(path).items() if key != "losses"}
        if name in folders:
            models[name]["training"] = {k: v for k, v in told_of(run, name).items() if k != "hot_test"}
        page = folders.get(name, path) / "privacy_report.json"
        models[name]["epsilon"] = read_json(page)["epsilon"] if page.exists() else None
    private = read_json(folders["private"] / "privacy_report.json")
    return {
        **{key: private[key] for key in ("epsilon", "delta", "unit")},
        "audit_works": models[BASELINE]["canary_epsilon"] > 1 if BASELINE in models else None,
        "models": models,
    }
