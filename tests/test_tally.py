"""When a chat model counts as useless."""

from contextlib import ExitStack

import pytest

from helpers.endpoint.tally import FIRST, Tally
from helpers.errors import EndpointError, UnreadableReply


def refuse(tally: Tally, times: int) -> None:
    for _ in range(times):
        with tally.attempt("a") as attempt:
            attempt.reason = "no question"


def test_attempts_that_began_first_and_end_last_count() -> None:
    tally = Tally("m at s", "Change it.")
    with ExitStack() as good:
        for _ in range(3):
            good.enter_context(tally.attempt("a"))
        refuse(tally, 2 * FIRST)  # a refused question ends at once, a good one is answered before it counts
        tally.stop()
    tally.stop()


def test_a_model_whose_first_attempts_are_all_refused_is_useless() -> None:
    tally = Tally("m at s", "Change it.")
    with ExitStack() as late:
        for _ in range(2):
            late.enter_context(tally.attempt("a")).reason = "late"
        refuse(tally, FIRST)
        tally.stop()
    told = (
        r"None of the first 14 attempts of m at s was of use: no question \(12 times\), late \(2 times\)\. Change it\."
    )
    with pytest.raises(EndpointError, match=told):
        tally.stop()


@pytest.mark.parametrize(("things", "useless"), [(3, True), (2, False)])
def test_replies_that_cannot_be_read_any_more_are_noticed_half_way(things: int, useless: bool) -> None:
    tally = Tally("m at s", "Change it.")
    with tally.attempt("a"):
        pass
    for number in range(FIRST):
        with tally.attempt(f"entry {number % things}"):
            raise UnreadableReply("no text")
    assert bool(tally.told) is useless
