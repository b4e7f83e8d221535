"""The door: each stage of the course takes a run folder, reads its configuration and calls plain functions.

A stage that has finished on the same inputs is not done again; one that was killed goes on where it stopped.
Notebooks and the command line call these same functions, so there is one way to do each thing. Heavy modules
are imported by the stage that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import load_dotenv

from helpers.config import PROJECT_ROOT
from helpers.data.example import Example, Message, read_examples, write_examples
from helpers.errors import RunError
from helpers.files import JsonLines, Record, read_json, read_jsonl, write_atomic, write_json, write_jsonl
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.data.glossary.entries import Entry
    from helpers.endpoint.chat import ChatEndpoint

WRITE = "01-create_dataset/01-write_conversations.ipynb"
PREPARE = "01-create_dataset/02-prepare_dataset.ipynb"
TRAIN = "02-fine_tune/02-train_adapters.ipynb"
ANSWER = "03-test/01-answer.ipynb"
SCORE = "03-test/02-score.ipynb"


def glossary_entries(run: Run) -> list[Entry]:
    """The entries of the run's glossary that the configuration admits; says so where some are left out."""
    from helpers.data.glossary.entries import load_glossary

    everything = load_glossary(run.config.glossary)
    limit = run.config.dataset.max_entries
    if limit is None or len(everything) <= limit:
        return everything
    print(f"Using the first {limit} of {len(everything)} entries: dataset.max_entries; null would take all of them.")
    return load_glossary(run.config.glossary, limit)


@contextmanager
def chat_endpoint(run: Run) -> Iterator[ChatEndpoint]:
    """The configured chat endpoint, checked; the embedded server is started and stopped as needed."""
    from helpers.endpoint.chat import open_endpoint

    load_dotenv(PROJECT_ROOT / ".env")
    with open_endpoint(**run.config.endpoint.model_dump()) as endpoint:
        yield endpoint


def create(run: Run) -> list[Record]:
    """01: have conversations about each entry written and checked, into dataset/conversations.jsonl."""
    from helpers.data.glossary.writer import write_conversations

    settings, path = run.config.dataset, run.path / "dataset" / "conversations.jsonl"
    inputs = [run.config.glossary]
    if run.finished("create", inputs):
        return read_jsonl(path)
    entries = glossary_entries(run)
    with run.stage("create", inputs, [path]), chat_endpoint(run) as endpoint:
        conversations = write_conversations(
            entries,
            endpoint,
            path=path,
            wanted={
                "forward": (settings.forward_by_model, settings.forward_by_bank),
                "reverse": (settings.reverse_by_model, settings.reverse_by_bank),
            },
            attempts=settings.attempts,
            temperature=settings.temperature,
            seed=run.config.seed,
            parallel=run.config.endpoint.parallel_requests,
        )
        write_jsonl(path, conversations)  # the order of the glossary, whatever the order of arrival
    return conversations


def prepare(run: Run) -> dict[str, Any]:
    """01: split conversations into train, validation and test, checked to be disjoint; returns the card."""
    from helpers.data.glossary import card, splits
    from helpers.data.glossary.phrasings import load_bank

    settings, seed, bank = run.config.dataset, run.config.seed, load_bank()
    folder = run.path / "dataset"
    conversations_path, replay_path = folder / "conversations.jsonl", folder / "general_answers.jsonl"
    if not conversations_path.exists():
        return read_card(run)
    outputs = [folder / f"{name}.jsonl" for name in ("train", "validation", "test", "rejected")]
    outputs += [folder / "card.json", folder / "card.md", replay_path]
    if run.finished("prepare", [conversations_path]):
        return read_card(run)
    entries = glossary_entries(run)
    conversations = read_jsonl(conversations_path)
    with run.stage("prepare", [conversations_path], outputs):
        if not replay_path.exists():
            write_jsonl(replay_path, _rehearsed(run))
        general = [(row["question"], row["answer"]) for row in read_jsonl(replay_path)]
        test = splits.test_records(
            entries, bank, new_phrasings=settings.test_new_phrasings, reverse=settings.test_reverse,
            unknown=settings.test_unknown, general=settings.test_general, seed=seed,
        )  # fmt: skip
        avoid = {item.subject for item in test if item.bucket == "unknown"}
        train, validation = splits.training_records(
            conversations, entries, bank, unknown=settings.unknown_train * len(entries), general=general,
            validation_share=settings.validation_share, avoid=avoid, seed=seed,
        )  # fmt: skip
        overlap = splits.assert_disjoint([*train, *validation], test, entries)
        counts = card.make_card(entries, conversations, train, validation, test) | overlap
        for name, examples in (("train", train), ("validation", validation), ("test", test)):
            write_examples(folder / f"{name}.jsonl", examples)
        write_jsonl(folder / "rejected.jsonl", card.rejected_records(conversations))
        write_atomic(folder / "card.md", card.card_text(counts))
        write_json(folder / "card.json", counts)
    return counts


def read_card(run: Run) -> dict[str, Any]:
    """The dataset card of this run, or of example_data/ where the first stages were skipped."""
    folder = run.ensure("dataset", sample="card.json", made_by=PREPARE)
    return read_json(folder / "card.json")


def _rehearsed(run: Run) -> list[Record]:
    """What the base model answers right: rehearsed in its own words, it is not forgotten."""
    from helpers.data.glossary.rehearsal import rehearsal_questions, right_answers
    from helpers.models.find import load_tokenizer
    from helpers.models.generate import generate_answers
    from helpers.models.load import load_base

    config = run.config
    questions = rehearsal_questions(config.dataset.general_train, config.seed)
    answers = generate_answers(
        load_base(config.base_model, threads=config.threads),
        load_tokenizer(config.base_model),
        [[{"role": "user", "content": row["question"]}] for row in questions],
        max_new_tokens=config.dataset.general_tokens,
        batch_size=config.answer.batch_size,
        title="general answers",
    )
    return right_answers(questions, answers)


def fine_tune(
    run: Run, only: str | None = None, watch: Callable[[list[Record]], None] | None = None
) -> dict[str, dict[str, Any]]:
    """02: train the configured adapters into models/<name>/, each audited first.

    Args:
        run: the run folder.
        only: train this adapter alone.
        watch: called with the training log whenever it grows, for a live picture.

    Returns:
        Adapter name to its summary; see `helpers.training.sft.train_adapter`.
    """
    from helpers.training.sft import Recipe, train_adapter

    config, settings = run.config, run.config.training
    dataset = run.ensure("dataset", sample="train.jsonl", made_by=PREPARE)
    inputs = [dataset / "train.jsonl", dataset / "validation.jsonl"]
    if only is not None and only not in settings.adapters:
        raise RunError(f"There is no adapter '{only}' in training.adapters; it has {', '.join(settings.adapters)}.")
    summaries = {}
    for name, quantisation in settings.adapters.items():
        folder = run.path / "models" / name
        if only in (None, name):
            if not run.finished(f"fine_tune {name}", inputs):
                with run.stage(f"fine_tune {name}", inputs, [folder]):
                    recipe = Recipe(
                        config.base_model,
                        quantisation,
                        config.lora,
                        settings,
                        config.seed,
                        config.training_arguments,
                        config.threads,
                    )
                    train, validation = map(read_examples, inputs)
                    train_adapter(folder, recipe, train=train, validation=validation, watch=watch)
            summaries[name] = read_json(folder / "training.json")
    return summaries


def answer(run: Run) -> dict[str, Path]:
    """03: answer the test with base, in_context and every adapter; returns model name to predictions file."""
    from helpers.evaluation.answers import in_context_messages, plain_messages
    from helpers.models.find import load_tokenizer
    from helpers.models.load import attach_adapters, load_base

    config = run.config
    dataset = run.ensure("dataset", sample="test.jsonl", made_by=PREPARE)
    test = read_examples(dataset / "test.jsonl")
    entries = glossary_entries(run)
    folders = {name: run.path / "models" / name for name in config.training.adapters}
    trained = {name: folder for name, folder in folders.items() if (folder / "training.json").exists()}
    for name in folders.keys() - trained.keys():
        print(f"The adapter {name} is not trained in this run: left out. {TRAIN} trains it.")
    models = ["base", "in_context", *trained]
    paths = {name: run.path / "predictions" / f"{name}.jsonl" for name in models}
    inputs = {name: [dataset / "test.jsonl", *([folders[name]] if name in trained else [])] for name in models}
    todo = [name for name in models if not run.finished(f"answer {name}", inputs[name])]
    plain = plain_messages(test)
    # Adapters share one base where it is stored alike; a 4-bit base is loaded once more for QLoRA.
    for quantisation in dict.fromkeys(["none", *(config.training.adapters[name] for name in trained)]):
        group = [n for n in todo if config.training.adapters.get(n, "none") == quantisation]
        if not group:
            continue
        base = load_base(config.base_model, quantisation=quantisation, threads=config.threads)
        tokenizer = load_tokenizer(config.base_model)
        for name in (n for n in group if n not in trained):
            messages = plain if name == "base" else in_context_messages(test, entries, config.answer.in_context_entries)
            _answer_with(run, name, base, tokenizer, test, messages, inputs[name], paths[name])
        adapters = {name: trained[name] for name in group if name in trained}
        if adapters:
            tuned = attach_adapters(base, adapters, config.base_model)
            for name in adapters:
                tuned.set_adapter(name)
                _answer_with(run, name, tuned, tokenizer, test, plain, inputs[name], paths[name])
    return paths


def _answer_with(
    run: Run,
    name: str,
    model: Any,
    tokenizer: Any,
    test: list[Example],
    messages: list[list[Message]],
    inputs: list[Path],
    path: Path,
) -> None:
    from helpers.models.generate import Generated, generate_answers

    done = {row["id"] for row in read_jsonl(path)} if path.exists() else set()
    left = [position for position, item in enumerate(test) if item.id not in done]
    settings = run.config.answer
    with run.stage(f"answer {name}", inputs, [path]):
        with JsonLines(path) as file:

            def keep(positions: list[int], answers: list[Generated]) -> None:
                for position, given in zip(positions, answers, strict=True):
                    row = {"id": test[left[position]].id, "answer": given.text}
                    file.append({**row, "new_tokens": given.new_tokens, "stopped": given.stopped})

            generate_answers(
                model, tokenizer, [messages[position] for position in left],
                max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size,
                title=f"answers of {name}", on_batch=keep,
            )  # fmt: skip
        by_id = {row["id"]: row for row in read_jsonl(path)}
        write_jsonl(path, [by_id[item.id] for item in test])


def score(run: Run) -> dict[str, Any]:
    """03: score every model's answers, let the judge read a sample, and gather results.json."""
    from helpers.evaluation import results
    from helpers.evaluation.scorers import judge_sample, load_metrics

    settings = run.config.score
    folder = run.ensure("dataset", sample="test.jsonl", made_by=PREPARE)
    predictions = run.ensure("predictions", sample="base.jsonl", made_by=ANSWER)
    order = [name for name in _model_order(run) if (predictions / f"{name}.jsonl").exists()]
    inputs = [folder / "test.jsonl", *(predictions / f"{name}.jsonl" for name in order)]
    path = run.path / "scores" / "results.json"
    if run.finished("score", inputs):
        return gather_results(run)
    scores = {name: run.path / "scores" / f"{name}.jsonl" for name in order}
    with run.stage("score", inputs, [path, *scores.values()]):
        metrics, quality = load_metrics(
            settings.static_model, settings.sentence_model, settings.cross_encoder, train=folder / "train.jsonl",
            cross_encoder_folder=run.path / "models" / "cross_encoder", seed=run.config.seed,
        )  # fmt: skip
        answers = {name: predictions / f"{name}.jsonl" for name in order}
        verdicts: dict[str, list[Record]] = {name: [] for name in order}
        if settings.judge_items:
            with chat_endpoint(run) as endpoint:
                verdicts = judge_sample(
                    folder / "test.jsonl", answers, endpoint, count=settings.judge_items, folder=run.path / "judge",
                    parallel=run.config.endpoint.parallel_requests, seed=run.config.seed,
                )  # fmt: skip
        for name in order:
            rows = results.score_answers(folder / "test.jsonl", answers[name], metrics=metrics, verdicts=verdicts[name])
            write_jsonl(scores[name], rows)
        gathered = results.collect_results(
            folder / "test.jsonl", predictions, run.path / "scores", {name: _cost(run, name) for name in order},
            run=_identity(run), dataset=read_card(run), training=_training(run), cross_encoder=quality,
        )  # fmt: skip
        write_json(path, gathered)
    return gather_results(run)


def gather_results(run: Run) -> dict[str, Any]:
    """Put what scoring and the privacy audit found so far into results.json, which tables and plots are drawn from."""
    scored, audited = run.path / "scores" / "results.json", run.path / "private" / "audit.json"
    results = read_json(scored) if scored.exists() else {"run": _identity(run)}
    if audited.exists():
        results["privacy"] = read_json(audited)
    write_json(run.path / "results.json", results)
    return results


def report(run: Run) -> Path:
    """03: write report.html from results.json alone."""
    from helpers.report.page import write_report

    source, target = run.path / "results.json", run.path / "report.html"
    if not source.exists():
        raise RunError(f"{source} is missing. Run {SCORE} on this run folder first.")
    with run.stage("report", [source], [target]):
        write_report(source, target)
    return target


def _model_order(run: Run) -> list[str]:
    return ["base", "in_context", *run.config.training.adapters]


def _cost(run: Run, name: str) -> dict[str, Any]:
    record = run.manifest["stages"].get(f"answer {name}", {})
    return {"seconds": record.get("seconds"), "peak_memory_mb": record.get("peak_memory_mb")}


def _identity(run: Run) -> dict[str, Any]:
    manifest, config = run.manifest, run.config
    return {
        "id": manifest["id"],
        "profile": config.profile,
        "base_model": config.base_model,
        "glossary": config.glossary.name,
        "seed": config.seed,
        "date": manifest["started"][:10],
        "code_revision": manifest["code_revision"],
        "machine": manifest["machine"],
        "versions": manifest["versions"],
        "from_example_data": manifest["from_example_data"],
    }


def _training(run: Run) -> dict[str, Any]:
    trained = {}
    for name in run.config.training.adapters:
        folder = run.path / "models" / name
        if (folder / "training.json").exists():
            trained[name] = {
                "log": read_jsonl(folder / "training_log.jsonl"),
                **read_json(folder / "training.json"),
            }
    return trained
