"""Read the pack of a language, checked, and find the language of a glossary.

A pack is one YAML file of this folder, or of the reader's own: all words that the writing side uses.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from helpers.config import Section
from helpers.config_layers import explained, read_layer
from helpers.data.reading.packs import Reading, regular
from helpers.errors import ConfigError

HERE = Path(__file__).parent
DEFAULT = "en"
"""The pack of a glossary in no language that is known, and of general questions beside every source."""
FEWEST = 0.05
"""Share of a glossary's words that have to be function words of a language, for the glossary to be in it."""
NEIGHBOURS = (
    "der die das des und für von in im zur zum mit auf bei den dem ein eine",  # German
    "el la los las de del y en para por con una un se al sobre que",  # Spanish
    "il lo la i gli le di del della dei delle e per con nel una un da l d",  # Italian
    "o a os as de do da dos das e em no na para por com um uma",  # Portuguese
    "de het een van en voor in op met bij der aan ter te door",  # Dutch
    "el la els les de del dels i en per amb una un al l d",  # Catalan
    "și de a la pentru în cu din al ale pe o un",  # Romanian
    "og i for af til på med en et den det der som",  # Danish and Norwegian
    "och i för av till på med en ett den det som",  # Swedish
    "i w z na do dla o oraz ze od przez",  # Polish
)
"""Function words of languages without a pack here, which share some with those that have one."""


def _slots(*names: str) -> AfterValidator:
    def check(text: str) -> str:
        if sorted(re.findall(r"\{(\w*)\}", text)) != sorted(names):
            raise ValueError(f"expected {' and '.join(f'{{{name}}}' for name in names)} once, received {text!r:.80}")
        return text

    return AfterValidator(check)


def _for_any_acronym(forms: dict[str, str]) -> dict[str, str]:
    if not forms.keys() - {"fields"}:
        raise ValueError("expected a form besides 'fields', which is only for acronyms with several meanings")
    return forms


Item = TypeVar("Item")
Some = Annotated[list[Item], Field(min_length=1)]
Filled = Annotated[str, Field(min_length=1)]
Words = Some[Annotated[Filled, AfterValidator(regular)]]
"""Regular expressions; a text matches if one of them occurs as whole words, in any case."""


class Part(Section):
    """A part of a pack; `part["forward"]` is `part.forward`."""

    def __getitem__(self, kind: str) -> Any:
        return getattr(self, kind)


class Questions(Part):
    """Wordings of questions: what an acronym means (`forward`), and which acronym a definition has (`reverse`)."""

    forward: Some[Annotated[str, _slots("acronym", "where")]]
    reverse: Some[Annotated[str, _slots("definition", "where")]]


class EachDirection(Part, Generic[Item]):
    """One item for questions of each kind."""

    forward: Item
    reverse: Item


class Answers(Part):
    """Wordings of answers, the first of which is the reference; `unknown` declines (see the comment in `en.yaml`)."""

    forward: Some[Annotated[str, _slots("acronym", "definition")]]
    reverse: Some[Annotated[str, _slots("acronym", "definition")]]
    unknown: Some[Annotated[str, _slots("acronym")]]


Shot = tuple[str, str, str, str]
"""What a writing model is shown: a scene, an invented acronym, its definition and the question about it."""


class Writer(EachDirection[Filled]):
    """System prompts of a writing model: to word a question of each kind, and to answer."""

    answer: Filled


class Structured(Part):
    """How a capable model is asked for several conversations at once: the task, and the request about an entry."""

    task: Filled
    request: Annotated[str, _slots("entry", "conversations")]
    persons: Some[Filled]
    registers: Some[Filled]
    forms: EachDirection[Annotated[dict[str, Filled], AfterValidator(_for_any_acronym)]]
    """Forms of a conversation, each with what happens in it; `fields` is for acronyms with several meanings."""


class Asserting(Part):
    """Words by which a question says what an acronym is, in place of asking."""

    verbs: Words
    places: Words
    """After a verb: what only says where, or that, the acronym was met."""
    pronouns: Words
    """At the beginning of a clause, with their verb."""
    articles: Words
    """At the beginning of an apposition."""
    asking: Words
    """In a clause that asks."""


class InContext(Part):
    """Words around the glossary lines that the base model is shown."""

    glossary: Filled
    unknown: Filled
    question: Annotated[str, _slots("question")]


class Fact(Part):
    """A question of common knowledge, and wordings of which a right answer holds one."""

    question: Filled
    expected: Some[Filled]


class General(Part):
    """Common knowledge: `train` is rehearsed, `test` is asked in the test, in lists by the name of their kind."""

    test: dict[Filled, Some[Fact]]
    train: list[Fact]


class Invented(Part):
    """Words that no glossary explains, to be declined: `train` for training, `test` other lists, by name."""

    train: list[Filled] = Field(default_factory=list)
    test: dict[Filled, Some[Filled]] = Field(default_factory=dict)


class Pack(Part):
    """All words of a language; slots are {acronym}, {definition} and {where}, the latter empty or `where` filled."""

    name: str
    language: Filled
    where: Annotated[str, _slots("field")]
    function_words: Some[Filled]
    train: Questions
    test: Questions
    answers: Answers
    openings: Some[Filled]
    scenes: Some[Filled]
    writer: Writer
    structured: Structured
    examples: EachDirection[Some[Shot]]
    in_context: InContext
    asks: EachDirection[Words] | None = None
    """What a question of each kind holds."""
    asserting: Asserting | None = None
    """Where this or `asks` is missing, questions are not checked by it."""
    refusals: list[Filled] = Field(default_factory=list)
    """Plain words that say that one does not know: how refusals are read in a language without `reading`."""
    general: General = General(test={}, train=[])
    invented: Invented | None = None
    """Where it is missing, the English one is used."""
    reading: Reading | None = None
    """How answers are read; used of the packs in this folder."""


def shipped() -> list[str]:
    """Names of the packs of the course."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


@cache
def load_pack(language: str = DEFAULT) -> Pack:
    """The pack with this name, such as `fr`, or in this YAML file. Raises ConfigError, which names the wrong keys."""
    path = Path(language) if Path(language).suffix else HERE / f"{language}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"dataset.language: there is no language or file '{language}'. Use one of {', '.join(shipped())}, or the "
            "path of a pack of your own; `python -m helpers.course make-pack LANGUAGE` makes one."
        )
    try:
        return Pack.model_validate(read_layer(path) | {"name": path.stem})
    except ValidationError as error:
        raise ConfigError(explained(error, f"The language pack {path.name}")) from None


@cache
def load_reading() -> Reading:
    """How answers are read: the key `reading` of all shipped packs that have it, joined."""
    packs = [pack.reading for pack in map(load_pack, shipped()) if pack.reading]
    joined: dict[str, Any] = {  # each once: a word that stands here twice is matched in two ways, and n of them in 2^n
        key: [*dict.fromkeys(chain(*(getattr(pack, key) for pack in packs)))] for key in Reading.model_fields
    }
    joined["numbers"] = {word: number for pack in packs for word, number in pack.numbers.items()}
    return Reading.model_construct(**joined)


def recognise(texts: Iterable[str]) -> str | None:
    """The name of the pack whose language most function words of the texts belong to; None where it has no pack."""
    found = Counter(word for text in texts for word in re.findall(r"[^\W\d_]+", text.casefold()))
    packs = {name: load_pack(name).function_words for name in shipped()}
    named = {**packs, **{words: words.split() for words in NEIGHBOURS}}
    hits = {name: sum(found[word] for word in {*map(str.casefold, words)}) for name, words in named.items()}
    best = max(hits, key=lambda name: hits[name])  # of equal ones the first: a pack
    return best if best in packs and hits[best] > FEWEST * found.total() else None
