"""Notice early that a chat model is of no use, before many requests are spent on it."""

import threading
from collections import Counter

from helpers.errors import EndpointError

FIRST = 12
"""Attempts of which one at least has to be of use."""


class Tally:
    """Counts attempts by why they were of no use. Safe between threads.

    `name`: the model and its server. `remedy`: a sentence on what the reader can change.
    """

    def __init__(self, name: str, remedy: str) -> None:
        self._name, self._remedy, self._lock = name, remedy, threading.Lock()
        self._reasons, self._row = Counter[str | None](), list[tuple[str, str]]()
        self._begun, self._open = 0, set[int]()
        self.told = ""
        """Why the model is of no use; empty as long as that is open."""

    def begin(self) -> int:
        """Number an attempt. Where many are under way, refused ones end before those that are kept."""
        with self._lock:
            self._begun += 1
            if self._begun <= FIRST:
                self._open.add(self._begun)
            return self._begun

    def add(self, *reasons: str | None, about: str = "", unreadable: bool = False, number: int = 0) -> None:
        """Count attempts by why they were refused, None for one that is kept; `number` is that of `begin`.

        `unreadable`: no usable reply came. Where that happens `FIRST` times in a row, `about` three things or more, a
        server has turned useless half way.
        """
        with self._lock:
            self._reasons.update(reasons)
            self._open.discard(number)
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
