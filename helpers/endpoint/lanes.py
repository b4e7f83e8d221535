"""How many requests are under way at once: as many as the server bears."""

from __future__ import annotations

import threading
from types import TracebackType

UP_AFTER = 20
"""Requests that end well, after a slow-down, before one more is under way at once."""


class Lanes:
    """At most `most` requests at once; half as many after a server asks to slow down, then slowly more again.

    Use it as a context around each request.
    """

    def __init__(self, most: int) -> None:
        self.open = self._most = most
        self._busy = self._well = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._busy < self.open)
            self._busy += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._busy -= 1
            self._well += kind is None
            if self._well >= UP_AFTER and self.open < self._most:
                self.open, self._well = self.open + 1, 0
            self._changed.notify_all()

    def slow_down(self) -> None:
        """The server has refused a request because there were too many."""
        with self._changed:
            self.open, self._well = max(1, self.open // 2), 0
