"""01: the pack of another language, made by a capable model and read by a person."""

import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from helpers.config import PROJECT_ROOT
from helpers.config_layers import explained, read_yaml
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import fill_entry
from helpers.data.languages.making import translated_pack
from helpers.data.languages.pack import Pack, load_pack, shipped
from helpers.errors import ConfigError, EndpointError
from helpers.files import write_atomic
from helpers.run import Run
from helpers.stages.common import chat_endpoint

SHOWN = 4
"""Questions of each kind that are printed."""


def make_pack(run: Run, language: str, to: Path, *, overwrite: bool = False) -> Path:
    """01: have the configured chat server make the pack of a language, print some of it and return its file.

    `to`: a file, or the folder of one. What is finished stays in the run folder, and is not asked for again.

    Raises ConfigError where the file exists, the language has a pack or the embedded model is configured; EndpointError
    where the server fails or does not write well enough. Then no file is written.
    """
    if not re.fullmatch(r"\w[\w -]{0,40}", language):
        raise ConfigError(
            f"make-pack expects a code or a name of a language, such as el or Greek, received '{language}'."
        )
    if there := [code for code in shipped() if language.lower() in (code, load_pack(code).language.lower())]:
        raise ConfigError(f"There is a pack of this language. Set dataset.language: {there[0]}.")
    name = language.lower().replace(" ", "_")
    target = (to if to.suffix in (".yaml", ".yml") else to / f"{name}.yaml").resolve()
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists. Give another file by --to, or replace this one by --overwrite.")
    if file := next((folder for folder in target.parents if folder.is_file()), None):
        raise ConfigError(f"{target} cannot be made: {file} is a file. Give a folder or another file by --to.")
    if run.server().base_url is None:
        raise ConfigError(
            "make-pack needs a larger language model than the embedded one, which writes English alone. Put the "
            "address of a server into .env (00-set_up/env.example)."
        )
    path = run.path / "languages" / f"{name}.jsonl"
    with chat_endpoint(run, path) as endpoint:
        print(f"The pack is written by {endpoint.name}.", flush=True)
        content, lacking = translated_pack(language, endpoint, run.config.dataset, path=path, seed=run.config.seed)
    text = _head(content["language"], endpoint.name, lacking) + yaml.safe_dump(
        content, allow_unicode=True, sort_keys=False, width=120
    )
    try:
        pack = Pack.model_validate(read_yaml(text) | {"name": target.stem})
    except ValidationError as error:
        raise EndpointError(explained(error, f"The pack that {endpoint.name} wrote")) from None
    write_atomic(target, text)
    print("\n".join(_sample(pack, lacking)))
    shown = target.relative_to(PROJECT_ROOT) if target.is_relative_to(PROJECT_ROOT) else target
    print(
        f"\nThe pack is in {target}. Have somebody who speaks {pack.language} read it and put it right. Then set\n"
        f"  dataset.language: {shown}"
    )
    return target


def _head(language: str, writer: str, lacking: Sequence[str]) -> str:
    lines = [
        f"{language}: made from the English pack of the course by {writer} on {date.today()}.",
        f"NOT YET READ. A person who speaks {language} has to read all of it before use, put right what is wrong,",
        "and delete these lines. 01-create_dataset/README.md says what the keys are for.",
        "Left out: general questions and invented acronyms (those in English are used), and the reading of answers",
        "(denials and second answers are noticed in English and French alone).",
        *(f"Left out, because nothing usable came: {each}." for each in lacking),
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _sample(pack: Pack, lacking: Sequence[str]) -> Iterator[str]:
    """Some of the pack, filled with what the model invented."""
    _, acronym, definition, _ = pack.examples.forward[0]
    entry = Entry("", acronym, definition, pack=pack)
    parts: dict[str, Any] = {
        "Questions": pack.train.forward[:SHOWN],
        "Questions of the test": pack.test.forward[:SHOWN],
        "Questions for an acronym": pack.train.reverse[:SHOWN],
        "Answers": [pack.answers.forward[0], pack.answers.reverse[0]],
        "Refusals": pack.answers.unknown[:SHOWN],
    }
    yield f"\n{pack.language}:"
    for title, texts in parts.items():
        yield f"{title}:"
        yield from (f"  {fill_entry(text, entry)}" for text in texts)
    yield from (f"Left out: {each}." for each in lacking)
