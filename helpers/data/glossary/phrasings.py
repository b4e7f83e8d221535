"""Fill phrasings, compare them, and word general questions for rehearsal and test.

General knowledge is rehearsed during training, so that it is not forgotten. Rehearsing a model's own answers keeps it
where it was (Li & Hoiem, Learning without Forgetting, 2016); a small model's wrong ones would be trained in as well, so
that they are left out (docs/decisions/0004).
"""

import random
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import chain, zip_longest

from rapidfuzz import fuzz, utils

from helpers.data.example import GENERAL, Example, asked
from helpers.data.glossary.entries import Entry, plain_signs
from helpers.data.languages.pack import DEFAULT, Pack, load_pack
from helpers.data.matching import is_correct
from helpers.data.reading.folding import UNSPACED
from helpers.files import Record

LEAK_RATIO = 80.0
"""From this rapidfuzz ratio on (0 to 100, slots removed), two phrasings count as the same one reworded slightly."""


def fill(phrasing: str, *, acronym: str = "", definition: str = "", where: str = "") -> str:
    """Fill the slots in one pass, so that braces inside a definition stay as they are."""
    values = {"acronym": acronym, "definition": definition, "where": where}
    return re.sub(r"\{(acronym|definition|where)\}", lambda slot: values[slot[1]], phrasing)


def fill_entry(phrasing: str, entry: Entry) -> str:
    """Fill the slots with an entry's own values."""
    return fill(phrasing, acronym=entry.acronym, definition=entry.definition, where=entry.where)


def whole(words: str, text: str, *, keep_case: bool = False) -> re.Pattern[str]:
    """What finds words whole in this text of `plain_signs`: the acronym IS not in "this", nor RDC in RDC-V.

    Spaces may be of any length; case counts only with `keep_case`. Where a script has no spaces between words, a word
    may begin and end anywhere.
    """
    return _whole(words, keep_case, UNSPACED.search(text) is not None)


@lru_cache(maxsize=4096)
def _whole(words: str, keep_case: bool, unspaced: bool) -> re.Pattern[str]:
    words = plain_signs(" ".join(words.split()))
    letter = rf"[^\W{UNSPACED.pattern[1:-1]}]" if unspaced else r"\w"  # the first is slow to compile
    before = "" if UNSPACED.match(words) else f"(?<!{letter})(?<!{letter}-)"
    after = "" if UNSPACED.match(words[-1]) else f"(?!-?{letter})"
    text = re.escape(words).replace(r"\ ", r"\s+")
    return re.compile(f"{before}{text}{after}", 0 if keep_case else re.IGNORECASE)


def skeleton(question: str, entry: Entry) -> str:
    """The question with the entry's own words taken out: what is left is its phrasing."""
    question = plain_signs(question)
    for words in (entry.definition, entry.acronym, entry.where.strip()):
        if words:
            question = whole(words, question).sub(" ", question)
    return _plain(question)


def held_out_overlap(question: str, entry: Entry, held_out: list[str]) -> float:
    """Highest similarity (0 to 100) between a question's phrasing and the held-out phrasings."""
    phrasing = skeleton(question, entry)
    return max((fuzz.ratio(phrasing, _plain(fill(text))) for text in held_out), default=0.0)


def general_packs(pack: Pack | None) -> dict[str, Pack]:
    """Buckets of general knowledge: English, and beside it a glossary's own language."""
    return {GENERAL: load_pack()} | ({f"{GENERAL}_{pack.name}": pack} if pack and pack.name != DEFAULT else {})


def rehearsal_questions(count: int, seed: int, pack: Pack | None = None) -> list[Record]:
    """The first `count` general training questions of each bucket, and every second of them again behind an opening.

    Openings stand before questions about the glossary too: shown in both places, they say nothing about the answer.
    Rows are `{"question", "expected", "bucket"}`, the last one left out of the bucket `general`.
    """
    rows: list[Record] = []
    for bucket, of in general_packs(pack).items():
        chooser, named = random.Random(f"{seed}/openings"), {} if bucket == GENERAL else {"bucket": bucket}
        plain = [fact.model_dump() | named for fact in of.general.train[:count]]
        opened = [row | {"question": f"{chooser.choice(of.openings)} {row['question']}"} for row in plain[1::2]]
        rows += [*plain, *opened]
    return rows


def right_answers(questions: Sequence[Record], answers: Sequence[tuple[str, int, bool]]) -> list[Record]:
    """Keep answers of the base model that are right, ended by themselves and ask nothing: with `answer` for `expected`.

    `questions` are rows of `rehearsal_questions`, `answers` one for each, of `helpers.models.generate`: text, number
    of tokens, and whether the model stopped by itself.

    An answer is kept whole or not at all. Cut after the sentence with the fact, it would teach the model to stop there,
    and what it used to say in its second sentence would be lost (docs/decisions/0004).
    """
    return [
        {"question": row["question"], "answer": text, **{key: row[key] for key in ("bucket",) if key in row}}
        for row, (text, _, stopped) in zip(questions, answers, strict=True)
        if stopped and "?" not in text and is_correct("contains", text, row["expected"], row["question"])
    ]


def rehearsed_examples(rows: Sequence[Record]) -> list[Example]:
    """Training examples of `right_answers`."""
    return [
        Example(
            f"general/{number:03d}", row.get("bucket", GENERAL), asked(row["question"]), row["answer"], origin="model"
        )
        for number, row in enumerate(rows)
    ]


def general_examples(count: int, pack: Pack | None = None, *, acronyms: Collection[str] = ()) -> list[Example]:
    """Test examples of common knowledge: `count` of each bucket, its kinds in turn.

    Questions about one of a glossary's `acronyms` are left out.
    """
    examples = []
    for bucket, of in general_packs(pack).items():
        kinds = zip_longest(*([(kind, fact) for fact in facts] for kind, facts in of.general.test.items()))
        told = filter(None, chain(*kinds))
        apart = [(kind, fact) for kind, fact in told if asks_of_others(fact.question, acronyms)]
        for number, (kind, fact) in enumerate(apart[:count]):
            prompt, right = asked(fact.question), tuple(fact.expected)
            name, answer = f"{bucket}/{number:03d}", f"{right[0]}."
            examples.append(Example(name, bucket, prompt, answer, right, "contains", origin=kind))
    return examples


def asks_of_others(question: str, acronyms: Collection[str]) -> bool:
    """Whether a general question is about no acronym of a glossary, which may explain it in a way of its own."""
    return {*re.findall(r"\w+", question)}.isdisjoint(acronyms)


def explained_acronyms(pack: Pack | None) -> set[str]:
    """Words in capitals of general questions, trained or tested, such as NASA: they are not unknown."""
    of = [general.general for general in general_packs(pack).values()]
    facts = chain(*(general.train for general in of), *(facts for general in of for facts in general.test.values()))
    return {word for fact in facts for word in re.findall(r"\w+", fact.question) if word.isupper()}


def _plain(text: str) -> str:
    return " ".join(utils.default_process(text).split())
