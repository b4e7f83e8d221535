"""How threads of torch wait for each other, chosen before torch is loaded."""

import os
import sys

import psutil


def wait_politely() -> bool:
    """Let threads sleep while they wait, where other programs keep 0.3 cores or more busy at this moment.

    By default OpenMP's threads spin. Alone that is fastest; where another program takes one of two cores, answers took
    more than thirty times as long, and with sleeping threads one and a half times (docs/decisions/0009). The reader's
    own `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` counts first, and once torch is loaded nothing changes any more. Returns
    whether this call chose to sleep.
    """
    chosen = "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if chosen or busy_cores() < 0.3:
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def busy_cores() -> float:
    """Cores that all programs but this one keep busy, looked at for a quarter of a second."""
    own = psutil.Process()
    own.cpu_percent()  # from here on
    everything = psutil.cpu_percent(0.25) * (psutil.cpu_count() or 1)
    return max(0.0, everything - own.cpu_percent()) / 100
