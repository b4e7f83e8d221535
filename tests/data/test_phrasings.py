"""The packs' phrasings: complete, fillable, and with test phrasings that training never shows."""

import re
from itertools import product

import pytest
from rapidfuzz import fuzz

from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import LEAK_RATIO, fill, skeleton
from helpers.data.languages.making import answer_fault, asserting, not_asking, resembled, shot_fault
from helpers.data.languages.pack import Pack, load_pack, shipped
from helpers.data.matching import contains, is_correct


@pytest.fixture(params=shipped())
def pack(request: pytest.FixtureRequest) -> Pack:
    return load_pack(request.param)


@pytest.fixture(params=["forward", "reverse"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_are_as_many_phrasings_as_in_english(pack: Pack, kind: str) -> None:
    for part in ("train", "test", "answers"):
        found, english = (len(getattr(of, part)[kind]) for of in (pack, load_pack()))
        assert found >= english
    assert len(pack.openings) >= 30 and len(pack.scenes) >= 24
    assert sum(map(len, pack.general.test.values())) >= 60 and len(pack.general.train) >= 60


def test_no_training_phrasing_resembles_a_held_out_one(pack: Pack, kind: str) -> None:
    close = {one: other for one in pack.train[kind] if (other := resembled(one, pack.test[kind]))}
    assert not close


@pytest.mark.parametrize("part", ["train", "test"])
def test_questions_are_distinct(pack: Pack, kind: str, part: str) -> None:
    phrasings = getattr(pack, part)[kind]
    assert len({text.casefold() for text in phrasings}) == len(phrasings)


def test_answers_pass_their_own_checks(pack: Pack, kind: str) -> None:
    for of in (kind, "unknown"):
        assert not [fault for answer in pack.answers[of] if (fault := answer_fault(of, answer, pack))]


def test_what_a_model_is_shown_passes_the_checks(pack: Pack, kind: str) -> None:
    assert not [fault for shot in pack.examples[kind] if (fault := shot_fault(kind, shot, pack))]


def test_plain_questions_are_recognised_as_of_their_kind(pack: Pack, kind: str) -> None:
    assert pack.asks and not not_asking(pack.asks[kind], pack.train[kind])


def test_hardly_any_phrasing_counts_as_asserting(pack: Pack) -> None:
    assert pack.asserting and not asserting(pack)


def test_general_questions_are_apart(pack: Pack) -> None:
    train = [fact.question for fact in pack.general.train]
    test = [fact.question for facts in pack.general.test.values() for fact in facts]
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    assert not {(one, other) for one, other in product(train, test) if fuzz.ratio(one, other) >= LEAK_RATIO}


def test_no_expected_word_stands_in_its_question(pack: Pack) -> None:
    # Of what is tested some do: is 7 odd or even?
    assert not [fact for fact in pack.general.train if any(contains(fact.question, right) for right in fact.expected)]


def test_declines_are_read_as_such_and_the_second_goes_on_as_explanations_do(pack: Pack) -> None:
    answers = pack.answers
    assert all(is_correct("declines", fill(text, acronym="BOSCO"), []) for text in answers.unknown)
    begin = answers.forward[0].partition("{definition}")[0]
    assert all(text.startswith(begin) for text in answers.unknown[1:2])


def test_french_needs_no_elision_and_no_gender() -> None:
    pack = load_pack("fr")
    texts = [*pack.train.forward, *pack.train.reverse, *pack.test.forward, *pack.test.reverse]
    texts += [*pack.answers.forward, *pack.answers.reverse, *pack.answers.unknown]
    bends = r"\b(?:de|que|le|la|je|ne|se|me|te|ce|cet|cette|jusque|lorsque|du|au|aux|un|une|ma|mon|sa|son) \{"
    assert not [text for text in texts if re.search(bends, text, re.IGNORECASE)]
    assert re.search(bends, "L'abréviation de {definition}")


def test_fill_leaves_braces_of_a_definition_alone() -> None:
    filled = fill(
        "{acronym}{where}: {definition}", acronym="A", definition='say "{acronym}" {x} \\1', where=" in {definition}"
    )
    assert filled == 'A in {definition}: say "{acronym}" {x} \\1'


def test_skeleton_takes_out_whole_words_alone() -> None:
    entry = Entry("IS (law)", "IS", "Internal {State}", field="law", ambiguous=True)
    assert skeleton("Is this what IS in law means? (internal {state})", entry) == "this what means"
