"""02 and 03: adapters are trained, and models are asked."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.config import Quantisation
from helpers.data.example import GENERAL, Example, Message, is_general, read_examples
from helpers.data.table.conversations import worded
from helpers.errors import RunError
from helpers.evaluation.answers import glossary_messages, nearest_rows_messages
from helpers.files import Record, appending, held, read_json, read_jsonl, write_jsonl
from helpers.run import Run
from helpers.stages.common import PREPARE, TRAIN, glossary_entries, maker
from helpers.storage import copy_model

FITS = ("training", "models")
ANSWERS = ("evaluation/answers", "models")
"""Code that decides what a stage makes."""


def fine_tune(
    run: Run, only: str | None = None, watch: Callable[[list[Record]], None] | None = None
) -> dict[str, dict[str, Any]]:
    """02: train the configured adapters, or `only` one, into models/<name>/; returns name to its training.json.

    Each is audited before its first step and answers a few test questions on the way (training.hot_test); `watch` is
    called with the training log whenever it grows, or once where the adapter is trained already. With holders' records
    as source, `fine_tune_private` trains them with differential privacy instead, without `watch`.
    """
    if run.config.pipeline:
        from helpers.stages.private_training import fine_tune_private

        return fine_tune_private(run, only)
    config, settings = run.config, run.config.training
    dataset = run.ensure("dataset", sample="train.jsonl", made_by=maker(run, PREPARE))
    inputs = [dataset / "train.jsonl", dataset / "validation.jsonl"]
    if only is not None and only not in settings.adapters:
        raise RunError(f"There is no adapter '{only}' in training.adapters; it has {', '.join(settings.adapters)}.")
    test = dataset / "test.jsonl"  # not among the inputs: what is asked on the way does not change the adapter
    summaries = {}
    for name in [only] if only else settings.adapters:
        folder = run.path / "models" / name
        if not run.finished(f"fine_tune {name}", inputs, FITS):
            from helpers.training.sft import train_adapter

            with held(folder, "training"), run.stage(f"fine_tune {name}", inputs, [folder], code=FITS) as may_continue:
                if not may_continue:
                    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                train, validation = map(read_examples, inputs)
                asked = hot_questions(read_examples(test)) if test.exists() else []
                rows: dict[str, Any] = {"train": train, "validation": validation, "questions": asked}
                train_adapter(folder, config, settings.adapters[name], **rows, watch=watch)
        elif watch:  # trained before
            watch(read_jsonl(folder / "training_log.jsonl"))
        summaries[name] = read_json(folder / "training.json")
    for name in summaries:  # when all are trained: a copy that fails stops none of them
        copy_model(run.path / "models" / name, settings.additional_output_paths)
    return summaries


def hot_questions(test: Sequence[Example]) -> list[Example]:
    """The few test questions that a model answers while it is trained, from each bucket but common knowledge in turn.

    A digest of the ids chooses them, so that they are the same in every run on this test and about different subjects.
    """
    from helpers.evaluation.results import by_bucket, spread
    from helpers.models.hot_test import QUESTIONS

    buckets = by_bucket((each.bucket, each) for each in test if each.prompt and not is_general(each.bucket))
    for own in buckets.values():
        own.sort(key=lambda each: hashlib.sha256(each.id.encode()).digest())
    return spread([*buckets.values()], QUESTIONS)


def answer(run: Run) -> dict[str, Path]:
    """03: answer the test with base, in_context and every adapter; returns model name to predictions file.

    For holders' records there is no in_context: no record may stand in a prompt that asks about another one.
    """
    config = run.config
    dataset = run.ensure("dataset", sample="test.jsonl", made_by=maker(run, PREPARE))
    test = read_examples(dataset / "test.jsonl")
    quantised, trained = adapters_of(run), trained_models(run)
    for name in quantised.keys() - trained.keys():
        print(f"The adapter {name} is not trained on this run's data: left out. {maker(run, TRAIN)} trains it.")
    models = ["base", *([] if config.pipeline else ["in_context"]), *trained]
    shown = config.glossary if config.data.source is None else dataset / "train.jsonl"
    of = {"base": [], "in_context": [shown]} | {name: [folder] for name, folder in trained.items()}
    inputs = {name: [dataset / "test.jsonl", *of[name]] for name in models}
    todo = [name for name in models if not run.finished(f"answer {name}", inputs[name], ANSWERS)]
    # Adapters share one base where it is stored alike; a 4-bit base is loaded once more for QLoRA.
    stored = {name: quantised.get(name, "none") for name in todo}
    for quantisation in dict.fromkeys(stored.values()):
        from helpers.models.find import load_tokenizer
        from helpers.models.load import attach_adapters, load_base

        group = [name for name in todo if stored[name] == quantisation]
        tokenizer = load_tokenizer(config.base_model)
        model = load_base(config.base_model, quantisation=quantisation, threads=config.threads)
        for name in group:
            if name not in trained:  # base and in_context, before adapters change the base
                _answer_with(run, name, model, tokenizer, test, inputs[name])
        if adapters := {name: trained[name] for name in group if name in trained}:
            model = attach_adapters(model, adapters, config.base_model)
        for name in adapters:
            model.set_adapter(name)
            _answer_with(run, name, model, tokenizer, test, inputs[name])
    return {name: _answers_of(run, name) for name in models}


def _answers_of(run: Run, name: str) -> Path:
    return run.home / "predictions" / f"{name}.jsonl"


def adapters_of(run: Run) -> dict[str, Quantisation]:
    """Name of every adapter that the run is about, and how its base is stored."""
    if run.config.pipeline is None:
        return dict(run.config.training.adapters)
    from helpers.stages.private_training import models_to_train

    return dict.fromkeys(models_to_train(run), run.config.privacy.quantisation)


def trained_models(run: Run) -> dict[str, Path]:
    """Name and folder of every adapter that is trained on the run's data as they are now."""
    parts = ("train", "validation", "test") if run.config.pipeline else ("train", "validation")
    data = [run.home / "dataset" / f"{part}.jsonl" for part in parts]
    folders = {name: run.path / "models" / name for name in adapters_of(run)}
    return {
        name: folder
        for name, folder in folders.items()
        if (folder / "training.json").exists() and run.made_from(f"fine_tune {name}", data)
    }


def in_context(run: Run, test: list[Example]) -> list[list[Message]]:
    """Test questions behind what is nearest to them in the glossary, or among the table's training rows."""
    count = run.config.answer.in_context_entries
    if run.config.data.source is None:
        return glossary_messages(test, glossary_entries(run), count)
    train = read_examples(run.ensure("dataset", sample="train.jsonl", made_by=maker(run, PREPARE)) / "train.jsonl")
    return nearest_rows_messages(test, [example for example in train if example.bucket != GENERAL], count)


def longest_answer(run: Run, tokenizer: Any, test: list[Example]) -> int:
    """Tokens that an answer may have: as configured, else a quarter more than the longest reference, at least 40."""
    if run.config.answer.max_new_tokens:
        return run.config.answer.max_new_tokens
    longest = max(len(tokenizer(example.answer)["input_ids"]) for example in test)
    return max(40, longest + longest // 4)


def _answer_with(run: Run, name: str, model: Any, tokenizer: Any, test: list[Example], inputs: list[Path]) -> None:
    from helpers.models.generate import Generated, generate_answers

    path = _answers_of(run, name)
    messages = in_context(run, test) if name == "in_context" else [list(example.prompt) for example in test]
    with run.stage(f"answer {name}", inputs, [path], code=ANSWERS) as may_continue:
        if not may_continue:  # answers of another model, or to other questions
            path.unlink(missing_ok=True)
        with appending(path) as append:
            done = {row["id"] for row in read_jsonl(path)}
            left = [position for position, item in enumerate(test) if item.id not in done]

            def keep(positions: list[int], answers: list[Generated]) -> None:
                for position, given in zip(positions, answers, strict=True):
                    row = {"id": test[left[position]].id, "answer": given.text}
                    append({**row, "new_tokens": given.new_tokens, "stopped": given.stopped})

            generate_answers(
                model,
                tokenizer,
                [messages[position] for position in left],
                max_new_tokens=longest_answer(run, tokenizer, test),
                batch_size=run.config.answer.batch_size,
                title=f"answers of {name}",
                on_batch=keep,
            )
        by_id = {row["id"]: row for row in read_jsonl(path)}
        write_jsonl(path, [by_id[item.id] for item in test])


def ask(run: Run, question: str, model: str | None = None) -> dict[str, str]:
    """Ask trained models a question, or one of them, or `base`; returns model name to answer."""
    from helpers.models.find import load_tokenizer
    from helpers.models.generate import generate_answers
    from helpers.models.load import attach_adapters, load_base

    config, answers = run.config, {}
    trained = [path.parent.name for path in sorted((run.path / "models").glob("[!.]*/adapter_config.json"))]
    chosen = [model] if model else trained
    if not trained and model != "base":
        raise RunError(
            f"{run.path} has no trained model yet. {maker(run, TRAIN)} trains one; --model base asks the base model."
        )
    if not set(chosen) <= {"base", *trained}:
        raise RunError(f"{run.path} has the models {', '.join(trained)}, and base; received {model}.")
    tokenizer, data = load_tokenizer(config.base_model), config.data
    messages = [{"role": "user", "content": question}]
    if data.source is not None and config.pipeline is None:
        messages = worded(messages, [], data.prompt)
    for name in chosen:
        usual = config.privacy.quantisation if config.pipeline else "none"
        quantisation = config.training.adapters.get(name, usual)
        net = load_base(config.base_model, quantisation=quantisation, threads=config.threads)
        if name != "base":
            net = attach_adapters(net, {name: run.path / "models" / name}, config.base_model)
        limit = config.answer.max_new_tokens or config.training.max_length_tokens
        [answer] = generate_answers(net, tokenizer, [messages], max_new_tokens=limit, batch_size=1, title=name)
        answers[name] = answer.text
    return answers
