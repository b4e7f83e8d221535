"""How threads of torch wait for each other, chosen before torch is loaded."""

from __future__ import annotations

import os
import sys
import time

import psutil

OTHERS = 0.3
"""Cores that other programs keep busy, from which waiting threads sleep."""
LOOKED_S = 0.25


def wait_politely() -> bool:
    """Let threads sleep while they wait, where other programs keep the processor busy at this moment.

    By default OpenMP's threads spin. Alone that is fastest; where another program takes one of two cores, answers took
    more than thirty times as long, and with sleeping threads one and a half times (docs/decisions/0009). The reader's
    own `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` counts first, and once torch is loaded nothing changes any more.

    Returns:
        Whether this call chose to sleep.
    """
    if "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return False
    if busy_cores() < OTHERS:
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def busy_cores() -> float:
    """Cores that all programs but this one keep busy, looked at for a moment."""
    own, all_before, began = psutil.Process(), psutil.cpu_times(), time.monotonic()
    own_before = own.cpu_times()
    time.sleep(LOOKED_S)
    passed, all_after, own_after = time.monotonic() - began, psutil.cpu_times(), own.cpu_times()

    def used(times: object) -> float:
        return sum(float(getattr(times, name, 0.0)) for name in ("user", "system", "nice"))

    return max(0.0, (used(all_after) - used(all_before) - used(own_after) + used(own_before)) / passed)
