"""Read and check the pipeline of private records; `example_data/providers/pipeline.yaml` documents every key.

Outside its holder's own section, a column is written `holder.column`; in `joins.on` it stands alone.
"""

import re
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from helpers.config import Positive, Section, Share
from helpers.config_layers import NAME, explained, read_layer
from helpers.data.holders.pseudonyms import Kind
from helpers.errors import ConfigError

Name = Annotated[str, Field(pattern=NAME)]
Region = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
PATIENT = "patient"
"""The name that `joins.on` uses for the pseudonymous key."""
SLOT = re.compile(r"\{\{|\}\}|\{([\w.]+)\}")
"""What is filled into a wording, `{holder.column}`, or a doubled brace, of which one stays."""
BUILDERS = {"csv": "csv", "json": "jsonl", "parquet": "parquet", "text": "text"}
"""Those of `datasets` whose files are read, and as what; by their own name they take files beside the pipeline."""


FORMS_WITH = {"separator": ("csv", None), "encoding": ("csv", "jsonl", None), "sheet": ("xlsx",)}
"""Options of some formats; None is a set that load_dataset finds."""


class Key(Section):
    """The column that tells whose row it is; of its text, only what stands `before` a sign, if one is given."""

    column: str
    before: Annotated[str, Field(min_length=1)] | None = None
    kind: Kind = "text"
    region: Region | None = None


class JsonColumn(Section):
    """A column of JSON text; `fields` maps a name used here to the dotted path of its value."""

    column: str
    fields: dict[Name, str]


class Grant(Section):
    """What all trainings on a holder's patients may cost together: signed, or for fictitious records plain amounts."""

    file: str | None = None
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    serial: Positive = 1

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = {name for name in ("file", "public_key", "epsilon", "delta") if getattr(self, name) is not None}
        if given not in ({"file", "public_key"}, {"epsilon", "delta"}):
            raise ValueError(f"give file and public_key, or epsilon and delta; received {sorted(given)}")
        return self


class Holder(Section):
    """One data holder and what is read from it; every other column stays where it is."""

    name: Name
    fictitious: bool
    grant: Grant | None = None
    file: str | None = None
    format: Literal["csv", "jsonl", "parquet", "xlsx"] | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str | None = None
    sheet: str | None = None
    load_dataset: dict[str, Any] | None = None
    unit: Literal["patient", "row"] = "patient"
    key: Key | None = None
    columns: dict[Name, str] = Field(default_factory=dict)
    json_column: JsonColumn | None = None
    coded: tuple[Name, ...] = ()
    roster: tuple[str, ...] = ()

    @property
    def local_set(self) -> str | None:
        """The file that `load_dataset` reads where it is a local one."""
        loaded = self.load_dataset or {}
        return str(loaded["data_files"]) if loaded.get("path") in BUILDERS and "data_files" in loaded else None

    @property
    def granting(self) -> dict[str, Any]:
        """What a grant of this holder has to say of whose records they are and how its patients are told apart."""
        return {
            "holder": self.name,
            "unit": "record" if self.unit == "row" else "patient",
            "patient_key": self.key.model_dump(mode="json", exclude_none=True) if self.key else {},
            "fictitious": self.fictitious,
        }

    @property
    def names(self) -> list[str]:
        """The columns kept, under their names here."""
        return [*self.columns, *(self.json_column.fields if self.json_column else {})]


class Join(Section):
    """Rows of `right` are added to those of `left` where all of `on` agree."""

    left: Name
    right: Name
    on: list[str]
    how: Literal["inner", "left"] = "inner"


class Template(Section):
    """The wording of a record: a question, which is read, with its answer, which is learnt; or a text, learnt whole."""

    question: str = ""
    answer: str = ""
    text: str = ""

    @property
    def wordings(self) -> tuple[str, ...]:
        """Its texts; those that it lacks are empty."""
        return self.question, self.answer, self.text

    @property
    def slots(self) -> set[str]:
        """The columns, as `holder.column`, that it needs."""
        return slots_of(self.wordings)


class Deidentify(Section):
    """How identifying words are found in every column that is not coded; `languages`: of the planted texts."""

    phone_regions: tuple[Region, ...] = ("FR",)
    keep: tuple[str, ...] = ()
    ner: str | None = None
    planted: str | None = None
    languages: tuple[Literal["English", "French"], ...] = ()
    min_recall: Share = 0.99
    min_precision: Share = 0.95


class Split(Section):
    """Shares of the patients, and the columns whose values the test set must not share with training."""

    validation: Share = 0.1
    test: Share = 0.15
    by: str | None = None
    values: tuple[str, ...] = ()


class Lookalike(Section):
    """Public words and wordings that synthetic rows are made of."""

    vocabulary: dict[Name, list[str]] = Field(default_factory=dict)
    columns: dict[str, list[str]] = Field(default_factory=dict)


class Pipeline(Section):
    """From the holders' files to one set of records; see the example's pipeline.yaml for what each key means."""

    path: Path
    holders: Annotated[list[Holder], Field(min_length=1)]
    joins: tuple[Join, ...] = ()
    templates: Annotated[list[Template], Field(min_length=1)]
    cap: Positive = 4
    deidentify: Deidentify = Deidentify()
    split: Split = Split()
    lookalike: Lookalike = Lookalike()

    @property
    def fictitious(self) -> bool:
        """Whether every holder declares its records invented."""
        return all(holder.fictitious for holder in self.holders)

    @property
    def unit(self) -> str:
        """Whose privacy counts: a patient's, or a single record's where rows belong to nobody."""
        return "record" if self.holders[0].unit == "row" else "patient"

    @property
    def files(self) -> list[Path]:
        """The configuration and every local file it reads."""
        names = [holder.file for holder in self.holders] + [self.deidentify.planted]
        patterns = [str(self.path.parent / holder.local_set) for holder in self.holders if holder.local_set]
        sets = map(glob, patterns)  # not Path.glob, which refuses absolute ones
        return [self.path, *(self.path.parent / name for name in names if name), *map(Path, sorted(chain(*sets)))]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if mistakes := [*_holder_mistakes(self), *_join_mistakes(self), *_column_mistakes(self)]:
            raise ValueError("\n".join(mistakes))
        return self


def load_pipeline(path: str | Path) -> Pipeline:
    """Read and check a pipeline; its relative file names start at its own folder.

    Raises ConfigError with every mistake of types and keys or, if there is none, of parts that do not fit together.
    """
    path = Path(path).resolve()
    content = read_layer(path)
    if "path" in content:
        raise ConfigError(f"{path.name}: 'path' is no key of a pipeline. Delete it.")
    try:
        return Pipeline.model_validate(content | {"path": path})
    except ValidationError as error:
        raise ConfigError(explained(error, f"The pipeline {path.name}")) from None


def _holder_mistakes(pipeline: Pipeline) -> Iterator[str]:
    names = [holder.name for holder in pipeline.holders]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"holders: '{name}' is declared twice"
    for holder in pipeline.holders:
        where = f"holders.{holder.name}"
        if (holder.file is None) == (holder.load_dataset is None):
            yield f"{where}: give exactly one of file and load_dataset"
        if (holder.file is None) != (holder.format is None):
            yield f"{where}: file and format (csv, jsonl, parquet, xlsx) go together"
        for option, forms in FORMS_WITH.items():
            if getattr(holder, option) and holder.format not in forms:
                yield f"{where}: {option} goes with {' and '.join(filter(None, forms))}; format is {holder.format}"
        if holder.unit == "patient" and holder.key is None:
            yield f"{where}: give its key column; only where rows belong to nobody, say 'unit: row'"
        if holder.unit == "row" and (holder.key is not None or len(names) > 1):
            yield f"{where}: 'unit: row' has no key and stands alone"
        if holder.key and (holder.key.kind == "phone") != (holder.key.region is not None):
            yield f"{where}.key: region (for example FR) goes with kind phone, and with no other"
        if not holder.names:
            yield f"{where}: keep at least one column"
        if len(holder.names) != len(set(holder.names)) or PATIENT in holder.names:
            yield f"{where}: column names must differ from each other and from '{PATIENT}'"
        for column in sorted(set(holder.coded) - set(holder.names)):
            yield f"{where}.coded: '{column}' is not among its columns"
        people = {*holder.roster, *([holder.key.column] if holder.key else [])}
        for column in sorted(column for column in holder.coded if holder.columns.get(column) in people):
            yield f"{where}.coded: '{column}' holds keys or names of persons, and coded columns are not masked"


def _join_mistakes(pipeline: Pipeline) -> Iterator[str]:
    holders = {holder.name: holder for holder in pipeline.holders}
    reached = {pipeline.holders[0].name}
    for number, join in enumerate(pipeline.joins):
        where = f"joins.{number}"
        if join.left not in reached:
            yield f"{where}.left: '{join.left}' is neither the first holder nor joined above"
        if join.right not in holders or join.right in reached:
            yield f"{where}.right: '{join.right}' is no holder, or joined already"
        reached.add(join.right)
        if PATIENT not in join.on:
            yield f"{where}.on: must hold '{PATIENT}'"
        for name in {join.left, join.right} & set(holders):
            for column in sorted(set(join.on) - {PATIENT} - set(holders[name].coded)):
                yield f"{where}.on: '{column}' must be a coded column of {name}"
    for name in sorted(set(holders) - reached):
        yield f"joins: nothing joins '{name}'"


def _column_mistakes(pipeline: Pipeline) -> Iterator[str]:
    known = {f"{holder.name}.{column}" for holder in pipeline.holders for column in holder.names}
    for number, template in enumerate(pipeline.templates):
        for slot in sorted(template.slots - known):
            yield f"templates.{number}: '{slot}' is no column of a holder"
        yield from _brace_mistakes(f"templates.{number}", template.wordings, "holder.column")
        if not template.slots:
            yield f"templates.{number}: it has no column; write {{holder.column}}"
        if not bool(template.question) == bool(template.answer) != bool(template.text):
            yield f"templates.{number}: give question and answer, or a text alone"
    split, lookalike = pipeline.split, pipeline.lookalike
    named = {"split.by": [split.by], "split.values": split.values, "lookalike.columns": lookalike.columns}
    for key, columns in named.items():
        for column in columns:
            if column is not None and column not in known:
                yield f"{key}: '{column}' is no column of a holder"
    if split.validation + split.test >= 1:
        yield f"split: validation {split.validation} and test {split.test} leave nothing to train on"
    for column, wordings in lookalike.columns.items():
        for slot in sorted(slots_of(wordings) - set(lookalike.vocabulary)):
            yield f"lookalike.columns.{column}: '{slot}' is not in lookalike.vocabulary"
        yield from _brace_mistakes(f"lookalike.columns.{column}", wordings, "word")


def slots_of(wordings: Iterable[str]) -> set[str]:
    """The names in the slots of wordings."""
    return {found[1] for wording in wordings for found in SLOT.finditer(wording) if found[1]}


def _brace_mistakes(where: str, wordings: Iterable[str], slot: str) -> Iterator[str]:
    """Braces outside of slots, which would be learnt as they stand. `slot`: what stands in one, for the message."""
    for wording in wordings:
        if doubled := re.search(r"(?<!\{)\{\{\s*[\w.]+\s*\}\}(?!\})", wording):
            yield f"{where}: '{doubled[0]}' would stay as it is; write a slot in single braces"
        if brace := re.search(r"[{}]", SLOT.sub(lambda slot: " " * len(slot[0]), wording)):
            shown = wording[brace.start() : brace.start() + 30]
            yield f"{where}: '{shown}' is no slot; write {{{slot}}}, and double a brace that is to stay: {{{{ or }}}}"
