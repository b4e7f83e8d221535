"""Canaries nobody could guess, each with a fair inclusion bit of its own."""

from itertools import pairwise, product
from string import ascii_lowercase

import pytest
from scipy.stats import binomtest, chisquare

from helpers.errors import DataError
from helpers.evaluation.attacks.canaries import MEMBER, WORDS_EACH, make_canaries, planted_examples, whole_words
from helpers.models.find import load_tokenizer

WORDS = ["".join(letters) for letters in product(ascii_lowercase[:10], repeat=3)]


def test_codes_are_distinct_and_uniform() -> None:
    canaries = make_canaries(600, 1000, words=WORDS, seed=1)
    assert len({c.unit for c in canaries}) == len({c.answer for c in canaries}) == 1600
    assert all(c.question and c.id == c.unit for c in canaries)
    drawn = [word for c in canaries for word in c.answer.split()]
    assert len(drawn) == 1600 * WORDS_EACH
    assert chisquare([drawn.count(word) for word in WORDS]).pvalue > 0.001


def test_each_inclusion_bit_is_fair_and_its_own() -> None:
    canaries = make_canaries(2000, 100, words=WORDS, seed=2)
    bits = [(c.bucket == MEMBER) for c in canaries[:2000]]
    assert binomtest(sum(bits), len(bits)).pvalue > 0.001
    runs = sum(one != other for one, other in pairwise(bits))
    assert binomtest(runs, len(bits) - 1).pvalue > 0.001
    assert len(canaries) == 2100 and not any((c.bucket == MEMBER) for c in canaries[2000:])


def test_a_seed_gives_the_same_words_and_never_the_same_inclusion_bits() -> None:
    canaries, again, others = (make_canaries(50, 50, words=WORDS, seed=seed) for seed in (3, 3, 4))
    assert [(c.question, c.answer) for c in canaries] == [(c.question, c.answer) for c in again]
    assert [(c.bucket == MEMBER) for c in canaries] != [(c.bucket == MEMBER) for c in again]
    assert not {c.answer for c in canaries} & {c.answer for c in others}


def test_members_alone_are_trained_and_repeated() -> None:
    canaries = make_canaries(40, 20, words=WORDS, seed=5)
    records = planted_examples(canaries, copies=4)
    members = [c.unit for c in canaries if (c.bucket == MEMBER)]
    assert [r.unit for r in records] == [unit for unit in members for _ in range(4)]
    assert len({r.id for r in records}) == len(records)
    assert {(r.question, r.answer) for r in records} == {(c.question, c.answer) for c in canaries if c.bucket == MEMBER}


def test_words_of_the_tokenizer_are_one_token_each() -> None:
    tokenizer = load_tokenizer("smollm2-135m-instruct")
    words = whole_words(tokenizer)
    assert len(words) > 5000
    codes = {c.answer for c in make_canaries(200, 200, words=words, seed=0)}
    assert {len(tokenizer(f" {code}")["input_ids"]) for code in codes} == {WORDS_EACH}


def test_a_tokenizer_without_whole_words_is_refused(small: str) -> None:
    with pytest.raises(DataError, match=r"has \d+ whole words .* need 1,000"):
        whole_words(load_tokenizer(small))
