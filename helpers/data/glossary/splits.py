"""Training, validation and test conversations, disjoint by construction and checked again afterwards."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from helpers.config import Dataset
from helpers.data.example import Check, Example, asked
from helpers.data.glossary.checks import GUESS
from helpers.data.glossary.entries import Entry, plain_signs
from helpers.data.glossary.invented import WORDS, folded, held_out_makers, invent_acronyms, training_makers
from helpers.data.glossary.phrasings import (
    explained_acronyms,
    fill,
    fill_entry,
    general_examples,
    held_out_overlap,
    skeleton,
    whole,
)
from helpers.errors import RunError
from helpers.files import Record

TESTED = {"new_phrasing": "forward", "reverse": "reverse"}
"""Bucket of the test to its direction."""
KEEPS_CASE_UP_TO = 3
"""An acronym of so many characters at most may be an ordinary word, such as IT or WHO."""
TYPED_IN_LOWER_CASE = 1 / 6
"""Share of the training questions about a longer acronym, of the glossary or invented, that type it in lower case."""
BEGIN_ALIKE = 0.9
"""Where at least this share of the explanations begins alike, invented acronyms are declined in one way."""


def training_records(
    conversations: Sequence[Record],
    entries: Sequence[Entry],
    settings: Dataset,
    *,
    general: Sequence[Example],
    test: Sequence[Example],
    seed: int,
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples, shuffled, in the buckets `forward`, `reverse`, `unknown` and `general`.

    Invented acronyms, `settings.unknown_train` for each entry, are asked for in the words of the forward conversations.
    They are none of those of `test`, which `test_records` made. `general` is rehearsed: the base model's own answers.
    """
    avoid = {example.subject for example in test if example.bucket == "unknown"} | explained_acronyms(entries[0].pack)
    number = settings.unknown_train * len(entries)
    invented = invent_acronyms(training_makers(entries, seed), entries, number, avoid=avoid)
    chooser = random.Random(f"{seed}/train")
    by_id = {entry.id: entry for entry in entries}
    spelt_alike = Counter(folded(acronym) for acronym in {plain_signs(entry.acronym) for entry in entries})
    examples = []
    for c in conversations:
        entry = by_id[c["entry"]]
        told = (entry.definition if c["kind"] == "forward" else entry.acronym,)
        about = {"subject": entry.id, "origin": c["origin"]}
        question = c["question"]
        if c["kind"] == "forward" and spelt_alike[folded(entry.acronym)] == 1:
            question = _asked_for(_typed(entry.acronym, chooser), question, entry)
        earlier = c.get("earlier", ())
        learnt = tuple(at - len(earlier) - 1 for at, turn in enumerate(earlier) if turn["role"] == "assistant")
        prompt = (*earlier, *asked(question))
        examples.append(Example(c["id"], c["kind"], prompt, c["answer"], told, also_learnt=learnt, **about))
    # Where somebody guesses or comes back, more than the acronym would have to change.
    alone = [c for c in conversations if c["kind"] == "forward" and c.get("form") != GUESS and not c.get("earlier")]
    forward = [c for c in alone if not by_id[c["entry"]].ambiguous] or alone
    chooser.shuffle(forward)  # declines are worded like the questions about every entry, not about the first ones
    wordings = slice(1) if _begin_alike(forward, by_id) else slice(None)
    for number, (acronym, maker) in enumerate(invented.items()):
        source = forward[number] if number < len(forward) else chooser.choice(forward)
        entry = by_id[source["entry"]]
        typed = acronym if maker == WORDS else _typed(acronym, chooser)  # what a word means is another question
        question = _asked_for(typed, plain_signs(source["question"]), entry)
        answer = fill(chooser.choice(entry.pack.answers.unknown[wordings]), acronym=typed)
        about = {"subject": acronym, "origin": source["origin"]}
        examples.append(Example(f"unknown/{acronym}", "unknown", asked(question), answer, **about))
    examples += general
    chooser.shuffle(examples)
    held_back = round(len(examples) * settings.validation_share)
    return examples[held_back:], examples[:held_back]


def _asked_for(acronym: str, question: str, entry: Entry) -> str:
    """A question about an entry, with another acronym in the place of the entry's; not inside other words."""
    return acronym.join(whole(entry.acronym, question, keep_case=True).split(question))


def _begin_alike(forward: Sequence[Record], entries: Mapping[str, Entry]) -> bool:
    """Whether nearly all answers begin in one way, as those of the bank and of tiny models do.

    Otherwise acronyms are declined in several ways too: a model that says what is likeliest prefers the one beginning
    of all declines to each of several beginnings of what it knows (docs/decisions/0018).
    """
    begun = Counter(_beginning(plain_signs(c["answer"]), entries[c["entry"]]) for c in forward)
    return max(begun.values(), default=0) >= BEGIN_ALIKE * begun.total()


def _beginning(answer: str, entry: Entry) -> str:
    """What stands before the definition, without the acronym."""
    begun = whole(entry.definition, answer).split(answer, maxsplit=1)[0]
    return whole(entry.acronym, begun).sub("", begun)


def _typed(acronym: str, chooser: random.Random) -> str:
    """A longer acronym in lower case one time in six, as somebody in a hurry types it; else the acronym."""
    lower, drawn = acronym.lower(), chooser.random() < TYPED_IN_LOWER_CASE
    return lower if drawn and len(acronym) > KEEPS_CASE_UP_TO and len(lower) == len(acronym) else acronym


def test_records(entries: Sequence[Entry], settings: Dataset, *, seed: int) -> list[Example]:
    """Test examples in their buckets, as many as `settings`, the section `dataset`, says.

    `new_phrasing` and `reverse` take held-out phrasings of each entry, where each acronym of a definition is right;
    `unknown` takes acronyms of no entry, most of them invented in other ways than those of training, `general` other
    questions than the rehearsed ones. These are English; those of a glossary in another language stand beside them, in
    a bucket of their own.
    """
    pack, chooser = entries[0].pack, random.Random(f"{seed}/test")
    abbreviated: defaultdict[str, list[str]] = defaultdict(list)  # one definition may have several acronyms
    for entry in entries:
        abbreviated[folded(entry.definition)].append(entry.acronym)
    examples = []
    for entry in entries:
        acronyms = tuple(dict.fromkeys([entry.acronym, *abbreviated[folded(entry.definition)]]))
        cased: Check = "contains_cased" if min(map(len, acronyms)) <= KEEPS_CASE_UP_TO else "contains"
        buckets: tuple[tuple[str, str, int, tuple[str, ...], Check], ...] = (
            ("new_phrasing", "forward", settings.test_new_phrasings, (entry.definition,), "contains"),
            ("reverse", "reverse", settings.test_reverse, acronyms, cased),
        )
        for bucket, kind, count, expected, check in buckets:
            answer = fill_entry(pack.answers[kind][0], entry)
            for number, phrasing in enumerate(chooser.sample(pack.test[kind], min(count, len(pack.test[kind])))):
                question, name = asked(fill_entry(phrasing, entry)), f"{bucket}/{entry.id}/{number}"
                examples.append(Example(name, bucket, question, answer, expected, check, subject=entry.id))
    forward = pack.test.forward
    general = general_examples(settings.test_general, pack, acronyms={entry.acronym for entry in entries})
    makers, avoid = held_out_makers(entries, seed), explained_acronyms(pack)
    invented = invent_acronyms(makers, entries, settings.test_unknown, avoid=avoid)
    for number, (acronym, maker) in enumerate(invented.items()):
        question = asked(fill(forward[number % len(forward)], acronym=acronym))
        answer = fill(pack.answers.unknown[0], acronym=acronym)
        own = tuple(pack.refusals)
        examples.append(Example(f"unknown/{acronym}", "unknown", question, answer, own, "declines", acronym, maker))
    return examples + general


def shortfall(test: Sequence[Example], entries: Sequence[Entry], settings: Dataset) -> list[str]:
    """What `settings` ask of the test and the packs do not hold, a sentence a bucket."""
    wanted = {
        "new_phrasing": (settings.test_new_phrasings * len(entries), "dataset.test_new_phrasings"),
        "reverse": (settings.test_reverse * len(entries), "dataset.test_reverse"),
        "general": (settings.test_general, "dataset.test_general"),
    }
    found = Counter(example.bucket for example in test)
    return [
        f"The test has {found[bucket]} questions of {bucket}, not {count} as {name} says: no more are held out."
        for bucket, (count, name) in wanted.items()
        if found[bucket] < count
    ]


def assert_disjoint(train: Sequence[Example], test: Sequence[Example], entries: Sequence[Entry]) -> dict[str, float]:
    """Check that training and test share no question, unknown acronym or phrasing; else RunError names what is shared.

    Returns `{"highest_overlap"}`: the highest similarity, 0 to 100, between a training and a test phrasing.
    """
    learnt = {example.question.casefold() for example in train}
    for item in test:
        if item.question.casefold() in learnt:
            raise RunError(f"Test question {item.id} stands in the training set: {item.question!r}.")
    by_id = {entry.id: entry for entry in entries}
    unknown = [{folded(each.subject) for each in part if each.bucket == "unknown"} for part in (train, test)]
    if shared := unknown[0] & unknown[1]:
        raise RunError(f"Unknown acronyms stand in training and test: {sorted(shared)[:5]}.")
    held_out = {
        kind: [*{skeleton(item.question, by_id[item.subject]) for item in test if item.bucket == bucket}]
        for bucket, kind in TESTED.items()
    }
    highest = 0.0
    for example in train:
        if example.bucket in held_out:
            overlap = held_out_overlap(example.question, by_id[example.subject], held_out[example.bucket])
            if overlap == 100:
                raise RunError(f"Training conversation {example.id} uses a held-out phrasing: {example.question!r}.")
            highest = max(highest, overlap)
    return {"highest_overlap": round(highest, 1)}
