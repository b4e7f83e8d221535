"""What several stages need of a run: its source, its chat server, and the notebooks that messages name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.data.example import Example
from helpers.data.glossary import phrasings
from helpers.data.glossary.entries import Entry, load_glossary
from helpers.data.holders.pipeline import Pipeline, load_pipeline
from helpers.data.languages.pack import Pack
from helpers.endpoint.chat import ChatEndpoint, open_endpoint
from helpers.errors import ConfigError, RunError
from helpers.files import placed_records, read_json, read_jsonl, write_json, write_jsonl
from helpers.run import Run

PREPARE = "01-create_dataset/02-prepare_dataset.ipynb"
TRAIN = "02-fine_tune/02-train_adapters.ipynb"
ANSWER = "03-test/01-answer.ipynb"
SCORE = "03-test/02-score.ipynb"
OF_HOLDERS = {
    PREPARE: "01-create_dataset/03-join_private_records.ipynb",
    TRAIN: "02-fine_tune/03-train_privately.ipynb",
    ANSWER: "the command answer",
    SCORE: "the command score",
}


def maker(run: Run, usual: str) -> str:
    """What to run first, for messages: a `usual` notebook, or what is in its place on holders' records."""
    return OF_HOLDERS[usual] if run.config.pipeline else usual


def glossary_entries(run: Run) -> list[Entry]:
    """The entries of the run's glossary that the configuration admits."""
    return load_glossary(run.config.glossary, run.config.dataset.max_entries, run.config.dataset.language)


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline of holders' records that is the run's source, checked. Raises ConfigError where there is none."""
    if run.config.pipeline is None:
        raise ConfigError(
            "Private training and its audit need holders' records. Set data.source to {holders: path of a "
            "pipeline.yaml}; 01-create_dataset/README.md says how."
        )
    return load_pipeline(run.config.pipeline)


@contextmanager
def chat_endpoint(run: Run, writes: Path | None = None) -> Iterator[ChatEndpoint]:
    """The configured chat endpoint, asked once what it can do; the embedded server is started and stopped as needed.

    What is known of each server at the end stands in servers.json. Raises RunError where rows of the file that it
    `writes` are of another server or model.
    """
    path = run.home / "servers.json"
    if writes:
        refuse_other_server(run, writes)
    with open_endpoint(run.config.endpoint) as endpoint:
        endpoint.probe()
        if writes:
            refuse_other_server(run, writes, endpoint.name)  # a server may offer another model first
        run.begin()
        try:
            yield endpoint
        finally:
            known = read_json(path) if path.exists() else {}
            write_json(path, known | {endpoint.name: endpoint.record()})


def refuse_other_server(run: Run, path: Path, name: str = "") -> None:
    """Raise RunError where rows of `path` have another writer than the configured server, or its model `name`."""
    rows = placed_records(path) if path.exists() else ()
    names = {str(row.get("writer") or "") for _, row in rows} - {""}
    if others := [each for each in names if each != name and (name or not run.server().is_called(each))]:
        raise RunError(
            f"{path} was made by {others[0]}, but the chat server configured now (perhaps in .env) is "
            f"{name or run.server().name()}. Choose another RUN folder, configure the earlier server again, or delete "
            f"{path.name}."
        )


def read_card(run: Run) -> dict[str, Any]:
    """The dataset card of this run, or of example_data/ where the first stages were skipped."""
    folder = run.ensure("dataset", sample="card.json", made_by=maker(run, PREPARE))
    return read_json(folder / "card.json")


def rehearsed_examples(run: Run, count: int, path: Path, pack: Pack | None = None) -> list[Example]:
    """Training examples of general knowledge: the base model's right answers to `count` questions, in its own words.

    Beside them up to `count` are asked in the language of `pack`. Rehearsing the answers keeps the model from
    forgetting. They are kept in `path`, and not asked for again.
    """
    from helpers.models.find import load_tokenizer
    from helpers.models.generate import generate_answers
    from helpers.models.load import load_base

    if not path.exists():
        config, questions = run.config, phrasings.rehearsal_questions(count, run.config.seed, pack)
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
