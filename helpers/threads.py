"""How threads of torch wait for each other: by spinning while the course is alone, asleep while others need the cores.

Alone, spinning is a quarter faster. Beside another program, a thread that spins keeps the core that the one it waits
for needs, and a training step of two seconds takes half a minute (docs/decisions/0009).
"""

import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from functools import cache

import psutil

CHOSEN_BY_READER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LOOK_EVERY_S = 0.5
CALM_S = 5.0
"""Seconds without other programs after which threads spin again."""
SPARE = 0.3
"""Cores that other programs may take beyond those that torch leaves free."""


class Crowd:
    """More threads of libgomp than the machine has cores, all asleep.

    While there are more, libgomp lets every thread look a hundred times and not 300,000 before it sleeps
    (gomp_throttled_spin_count_var, GCC's libgomp/env.c). On systems whose torch has no libgomp this does nothing.
    """

    def __init__(self) -> None:
        self._over, there = threading.Event(), threading.Event()
        self._host = threading.Thread(target=self._hold, args=(there,), daemon=True)
        self._host.start()
        there.wait()

    def leave(self) -> None:
        """End the threads: libgomp ends those of a thread that ends."""
        self._over.set()
        self._host.join()

    def _hold(self, there: threading.Event) -> None:
        from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

        try:
            libraries = [library["filepath"] for library in threadpool_info() if library["prefix"] == "libgomp"]
            threads = _cores() + 1
            for path in libraries if _may_start(threads * len(libraries)) else ():
                nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
                ctypes.CDLL(path).GOMP_parallel(nothing, None, ctypes.c_uint(threads), ctypes.c_uint(0))
        finally:  # whoever waits goes on, also after an error
            there.set()
        self._over.wait()


class Watch(threading.Thread):
    """Looks twice a second at what other programs do."""

    def __init__(self) -> None:
        super().__init__(name="watch_cores", daemon=True)
        self._crowd: Crowd | None = None
        self._over = threading.Event()

    def run(self) -> None:  # noqa: D102 -- as in threading
        with suppress(OSError, psutil.Error, RuntimeError):  # nothing to read, or no more threads: torch's spin on
            self._look()

    def _look(self) -> None:
        last, busy_at = _seconds(), 0.0
        while not self._over.wait(LOOK_EVERY_S):
            now = _seconds()
            others = (now[1] - last[1] - (now[2] - last[2])) / (now[0] - last[0])
            last = now
            threads = getattr(sys.modules.get("torch"), "get_num_threads", None)
            if threads is None:  # not loaded yet
                continue
            if others > SPARE + (psutil.cpu_count() or 1) - threads():
                busy_at = now[0]
                self._crowd = self._crowd or Crowd()
            elif self._crowd and now[0] - busy_at > CALM_S:
                self._crowd.leave()
                self._crowd = None


@cache
def watch_cores() -> Watch | None:
    """Begin to watch, once in a process, and go on until it ends; None where the reader chose how threads wait."""
    if any(name in os.environ for name in CHOSEN_BY_READER):
        return None
    watch = Watch()
    watch.start()
    return watch


def _cores() -> int:
    """Cores that this process may use, as libgomp counts them; a batch system gives it some of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_start(threads: int) -> bool:
    """Whether so many more threads may be started: where they may not, libgomp ends the whole process."""
    over = threading.Event()
    started = [threading.Thread(target=over.wait, daemon=True) for _ in range(threads)]
    try:
        for thread in started:
            thread.start()
    except RuntimeError:  # a container's or an account's limit is reached
        return False
    finally:
        over.set()
        for thread in filter(threading.Thread.is_alive, started):
            thread.join()
    return True


def _seconds() -> tuple[float, float, float]:
    """Time now; processor seconds of all programs so far; those of this one."""
    everything, own = psutil.cpu_times(), psutil.Process().cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq")  # not "steal", what neighbours on the same host take
    return time.monotonic(), sum(getattr(everything, kind, 0.0) for kind in kinds), own.user + own.system
