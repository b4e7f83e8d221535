"""Canaries nobody could guess, each with a fair inclusion bit, and the check that they were trained on."""

import math
from itertools import pairwise, product
from string import ascii_lowercase

import pytest
from scipy.stats import binomtest, chisquare

from helpers.errors import DataError, PrivacyError
from helpers.evaluation.canaries import WORDS_EACH, check_received, make_canaries, training_records, whole_words
from helpers.models import load_tokenizer

WORDS = ["".join(letters) for letters in product(ascii_lowercase[:10], repeat=3)]
CHANCE = 1 - 0.7**10  # ten steps at a rate of 0.3 leave 3 in a hundred patients out


def test_codes_are_distinct_uniform_and_of_the_stated_entropy() -> None:
    canaries = make_canaries(600, 1000, words=WORDS, seed=1)
    assert len({c["unit"] for c in canaries}) == len({c["answer"] for c in canaries}) == 1600
    assert all(c["question"] and c["text"].startswith(f"{c['question']} {c['answer']}") for c in canaries)
    drawn = [word for c in canaries for word in c["answer"].split()]
    assert len(drawn) == 1600 * WORDS_EACH
    assert canaries[0]["entropy_bits"] == pytest.approx(WORDS_EACH * math.log2(1000))
    assert chisquare([drawn.count(word) for word in WORDS]).pvalue > 0.001


def test_each_coin_is_fair_and_its_own() -> None:
    canaries = make_canaries(2000, 100, words=WORDS, seed=2)
    coins = [c["member"] for c in canaries if c["tossed"]]
    assert len(coins) == 2000
    assert binomtest(sum(coins), len(coins)).pvalue > 0.001
    runs = sum(one != other for one, other in pairwise(coins))
    assert binomtest(runs, len(coins) - 1).pvalue > 0.001
    assert not any(c["member"] for c in canaries if not c["tossed"])


def test_a_seed_gives_the_same_words_and_never_the_same_inclusion_bits() -> None:
    canaries, again, others = (make_canaries(50, 50, words=WORDS, seed=seed) for seed in (3, 3, 4))
    assert [c["text"] for c in canaries] == [c["text"] for c in again]
    assert [c["member"] for c in canaries] != [c["member"] for c in again]
    assert not {c["answer"] for c in canaries} & {c["answer"] for c in others}


def test_members_alone_are_trained_and_repeated() -> None:
    canaries = make_canaries(40, 20, words=WORDS, seed=5)
    records = training_records(canaries, copies=4)
    members = [c["unit"] for c in canaries if c["member"]]
    assert [r["unit"] for r in records] == [unit for unit in members for _ in range(4)]
    assert len({r["id"] for r in records}) == len(records)
    assert all(r.keys() == {"id", "unit", "text", "question", "answer"} for r in records)
    assert all(r["text"].startswith(r["question"]) for r in records)


def test_words_of_the_tokenizer_are_one_token_each(tiny: str) -> None:
    tokenizer = load_tokenizer(tiny)
    words = whole_words(tokenizer)
    assert len(words) > 5000
    codes = {c["answer"] for c in make_canaries(200, 200, words=words, seed=0)}
    assert {len(tokenizer(f" {code}")["input_ids"]) for code in codes} == {WORDS_EACH}


def test_received_by_nearly_all_members() -> None:
    canaries = make_canaries(200, 50, words=WORDS, seed=6)
    members = [c["unit"] for c in canaries if c["member"]]
    counts = dict.fromkeys(members[5:], 3) | {"a real patient": 2}
    assert check_received(canaries, counts, CHANCE) == {
        "members": len(members),
        "received": len(members) - 5,
        "share_received": pytest.approx(1 - 5 / len(members)),
        "times_mean": pytest.approx(3 * (1 - 5 / len(members))),
    }


def test_members_never_sampled_are_refused() -> None:
    canaries = make_canaries(200, 50, words=WORDS, seed=6)
    members = [c["unit"] for c in canaries if c["member"]]
    with pytest.raises(PrivacyError, match=f"0 of {len(members)} member canaries .* expected about 97%"):
        check_received(canaries, dict.fromkeys(members, 0), CHANCE)
    with pytest.raises(PrivacyError, match="member canaries were ever sampled in training; expected about 97%"):
        check_received(canaries, dict.fromkeys(members[len(members) // 5 :], 9), CHANCE)


def test_members_left_out_by_chance_are_no_alarm() -> None:
    canaries = make_canaries(28, 0, words=WORDS, seed=6)
    members = [c["unit"] for c in canaries if c["member"]]
    assert check_received(canaries, dict.fromkeys(members[2:], 4), CHANCE)["received"] == len(members) - 2


def test_a_training_too_short_for_an_audit_is_refused() -> None:
    canaries = make_canaries(200, 50, words=WORDS, seed=6)
    counts = dict.fromkeys((c["unit"] for c in canaries if c["member"]), 1)
    with pytest.raises(PrivacyError, match="58% of the canaries were to be sampled in any step; expected 90% or more"):
        check_received(canaries, counts, 1 - 0.75**3)


def test_a_canary_trained_against_its_bit_is_refused() -> None:
    canaries = make_canaries(200, 50, words=WORDS, seed=6)
    counts = dict.fromkeys((c["unit"] for c in canaries if c["member"]), 3)
    with pytest.raises(
        PrivacyError, match=r"1 canaries were trained on against their inclusion bits, first canary/0249"
    ):
        check_received(canaries, counts | {"canary/0249": 1}, CHANCE)


@pytest.mark.parametrize(
    ("coins", "out", "words"), [(0, 10, WORDS), (10, -1, WORDS), (10, 10, WORDS[:15]), (10, 10, [*WORDS, "aaa"])]
)
def test_bad_numbers_and_words_are_refused(coins: int, out: int, words: list[str]) -> None:
    with pytest.raises(DataError, match=r"Canaries need|to draw canaries from"):
        make_canaries(coins, out, words=words, seed=0)


def test_a_member_has_at_least_one_copy() -> None:
    with pytest.raises(DataError, match="received 0"):
        training_records(make_canaries(4, 0, words=WORDS, seed=0), copies=0)
