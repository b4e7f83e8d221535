"""Questions worded anew by a chat model, to learn from and to test whether a fact is known in other words too."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rapidfuzz import fuzz, process, utils

from helpers.data.example import Example, few_shot, tidy
from helpers.data.table.examples import Row
from helpers.endpoint.chat import ChatEndpoint
from helpers.endpoint.tally import Tally
from helpers.files import Record
from helpers.resumable import Results, resumable_map

BUCKET = "reworded"
ATTEMPTS = 3
TOO_ALIKE = 95.0
"""Similarity of letters, 0 to 100, from which a wording is the same question with a slip of the pen."""
TASK = (
    "You word questions anew. Ask the same thing in the same language, as another person would say it. Keep every name "
    "and number. Reply with the question alone."
)
SHOWN = (
    ("When does the swimming pool in Arlen open?", "From what time can I go swimming in Arlen?"),
    ("Wie beantrage ich einen Ausweis?", "Was muss ich tun, um einen Ausweis zu bekommen?"),
    ("Combien coûte un abonnement annuel ?", "Quel est le prix de l'abonnement pour un an ?"),
    ("How many days of leave does an employee have?", "An employee may take how many days off?"),
)
"""Pairs in several languages, so that a small model stays in that of the question."""


def reword(
    rows: Sequence[Row], endpoint: ChatEndpoint, *, path: Path, wanted: int, temperature: float, seed: int
) -> tuple[list[list[str]], dict[str, int]]:
    """Have `endpoint` word each row's question anew, `wanted` times where it manages; what is in `path` is reused.

    `path` keeps results as they come: JSON lines `{"question", "writer", "wordings", "rejected": [reasons]}`.
    `temperature` and `seed` are for sampling. Returns each row's wordings, and reason to number of refused wordings.
    """
    tally = Tally(endpoint.name, "Name a more capable model in endpoint.model, or set data.rewordings to 0.")

    def write(row: Row, _done: Results) -> Iterator[Record]:
        question, wordings, rejected = row.asked.question, list[str](), list[str]()
        chooser = random.Random(f"{seed}/{question}")
        for _ in range(wanted * ATTEMPTS):
            if len(wordings) == wanted:
                break
            tally.stop()
            with tally.attempt(question) as attempt:
                reply = endpoint.complete(
                    few_shot(TASK, chooser.sample(SHOWN, len(SHOWN)), question),
                    max_tokens=40 + len(question),
                    temperature=temperature,
                    seed=chooser.randrange(2**31),
                    stop=["\n"],
                )
                wording = tidy(reply.text)
                attempt.reason = check_wording(wording, question, row.example.answer, wordings)
            if attempt.reason:
                rejected.append(attempt.reason)
            else:
                wordings.append(wording)
        yield {"question": question, "writer": endpoint.name, "wordings": wordings, "rejected": rejected}

    found = resumable_map(
        rows,
        write,
        path=path,
        fields=("question", "wordings", "rejected"),
        keys=lambda row: [row.asked.question],
        key=lambda result: result["question"],
        parallel=endpoint.parallel_requests,
        title="rewordings",
    )
    written = [found[row.asked.question] for row in rows]
    refused = Counter(reason for each in written for reason in each["rejected"])
    return [each["wordings"] for each in written], dict(refused)


def check_wording(wording: str, question: str, answer: str, before: Sequence[str]) -> str | None:
    """Why a wording of a question cannot be used; None where it can."""
    if not any(character.isalpha() for character in wording):
        return "no words"
    known, plain = (question, *before), utils.default_process
    if process.extractOne(wording, known, scorer=fuzz.ratio, processor=plain, score_cutoff=TOO_ALIKE):
        return "worded as before"
    if "?" in question and "?" not in wording:
        return "no question"
    if sorted(re.findall(r"\d+", wording)) != sorted(re.findall(r"\d+", question)):
        return "other numbers"
    if not 0.4 * len(question) <= len(wording) <= 2.5 * len(question) + 20:
        return "much shorter or longer"
    told = plain(answer)
    if told and told in plain(wording) and told not in plain(question):
        return "it tells the answer"
    names = re.findall(r"(?<=\S )[A-ZÀ-Þ][\w'-]+", question)
    if any(name.casefold() not in wording.casefold() for name in names):
        return "a name is missing"
    return None


def reworded_examples(
    rows: Sequence[Row], wordings: Sequence[Sequence[str]], *, tested: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Further training examples, and test examples that ask for learnt facts in words that training never used.

    Of `tested` rows at most, the last wording goes into the test; a wording takes the question's place in the prompt.
    """
    able = [place for place, words in enumerate(wordings) if words]
    asked = {*random.Random(f"{seed}/reworded").sample(able, min(tested, len(able)))}
    learnt, test = list[Example](), list[Example]()
    for place, (row, words) in enumerate(zip(rows, wordings, strict=True)):
        *before, last = row.example.prompt
        for number, wording in enumerate(words, start=1):
            put = wording.join(last["content"].rsplit(row.asked.question, 1))  # contexts may hold the question too
            prompt = (*before, {"role": last["role"], "content": put})
            identity = f"{row.example.id}/{number}"
            # Earlier answers are learnt with the row itself, once.
            new = replace(row.example, id=identity, bucket=BUCKET, prompt=prompt, origin="model", also_learnt=())
            (test if place in asked and number == len(words) else learnt).append(new)
    return learnt, test
