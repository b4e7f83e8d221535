"""One frozen, validated configuration from YAML profiles and overrides; `conf/conf.yaml` documents every key."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from helpers.config_layers import explained, layered
from helpers.errors import ConfigError
from helpers.files import at_home

PROJECT_ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds conf/, example_data/ and runs/; relative paths are anchored here, not at the notebook."""


def _anchored(path: Path) -> Path:
    return PROJECT_ROOT / at_home(path)  # an absolute one stays as it is


def _language(name: str | None) -> str | None:
    return str(_anchored(Path(name))) if name and Path(name).suffix else name


Positive = Annotated[int, Field(ge=1)]
Place = Annotated[Path, AfterValidator(_anchored)]
Quantisation = Literal["none", "nf4", "int8"] | dict[str, Any]
"""How a frozen base is stored: 16 or 32 bits, 4 bits, 8 bits, or as arguments of BitsAndBytesConfig say."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Way = Literal["two_requests", "structured"]


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Prices(Section):
    """Price per million tokens."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


class Endpoint(Section):
    """Which chat server writes conversations and judges answers."""

    provider: Literal["auto", "embedded", "openai", "open_webui"]
    base_url: str | None
    model: str | None
    timeout_s: Annotated[float, Field(gt=0)]
    max_attempts: Positive
    max_wait_s: Annotated[float, Field(ge=0)]
    loading_s: Annotated[float, Field(ge=0)]
    parallel_requests: Positive
    extra: dict[str, Any]
    prices: Prices | None


class Dataset(Section):
    """In which language and how many conversations are written about each entry, and what is held out."""

    language: Annotated[str | None, AfterValidator(_language)] = None
    way: Way | None
    max_entries: Positive | None
    forward_by_model: Annotated[int, Field(ge=0)]
    forward_by_bank: Positive
    reverse_by_model: Annotated[int, Field(ge=0)]
    reverse_by_bank: Positive
    unknown_train: Annotated[int, Field(ge=0)]
    general_train: Annotated[int, Field(ge=0)]
    general_tokens: Positive
    attempts: Positive
    temperature: Annotated[float, Field(ge=0, le=2)]
    validation_share: Share
    test_new_phrasings: Positive
    test_reverse: Positive
    test_unknown: Positive
    test_general: Positive


class Shot(Section):
    """A question with its answer, shown before each prompt."""

    question: str
    answer: str


class DataPrompt(Section):
    """How a row of a table is worded; the tokenizer's own chat template does the rest."""

    system: str | None
    examples: tuple[Shot, ...]
    question: str
    context: str

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name in ("question", "context"):
            if f"{{{name}}}" not in getattr(self, name):
                raise ValueError(f"{name} must hold {{{name}}}, which stands for the cell")
        return self


class DataSplit(Section):
    """Which rows of a table are learnt, watched and tested."""

    test: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(ge=0, lt=1)]
    similar: Annotated[float, Field(gt=0, le=1)]


class Data(Section):
    """A table of examples in place of the glossary."""

    source: str | dict[str, Any] | None
    storage_options: dict[str, Any]
    sheet: str | None
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None
    encoding: str | None
    columns: dict[str, str]
    prompt: DataPrompt
    split: DataSplit
    rewordings: Annotated[int, Field(ge=0)]
    tested_rewordings: Positive
    too_long: Literal["refuse", "cut_contexts", "leave_out"]
    most_empty: Share

    @field_validator("columns", mode="before")
    @classmethod
    def _blank_behind_the_colon(cls, columns: Any) -> Any:
        if isinstance(columns, dict) and any(cell is None and ":" in str(role) for role, cell in columns.items()):
            raise ValueError("put a space after each colon: {question: Frage, answer: Antwort}")
        return columns

    @field_validator("source")
    @classmethod
    def _from_the_course(cls, source: Any) -> Any:
        if isinstance(source, str) and "://" not in source:
            return str(_anchored(Path(source)))
        if isinstance(source, dict) and "holders" in source:
            if len(source) > 1 or not isinstance(source["holders"], str):
                raise ValueError("holders: expected the path of a pipeline.yaml, and no other key")
            return {"holders": str(_anchored(Path(source["holders"])))}
        return source

    @model_validator(mode="after")
    def _roles(self) -> Self:
        roles = ("messages", "question", "answer", "contexts", "system", "group", "split")
        unknown = [role for role in self.columns if role not in roles]
        if unknown:
            raise ValueError(f"columns: {unknown[0]!r} is no role; expected some of {', '.join(roles)}")
        of_tables = [key for key in ("columns", "rewordings", "sheet", "separator", "encoding") if getattr(self, key)]
        if of_tables and isinstance(self.source, dict) and "holders" in self.source:
            raise ValueError(f"{of_tables[0]}: only for tables. With holders' records, set this in the pipeline")
        return self


class Lora(Section):
    """The adapter's shape."""

    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    dropout: Share
    target_modules: str | list[str]


class Training(Section):
    """How adapters are fitted; the same for LoRA and QLoRA."""

    adapters: dict[str, Quantisation]
    epochs: Annotated[float, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Positive
    max_length_tokens: Positive
    evaluations: Positive
    checkpoints: Positive
    packing: bool = False
    hot_test: Annotated[int, Field(ge=0)] = 6
    additional_output_paths: tuple[str | dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _addresses_and_names(self) -> Self:
        for path in self.additional_output_paths:
            if isinstance(path, dict) and not isinstance(path.get("address"), str):
                raise ValueError("additional_output_paths: expected an address, or {address: ..., and its options}")
            address = path if isinstance(path, str) else path["address"]
            if re.match(r"\s*(\$|[a-zA-Z][\w+.-]+:(?!//|:))", address):
                raise ValueError(
                    f"additional_output_paths: {address!r} is no folder and no address; expected one such as "
                    "/home/me/models or s3://bucket/models. Variables such as $HOME are not filled in"
                )
        reserved = [name for name in self.adapters if name in ("base", "in_context") or "private" in name]
        if reserved:
            raise ValueError(f"adapters may not be called {reserved}: the course calls other models so")
        odd = [name for name in self.adapters if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name)]
        if odd:
            raise ValueError(f"adapters may not be called {odd}: PEFT takes letters, digits, _ and - only")
        return self


class Answer(Section):
    """How test questions are answered."""

    batch_size: Positive
    max_new_tokens: Positive | None
    in_context_entries: Positive


class Score(Section):
    """Which scorers read the answers."""

    static_model: str
    sentence_model: str
    cross_encoder: str
    cross_encoder_pairs: Positive
    judge_items: Annotated[int, Field(ge=0)]


class Privacy(Section):
    """Settings of training with differential privacy and of its audit."""

    ledgers: Place
    patients_expected: Positive | None
    patients_share: Annotated[float, Field(gt=0, le=1)]
    target_epsilon: Annotated[float, Field(gt=0)] | None
    noise_multiplier: Annotated[float, Field(gt=0)] | None
    further_epsilons: tuple[Annotated[float, Field(gt=0)], ...]
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    steps: Positive
    patients_a_step: Annotated[float, Field(gt=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    baseline_learning_rate: Annotated[float, Field(gt=0)]
    baseline_max_grad_norm: Annotated[float, Field(gt=0)]
    quantisation: Literal["none", "nf4"]
    physical_rows: Positive
    gradient_checkpointing: bool
    max_length_tokens: Positive
    scores: Positive
    checkpoints: Positive
    canaries_with_bit: Annotated[int, Field(ge=16)]
    canaries_left_out: Annotated[int, Field(ge=100)]

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError(
                "exactly one of target_epsilon and noise_multiplier decides the noise; received target_epsilon = "
                f"{self.target_epsilon} and noise_multiplier = {self.noise_multiplier}: set the other to null"
            )
        if len({f"{epsilon:g}" for epsilon in self.further_epsilons}) < len(self.further_epsilons):
            raise ValueError("further_epsilons holds the same number twice, so that two models would have one name")
        return self


class Config(Section):
    """The whole configuration; see conf/conf.yaml for what each key means."""

    profile: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    glossary: Place
    base_model: str
    threads: Positive | None
    endpoint: Endpoint
    data: Data
    dataset: Dataset
    lora: Lora
    lora_arguments: dict[str, Any]
    training: Training
    training_arguments: dict[str, Any]
    answer: Answer
    score: Score
    privacy: Privacy

    def fingerprint(self) -> str:
        """Eight hex digits of everything that can change a result: the keys, and the bytes of the data's files."""
        payload = self.model_dump(mode="json", exclude=WITHOUT_EFFECT) | {"glossary": None}  # its bytes, not its place
        if source := self.table or self.pipeline:
            payload["data"]["source"] = source.name
        digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode())
        for path in self.files:
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()[:8]

    @property
    def files(self) -> list[Path]:
        """Files on this machine that data come from, and that of a language."""
        language = self.dataset.language
        pack = Path(language) if language and Path(language).suffix else None
        return [path for path in (self.glossary, self.pipeline, self.table, pack) if path]

    @property
    def table(self) -> Path | None:
        """The file that `data.source` names, if it names one on this machine."""
        return Path(self.data.source) if isinstance(self.data.source, str) and "://" not in self.data.source else None

    @property
    def pipeline(self) -> Path | None:
        """The pipeline of holders' records that `data.source` names, if it names one."""
        source = self.data.source
        return Path(source["holders"]) if isinstance(source, dict) and "holders" in source else None


WITHOUT_EFFECT: dict[str, set[str]] = {
    "training": {"additional_output_paths", "hot_test"},
    "endpoint": {"timeout_s", "max_attempts", "max_wait_s", "loading_s", "parallel_requests", "prices"},
    "privacy": {"ledgers", "further_epsilons", "physical_rows", "gradient_checkpointing", "checkpoints"},
}
"""Keys left out of a run's fingerprint: the run goes on when they change."""


def load_config(profile: str | Path = "cpu", overrides: Mapping[str, Any] | None = None) -> Config:
    """Merge conf.yaml, a profile (`smoke`, `cpu`, `gpu` or a path) and overrides (`{"lora.rank": 8}`); later ones win.

    Raises:
        ConfigError: one message with every mistake: unknown keys, wrong types, impossible values, secrets.
    """
    folder = PROJECT_ROOT / "conf"
    path = folder / f"{profile}.yaml"
    if str(profile) == "conf" or not path.is_file():
        path = _anchored(Path(profile))
    if not path.is_file():
        names = sorted(each.stem for each in folder.glob("*.yaml") if each.stem != "conf")
        raise ConfigError(f"conf: there is no profile or file '{profile}'. Use one of {', '.join(names)}, or a path.")
    merged = layered([folder / "conf.yaml", path], overrides or {}) | {"profile": path.stem}
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        remedy = f"Correct {path.name}, or what you gave with --set or overrides; conf/conf.yaml explains every key."
        raise ConfigError(explained(error, f"The configuration '{path.stem}'") + f"\n{remedy}") from None
