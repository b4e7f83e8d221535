"""When a chat model counts as useless."""

import pytest

from helpers.endpoint.tally import FIRST, Tally
from helpers.errors import EndpointError


def test_attempts_that_began_first_and_end_last_count() -> None:
    tally = Tally("m at s", "Change it.")
    lanes = [tally.begin() for _ in range(2 * FIRST)]
    for number in lanes[3:]:  # a refused question ends at once, a good one is answered before it counts
        tally.add("no question", number=number)
    tally.stop()
    for number in lanes[:3]:
        tally.add(None, number=number)
    tally.stop()


def test_a_model_whose_first_attempts_are_all_refused_is_useless() -> None:
    tally = Tally("m at s", "Change it.")
    lanes = [tally.begin() for _ in range(FIRST + 4)]
    for number in reversed(lanes):
        tally.stop()
        tally.add("no question", number=number)
    with pytest.raises(EndpointError, match=r"None of the first 16 attempts of m at s was of use: no question \(16"):
        tally.stop()
