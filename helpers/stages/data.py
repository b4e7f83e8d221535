"""01: conversations or the rows of a table become a dataset."""

import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.config import Way
from helpers.data import card
from helpers.data.example import SPLITS, Example, read_examples, write_examples
from helpers.data.glossary import phrasings, splits
from helpers.data.glossary.entries import Entry, load_glossary
from helpers.data.glossary.preview import a_few, forecast, in_words, summary
from helpers.data.glossary.structured import ENOUGH, share_accepted
from helpers.data.glossary.writer import write_conversations
from helpers.data.languages.pack import DEFAULT, recognise
from helpers.data.table import source
from helpers.data.table.examples import Row, make_examples, roles_of
from helpers.data.table.rewording import reword, reworded_examples
from helpers.data.table.splits import split_rows
from helpers.endpoint.chat import ChatEndpoint
from helpers.errors import ConfigError, RunError
from helpers.files import (
    Record,
    clear_full_disk,
    placed_records,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from helpers.run import Run
from helpers.stages.common import chat_endpoint, glossary_entries, read_card, refuse_other_server, rehearsed_examples

PREPARES = ("data", "models")
"""Packages with the code that decides what is made of conversations or rows."""


def create(run: Run) -> Path:
    """01: have conversations about each entry written and checked; return the path of dataset/conversations.jsonl."""
    config, path = run.config, run.path / "dataset" / "conversations.jsonl"
    _refuse_table(run)
    refuse_other_server(run, path)
    if not run.finished("create", [config.glossary]):
        entries = glossary_entries(run)
        print(_language(run, entries))
        with chat_endpoint(run, path) as endpoint, run.stage("create", [config.glossary], [path]):
            written, planned = _write(run, entries, endpoint, path)
            write_jsonl(path, written)  # in the order of the glossary, not of arrival
            print(summary((record for _, record in placed_records(path)), planned))
    return path


def _refuse_table(run: Run) -> None:
    if run.config.data.source is not None:
        raise ConfigError(
            "Conversations are written about a glossary, but data.source names another source, whose examples are used "
            "as they are. Run the command prepare, or set data.source to null."
        )


def _language(run: Run, entries: list[Entry]) -> str:
    """Which language questions are asked in, and why."""
    language = entries[0].pack.language
    if run.config.dataset.language:
        return f"Questions are asked in {language}, as dataset.language says."
    whole = load_glossary(run.config.glossary)  # as where the language was chosen
    if recognise(f"{entry.definition} {entry.verbose_def}" for entry in whole):
        return f"Questions are asked in {language}, the language of the glossary; dataset.language sets another."
    return (
        f"There is no pack for the language of the glossary: questions are asked in {language}. `python -m "
        "helpers.course make-pack LANGUAGE` makes one; then set dataset.language."
    )


def _write(run: Run, entries: list[Entry], endpoint: ChatEndpoint, path: Path) -> tuple[Iterator[Record], int]:
    """Have conversations about `entries` written in the way that suits the writer.

    Returns them, and how many of them were planned for the model.
    """
    settings, pack, seed = run.config.dataset, entries[0].pack, run.config.seed
    if endpoint.embedded and pack.name != DEFAULT:
        print(f"The embedded model writes English alone: all questions are the phrasing bank's, in {pack.language}.")
        bank = {f"{kind}_by_bank": getattr(settings, f"{kind}_by_model") for kind in ("forward", "reverse")}
        bank = {name: count + getattr(settings, name) for name, count in bank.items()}
        settings = settings.model_copy(update={**bank, "forward_by_model": 0, "reverse_by_model": 0})
    else:
        print(f"Conversations are written by {endpoint.name}.", flush=True)
    way = _way(run, entries, endpoint, path)
    endpoint.usage.clear()  # of probe and trial
    written = write_conversations(entries, endpoint, settings, path=path, seed=seed, way=way)
    return written, len(entries) * (settings.forward_by_model + settings.reverse_by_model)


def _way(run: Run, entries: list[Entry], endpoint: ChatEndpoint, path: Path) -> Way:
    """How conversations are written: as configured, else as those in `path` were, else as a trial shows."""
    settings, before = run.config.dataset, placed_records(path) if path.exists() else ()
    by_model = next((row for _, row in before if row["origin"] == "model"), None)
    if settings.way or by_model:
        return settings.way or ("structured" if "form" in (by_model or {}) else "two_requests")
    if endpoint.embedded or not (settings.forward_by_model or settings.reverse_by_model):
        return "two_requests"
    share = share_accepted(a_few(entries, 3), endpoint, settings, run.config.seed)
    way: Way = "structured" if share >= ENOUGH else "two_requests"
    how = "several in one request" if way == "structured" else "one after the other, in two small requests each"
    print(f"{share:.0%} of a trial's conversations passed the checks: they are written {how} (dataset.way).")
    return way


def preview(run: Run, count: int = 3) -> None:
    """01: have conversations about `count` entries written, and show them and what the whole glossary would take.

    They are kept: `create` goes on from there.
    """
    config, path = run.config, run.path / "dataset" / "conversations.jsonl"
    _refuse_table(run)
    entries = glossary_entries(run)
    print(_language(run, entries))
    before = path.exists()
    with chat_endpoint(run, path) as endpoint:
        shown, started = a_few(entries, count), time.monotonic()
        written, planned = _write(run, shown, endpoint, path)
        conversations, took_s = [*written], time.monotonic() - started
    print(f"{in_words(conversations, planned)}\n")
    if before or not endpoint.usage["requests"]:
        print("Some or all were written before, so that their cost is not measured again.")
    else:
        print(forecast(len(shown), len(entries), took_s, endpoint.usage, config.endpoint.prices))


def prepare(run: Run) -> dict[str, Any]:
    """01: split conversations, or the rows of a table, into train, validation and test; returns the card.

    Holders' records are joined first; see `helpers.stages.join.join`.
    """
    if run.config.pipeline:
        from helpers.stages.join import join

        return join(run)
    data, folder, rows = run.config.data, run.path / "dataset", None
    made_from = run.config.table or folder / "conversations.jsonl"
    if data.source is None and not made_from.exists():
        return read_card(run)
    if data.source is not None and run.config.table is None:  # what lies elsewhere may have changed
        rows, made_from = source.read_table(data), folder / "rows.sha256"
        write_atomic(made_from, source.digest(rows))
    if not run.finished("prepare", [made_from], PREPARES):
        if data.source is not None:
            rows = rows or source.read_table(data)
            roles_of(rows, data)  # refused before a folder is made
        rehearsed = folder / "general_answers.jsonl"
        parts = ("train.jsonl", "validation.jsonl", "test.jsonl", "rejected.jsonl")
        outputs = [*(folder / name for name in (*parts, "card.json", "card.md", "lengths.png")), rehearsed]
        with run.stage("prepare", [made_from], outputs, code=PREPARES) as may_continue:
            if not may_continue:
                rehearsed.unlink(missing_ok=True)
            if data.source is None:
                _prepare_conversations(run, read_jsonl(made_from), rehearsed)
            else:
                _prepare_table(run, rows or [], rehearsed)
    return read_card(run)


def export(run: Run) -> Path:
    """01: write the dataset in the shapes that other tools read, with a card for the hub, and return its folder.

    Raises ConfigError for holders' records, RunError where there is no dataset yet.
    """
    from helpers.data.export import copy_picture, samples
    from helpers.data.export import export as write

    if run.config.pipeline:
        raise ConfigError("Holders' records cannot be exported. Export the dataset of a glossary or a table.")
    made, folder = run.path / "dataset", run.path / "dataset" / "export"
    if not (made / "card.json").exists():
        raise RunError(f"{run.path} has no dataset yet. Run the command prepare first.")
    counts = read_json(made / "card.json")
    shutil.rmtree(folder, ignore_errors=True)
    splits = {name: read_examples(made / f"{name}.jsonl") for name in SPLITS}
    rows = {name: of for name, of in splits.items() if of}
    languages = [glossary_entries(run)[0].pack.name] if "entries" in counts else []
    with clear_full_disk(folder):
        about = [
            card.glossary_text(counts) if "entries" in counts else card.table_text(counts),
            f"Made to tune {run.config.base_model}.",
            copy_picture(made / "lengths.png", folder),
            "## One row of each bucket",
            samples(splits["train"]),
            "## Licence",
            "None is set here. The answers hold what their source says, and its owner decides. The terms of a model "
            "that worded questions or answers may add conditions.",
        ]
        write(rows, folder, about="\n\n".join(filter(None, about)), languages=languages)
    print(f"The dataset is in {folder.relative_to(run.path)}/ of the run folder; README.md is its card.")
    return folder


def _prepare_conversations(run: Run, conversations: list[Record], rehearsed: Path) -> None:
    settings, seed, entries = run.config.dataset, run.config.seed, glossary_entries(run)
    known = {entry.acronym for entry in entries}
    general = rehearsed_examples(run, settings.general_train, rehearsed, entries[0].pack)
    general = [example for example in general if phrasings.asks_of_others(example.question, known)]
    test = splits.test_records(entries, settings, seed=seed)
    for sentence in splits.shortfall(test, entries, settings):
        print(sentence)
    train, validation = splits.training_records(conversations, entries, settings, general=general, test=test, seed=seed)
    overlap = splits.assert_disjoint([*train, *validation], test, entries)
    parts = {"train": train, "validation": validation, "test": test}
    counts = card.glossary_card(entries, conversations, parts) | overlap
    write_jsonl(run.path / "dataset" / "rejected.jsonl", card.rejected_records(conversations))
    rows = pd.DataFrame(card.coverage(conversations, parts))
    write_atomic(run.path / "dataset" / "coverage.csv", rows.to_csv(index=False))
    _write_dataset(run, parts, counts, card.glossary_text(counts))


def _prepare_table(run: Run, rows: list[Record], rehearsed: Path) -> None:
    """Split the rows of a table, beside general questions to rehearse and to test."""
    from helpers.models.find import chat_tokens, load_tokenizer

    config, tokenizer = run.config, load_tokenizer(run.config.base_model)
    tokens, longest = partial(chat_tokens, tokenizer), config.training.max_length_tokens
    roles = roles_of(rows, config.data)
    control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    kept, left_out = make_examples(rows, config.data, roles, tokens, longest=longest, control=control)
    found = split_rows(kept, config.data.split, seed=config.seed)
    parts = {name: [row.example for row in of] for name, of in found.rows.items()}
    learnt, tested, rejected = _reworded(run, found.rows["train"])
    parts["train"] += [example for example in learnt if tokens(example.messages) <= longest]
    parts["test"] = tested + parts["test"]
    general = min(config.dataset.general_train, len(parts["train"]))
    parts["train"] += rehearsed_examples(run, general, rehearsed)
    random.Random(f"{config.seed}/train").shuffle(parts["train"])
    parts["test"] += phrasings.general_examples(config.dataset.test_general)
    counts = card.table_card(source.named(config.data.source), rows, roles, left_out, parts, found, rejected)
    _write_dataset(run, parts, counts, card.table_text(counts))


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
    config, settings, path = run.config, run.config.data, run.path / "dataset" / "rewordings.jsonl"
    if not settings.rewordings:
        return [], [], {}
    if run.server().base_url is None:
        raise ConfigError(
            "data.rewordings needs a larger language model than the embedded one, whose wordings often ask something "
            "else. Put the address of a server into .env (00-set_up/env.example), or set data.rewordings to 0."
        )
    with chat_endpoint(run, path) as endpoint:
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
