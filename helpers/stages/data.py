"""01: conversations or the rows of a table become a dataset."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.data.example import Example, write_examples
from helpers.errors import ConfigError, RunError
from helpers.files import Record, read_json, read_jsonl, write_atomic, write_json, write_jsonl
from helpers.run import Run
from helpers.stages.notebooks import PREPARE, maker

if TYPE_CHECKING:
    from helpers.data.glossary.entries import Entry
    from helpers.data.holders.pipeline import Pipeline
    from helpers.data.table.examples import Row
    from helpers.endpoint.chat import ChatEndpoint


PREPARES = ("data/card", "data/example", "data/glossary", "data/table", "models/generate", "models/tokens")
"""Code that decides what is made of conversations or rows."""
CARD = ("card.json", "card.md", "lengths.png")


def glossary_entries(run: Run) -> list[Entry]:
    """The entries of the run's glossary that the configuration admits; says so where some are left out."""
    from helpers.data.glossary.entries import load_glossary

    everything = load_glossary(run.config.glossary)
    limit = run.config.dataset.max_entries
    if limit is None or len(everything) <= limit:
        return everything
    print(f"Using the first {limit} of {len(everything)} entries: dataset.max_entries; null would take all of them.")
    return load_glossary(run.config.glossary, limit)


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline of holders' records that is the run's source, checked. Raises ConfigError where there is none."""
    if run.config.pipeline is None:
        raise ConfigError(
            "Private training and its audit need holders' records. Set data.source to {holders: path of a "
            "pipeline.yaml}; 01-create_dataset/README.md says how."
        )
    from helpers.data.holders.pipeline import load_pipeline

    return load_pipeline(run.config.pipeline)


@contextmanager
def chat_endpoint(run: Run) -> Iterator[ChatEndpoint]:
    """The configured chat endpoint, checked; the embedded server is started and stopped as needed."""
    from helpers.endpoint.chat import open_endpoint

    with open_endpoint(run.config.endpoint) as endpoint:
        yield endpoint


def refuse_other_server(run: Run, path: Path, by: str, name: str = "") -> None:
    """Raise RunError where rows of `path` were made by another server than the one that is configured now.

    Args:
        run: its configuration and the environment say which that is.
        path: JSON lines, which may be missing.
        by: the column that names the server, such as `writer`.
        name: of the server's model, where that is known already.
    """
    names = {str(row.get(by) or "") for row in read_jsonl(path)} - {""} if path.exists() else set()
    server = run.server() if names else None
    if server and (others := [each for each in names if each != name and (name or not server.is_called(each))]):
        raise RunError(
            f"{path} was made by {others[0]}, but the chat server configured now (perhaps in .env) is "
            f"{name or server.name()}. Choose another RUN folder, configure the earlier server again, or delete "
            f"{path.name}."
        )


def create(run: Run) -> list[Record]:
    """01: have conversations about each entry written and checked, into dataset/conversations.jsonl."""
    from helpers.data.glossary.writer import write_conversations

    config, path = run.config, run.path / "dataset" / "conversations.jsonl"
    refuse_other_server(run, path, "writer")
    inputs = [config.glossary]
    if run.finished("create", inputs):
        return read_jsonl(path)
    entries = glossary_entries(run)
    with run.stage("create", inputs, [path]), chat_endpoint(run) as endpoint:
        refuse_other_server(run, path, "writer", endpoint.name)  # a server may offer another model first
        conversations = write_conversations(entries, endpoint, config.dataset, path=path, seed=config.seed)
        write_jsonl(path, conversations)  # the order of the glossary, whatever the order of arrival
    return conversations


def prepare(run: Run) -> dict[str, Any]:
    """01: split conversations, or the rows of a table, into train, validation and test; returns the card.

    Holders' records are joined first; see `helpers.stages.join.join`.
    """
    if run.config.pipeline:
        from helpers.stages.join import join

        return join(run)
    from helpers.data import card
    from helpers.data.glossary import splits

    if run.config.data.source is not None:
        return _prepare_table(run)

    settings, seed = run.config.dataset, run.config.seed
    folder = run.path / "dataset"
    conversations_path, replay_path = folder / "conversations.jsonl", folder / "general_answers.jsonl"
    if not conversations_path.exists():
        return read_card(run)
    outputs = [folder / f"{name}.jsonl" for name in ("train", "validation", "test", "rejected")]
    outputs += [*(folder / name for name in CARD), replay_path]
    if run.finished("prepare", [conversations_path], PREPARES):
        return read_card(run)
    entries = glossary_entries(run)
    conversations = read_jsonl(conversations_path)
    with run.stage("prepare", [conversations_path], outputs, code=PREPARES) as own:
        if not own:
            replay_path.unlink(missing_ok=True)
        general = rehearsed_examples(run, settings.general_train, replay_path)
        test = splits.test_records(entries, settings, seed=seed)
        train, validation = splits.training_records(
            conversations, entries, settings, general=general, test=test, seed=seed
        )
        overlap = splits.assert_disjoint([*train, *validation], test, entries)
        parts = {"train": train, "validation": validation, "test": test}
        counts = card.glossary_card(entries, conversations, parts) | overlap
        write_jsonl(folder / "rejected.jsonl", card.rejected_records(conversations))
        _write_dataset(run, parts, counts, card.glossary_text(counts))
    return counts


def read_card(run: Run) -> dict[str, Any]:
    """The dataset card of this run, or of example_data/ where the first stages were skipped."""
    folder = run.ensure("dataset", sample="card.json", made_by=maker(run, PREPARE))
    return read_json(folder / "card.json")


def _prepare_table(run: Run) -> dict[str, Any]:
    """Split the rows of a table, beside general questions to rehearse and to test."""
    from helpers.data import card
    from helpers.data.glossary.phrasings import general_examples
    from helpers.data.table import source
    from helpers.data.table.examples import make_examples
    from helpers.data.table.splits import split_rows
    from helpers.models.find import chat_tokens, load_tokenizer

    config, folder = run.config, run.path / "dataset"
    replay_path, inputs, rows = folder / "general_answers.jsonl", [config.table or folder / "rows.sha256"], None
    if config.table is None:  # what lies elsewhere may have changed
        rows = source.read_table(config.data)
        write_atomic(inputs[0], source.digest(rows))
    outputs = [folder / name for name in ("train.jsonl", "validation.jsonl", "test.jsonl", *CARD)]
    if run.finished("prepare", inputs, PREPARES):
        return read_card(run)
    with run.stage("prepare", inputs, [*outputs, replay_path], code=PREPARES) as own:
        if not own:
            replay_path.unlink(missing_ok=True)
        tokenizer = load_tokenizer(config.base_model)
        tokens, longest = partial(chat_tokens, tokenizer), config.training.max_length_tokens
        rows = rows or source.read_table(config.data)
        control = tokenizer.all_special_tokens
        kept, left_out = make_examples(rows, config.data, tokens, longest=longest, control=control)
        found = split_rows(kept, config.data.split, seed=config.seed)
        parts = {name: [row.example for row in of] for name, of in found.rows.items()}
        learnt, tested, rejected = _reworded(run, found.rows["train"])
        parts["train"] += [example for example in learnt if tokens(example.messages) <= longest]
        parts["test"] = tested + parts["test"]
        general = min(config.dataset.general_train, len(parts["train"]))
        parts["train"] += rehearsed_examples(run, general, replay_path)
        random.Random(f"{config.seed}/train").shuffle(parts["train"])
        parts["test"] += general_examples(config.dataset.test_general)
        told = card.table_card(source.named(config.data.source), len(rows), left_out, parts, found, rejected)
        _write_dataset(run, parts, told, card.table_text(told))
    return told


def _write_dataset(run: Run, parts: dict[str, list[Example]], card: dict[str, Any], text: str) -> None:
    """Write each part as messages and as tokens, the card, and a picture of the lengths."""
    from datasets import DatasetDict, disable_progress_bars

    from helpers.models.find import load_tokenizer
    from helpers.models.tokens import tokenise
    from helpers.report.figures import draw_lengths, to_png

    disable_progress_bars()  # of writing, which takes a moment
    folder, tokenizer = run.path / "dataset", load_tokenizer(run.config.base_model)
    for name, examples in parts.items():
        write_examples(folder / f"{name}.jsonl", examples)
    tokens = DatasetDict({name: tokenise(examples, tokenizer) for name, examples in parts.items() if examples})
    shutil.rmtree(folder / "tokenised", ignore_errors=True)
    tokens.save_to_disk(folder / "tokenised")
    lengths = sorted(len(ids) for of in tokens.values() for ids in of["input_ids"])
    write_atomic(folder / "lengths.png", to_png(draw_lengths(lengths, run.config.training.max_length_tokens)))
    told = (
        "`tokenised/` holds the same conversations as tokens, for `datasets.load_from_disk`. Half of them have at most "
        f"{lengths[len(lengths) // 2]} tokens, the longest {lengths[-1]}; `lengths.png` shows all."
    )
    write_atomic(folder / "card.md", f"{text}\n{told}\n")
    write_json(folder / "card.json", card)  # last: its presence says that the dataset is whole


def _reworded(run: Run, rows: list[Row]) -> tuple[list[Example], list[Example], dict[str, int]]:
    """Other wordings of training questions, for training and for the test, where they are wanted."""
    from helpers.data.table.rewording import reword, reworded_examples

    config, settings, path = run.config, run.config.data, run.path / "dataset" / "rewordings.jsonl"
    if not settings.rewordings:
        return [], [], {}
    if run.server().base_url is None:
        raise ConfigError(
            "data.rewordings needs a larger language model than the embedded one, whose wordings often ask something "
            "else. Put the address of a server into .env (00-set_up/env.example), or set data.rewordings to 0."
        )
    refuse_other_server(run, path, "writer")
    with chat_endpoint(run) as endpoint:
        refuse_other_server(run, path, "writer", endpoint.name)
        wordings, rejected = reword(
            rows,
            endpoint,
            path=path,
            wanted=settings.rewordings,
            temperature=config.dataset.temperature,
            seed=config.seed,
        )
    learnt, test = reworded_examples(rows, wordings, tested=settings.tested_rewordings, seed=config.seed)
    return learnt, test, rejected


def rehearsed_examples(run: Run, count: int, path: Path) -> list[Example]:
    """What the base model answers right of `count` general questions: rehearsed in its own words, it is not forgotten.

    The answers are kept in `path`, and not asked for again.
    """
    from helpers.data.glossary import phrasings
    from helpers.models.find import load_tokenizer
    from helpers.models.generate import generate_answers
    from helpers.models.load import load_base

    if not path.exists():
        config, questions = run.config, phrasings.rehearsal_questions(count, run.config.seed)
        answers = generate_answers(
            load_base(config.base_model, threads=config.threads),
            load_tokenizer(config.base_model),
            [[{"role": "user", "content": row["question"]}] for row in questions],
            max_new_tokens=config.dataset.general_tokens,
            batch_size=config.answer.batch_size,
            title="general answers",
        )
        write_jsonl(path, phrasings.right_answers(questions, answers))
    return phrasings.rehearsed_examples(read_jsonl(path))
