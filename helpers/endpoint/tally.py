"""Notice early that a chat model is of no use, before many requests are spent on it."""

from __future__ import annotations

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
        self._reasons = Counter[str | None]()
        self.told = ""
        """Why the model is of no use; empty as long as that is open."""

    def add(self, *reasons: str | None) -> None:
        """Count attempts by why they were refused, None for one that is kept."""
        with self._lock:
            self._reasons.update(reasons)
            if self.told or self._reasons[None] or (total := self._reasons.total()) < FIRST:
                return
            found = ", ".join(f"{reason} ({times} times)" for reason, times in self._reasons.most_common(3))
            self.told = f"None of the first {total} attempts of {self._name} was of use: {found}."

    def stop(self) -> None:
        """Raise EndpointError where the model is of no use."""
        if self.told:
            raise EndpointError(f"{self.told} {self._remedy}")
