"""The one record that every source makes, and that training, answering and scoring read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from helpers.errors import DataError
from helpers.files import Record, read_jsonl, write_jsonl

Message = dict[str, str]
Check = Literal["contains", "contains_cased", "declines", "none"]
GENERAL = "general"
"""The bucket of common knowledge, which fine-tuning should leave alone; in French it is `general_fr`."""
SHORT = 5
"""An answer is right if it contains a reference of at most so many words; longer ones are compared by similarity."""
FEW = 30
"""Test items below which a card and a report say how little they can show."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """A conversation whose last answer is learnt, perhaps with earlier ones, or, in a test set, asked for.

    Attributes:
        id: unique in its file.
        bucket: the kind of question; results are given for each.
        prompt: the messages `{"role", "content"}` before the answer, the last one the user's; none where the example
            is a plain text, which is learnt whole and outside of the chat template.
        answer: the right answer, or the text.
        expected: short wordings of which a right answer holds one; to `declines`, further ways to say so.
        check: how an answer is found right: it `contains` an expected wording and means it (`contains_cased`: capitals
            count), it `declines` to answer, or `none`, where only likeness to `answer` can be measured.
        subject: what it is about, such as a glossary entry; empty where that is not known.
        origin: who worded it; of a test question, which kind it is.
        unit: whose it is, for differential privacy; empty where nobody's.
        also_learnt: places in the prompt of earlier answers that are learnt too, counted from its end: -2 is the answer
            before the last question.
    """

    id: str
    bucket: str
    prompt: tuple[Message, ...]
    answer: str
    expected: tuple[str, ...] = ()
    check: Check = "none"
    subject: str = ""
    origin: str = ""
    unit: str = ""
    also_learnt: tuple[int, ...] = ()

    @property
    def question(self) -> str:
        """The last message of the prompt; empty for a plain text."""
        return self.prompt[-1]["content"] if self.prompt else ""

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return [*self.prompt, {"role": "assistant", "content": self.answer}]

    def row(self) -> dict[str, Any]:
        """As a line of a dataset file, in the shape that TRL calls conversational prompt-completion."""
        told: dict[str, Any] = {"expected": list(self.expected), "check": "" if self.check == "none" else self.check}
        told |= {"subject": self.subject, "origin": self.origin, "unit": self.unit}
        told |= {"also_learnt": list(self.also_learnt)}
        return {
            "id": self.id,
            "bucket": self.bucket,
            "prompt": list(self.prompt),
            "completion": [{"role": "assistant", "content": self.answer}],
            **{key: value for key, value in told.items() if value},
        }


def is_general(bucket: str) -> bool:
    """Whether a bucket holds common knowledge, in whatever language."""
    return bucket == GENERAL or bucket.startswith(f"{GENERAL}_")


def checked(answers: Sequence[str]) -> dict[str, Any]:
    """`expected` and `check` of an example with these right answers: the short ones are looked for."""
    short = tuple(answer for answer in answers if len(answer.split()) <= SHORT)
    return {"expected": short, "check": "contains" if short else "none"}


def asked(question: str) -> tuple[Message, ...]:
    """The prompt of a question that stands alone."""
    return ({"role": "user", "content": question},)


def dialogue(pairs: Iterable[tuple[str, str]]) -> list[Message]:
    """Questions and their answers as messages."""
    return [turn for question, answer in pairs for turn in (*asked(question), {"role": "assistant", "content": answer})]


def few_shot(task: str, shown: Iterable[tuple[str, str]], question: str) -> list[Message]:
    """A prompt for a model that writes: the task, pairs of a question and its good answer, and a question."""
    return [{"role": "system", "content": task}, *dialogue(shown), *asked(question)]


def tidy(reply: str) -> str:
    """A model's reply on one line, without quotation marks around it."""
    return " ".join(reply.split()).strip("\"'` ")


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write a dataset file."""
    write_jsonl(path, [example.row() for example in examples])


def read_examples(path: Path) -> list[Example]:
    """Read a dataset file. Raises DataError, which names the line, where it is no example or its id comes twice."""
    examples: dict[str, Example] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        example = _example(row, f"{path}, line {number}")
        if example.id in examples:
            raise DataError(f"{path}, line {number}: the id {example.id!r} comes twice. Write the file anew.")
        examples[example.id] = example
    return list(examples.values())


def _example(row: Record, where: str) -> Example:
    try:
        [last] = row["completion"]
        told = {"answer": last["content"], "prompt": tuple(row["prompt"])}
        told |= {name: tuple(row.get(name, ())) for name in ("expected", "also_learnt")}
        found = Example(**{key: value for key, value in row.items() if key != "completion"} | told)
        learnt = [found.prompt[place] for place in found.also_learnt]
        if found.question is not None and all(turn["role"] == "assistant" for turn in [last, *learnt]):
            return found
    except (TypeError, ValueError, KeyError, IndexError):
        pass
    raise DataError(
        f'{where}: expected an example {{"id", "bucket", "prompt": [messages], "completion": [the answer]}}, received '
        f"the keys {sorted(row)}. Write the file anew."
    )
