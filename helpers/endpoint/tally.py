"""Notice early that a chat model is of no use, before many requests are spent on it."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from helpers.errors import EndpointError, UnreadableReply

FIRST = 12
"""Attempts of which one at least has to be of use."""


@dataclass
class Attempt:
    """What became of an attempt: why it was refused, or None."""

    reason: str | None = None


class Tally:
    """Counts attempts by why they were of no use. Safe between threads.

    `name`: the model and its server. `remedy`: a sentence on what the reader can change.
    """

    def __init__(self, name: str, remedy: str) -> None:
        self._name, self._remedy, self._lock = name, remedy, threading.RLock()
        self._reasons, self._row = Counter[str | None](), list[tuple[str, str]]()
        self._begun, self._open = 0, set[int]()
        self.told = ""
        """Why the model is of no use; empty as long as that is open."""

    @contextmanager
    def attempt(self, about: str) -> Iterator[Attempt]:
        """Count what is done within as an attempt `about` something; a reply that cannot be read refuses it."""
        with self._lock:
            self._begun += 1
            number = self._begun
            if number <= FIRST:  # where many are under way, refused ones end before those that are kept
                self._open.add(number)
        attempt, unreadable = Attempt(), False
        try:
            yield attempt
        except UnreadableReply as error:
            attempt.reason, unreadable = str(error).rstrip("."), True
        with self._lock:
            self._open.discard(number)
            self.add(attempt.reason, about=about, unreadable=unreadable)

    def add(self, *reasons: str | None, about: str, unreadable: bool) -> None:
        """Count attempts by why they were refused, None for one that is kept.

        `unreadable`: no usable reply came. Where that happens `FIRST` times in a row, `about` three things or more, a
        server has turned useless half way.
        """
        with self._lock:
            self._reasons.update(reasons)
            self._row = [*self._row, (about, str(reasons[-1]))] if unreadable else []
            worst, which = self._reasons, f"the first {self._reasons.total()}"
            if len(self._row) >= FIRST and len({about for about, _ in self._row}) > 2:
                worst, which = Counter(reason for _, reason in self._row), f"the last {len(self._row)}"
            elif self._reasons[None] or self._open or self._reasons.total() < FIRST:
                return
            found = ", ".join(f"{reason} ({times} times)" for reason, times in worst.most_common(3))
            self.told = self.told or f"None of {which} attempts of {self._name} was of use: {found}."

    def stop(self) -> None:
        """Raise EndpointError where the model is of no use."""
        if self.told:
            raise EndpointError(f"{self.told} {self._remedy}")
