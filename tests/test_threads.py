"""Threads sleep while they wait as long as another program is busy, and spin again afterwards."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import torch

from helpers import threads
from helpers.threads import CHOSEN_BY_READER, Crowd, Watch, watch_cores


def soon(reached: Callable[[], bool]) -> bool:
    for _ in range(200):
        if reached():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    watch.start()
    yield watch
    watch._over.set()
    watch.join()
    if watch._crowd:
        watch._crowd.leave()


def test_a_program_that_begins_later_is_noticed(watch: Watch) -> None:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(psutil.cpu_count() or 1)]
    try:
        assert soon(lambda: watch._crowd is not None)
    finally:
        for loop in loops:
            loop.kill()


def test_once_alone_threads_spin_again(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    monkeypatch.setattr(threads, "CALM_S", 0.6)
    others, began = psutil.cpu_count() or 1, time.monotonic()
    monkeypatch.setattr(threads, "_seconds", lambda: (now := time.monotonic(), (now - began) * others, 0.0))
    assert soon(lambda: watch._crowd is not None)
    others = 0
    assert soon(lambda: watch._crowd is None)


def test_a_crowd_is_larger_than_the_machine_and_leaves() -> None:
    torch.ones(1 << 20).add_(1)  # torch's own threads
    before = psutil.Process().num_threads()
    crowd = Crowd()
    assert psutil.Process().num_threads() > before + (psutil.cpu_count() or 1)
    crowd.leave()
    assert soon(lambda: psutil.Process().num_threads() == before)


@pytest.mark.parametrize("name", CHOSEN_BY_READER)
def test_the_readers_own_choice_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in CHOSEN_BY_READER:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "7")
    assert watch_cores.__wrapped__() is None


AT_THE_LIMIT = """
import os, resource, sys, psutil, torch, threadpoolctl
from helpers import threads
torch.ones(1 << 20).add_(1), threadpoolctl.threadpool_info()
if os.getuid() == 0:
    os.setuid(65_432)  # root has no limit
own = sum(each.num_threads() for each in psutil.process_iter() if each.uids().real == os.getuid())
resource.setrlimit(resource.RLIMIT_NPROC, (own + int(sys.argv[1]),) * 2)
seconds = iter([(1.0, 0.0, 0.0), (2.0, 99.0, 0.0)])
threads._seconds = lambda: next(seconds, None) or open("/no such file")
threads.Watch().run()
print("goes on")
"""


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() == 1, reason="limits of Linux, and a crowd")
@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_process_that_may_start_no_more_threads_goes_on(more: int) -> None:
    told = subprocess.run([sys.executable, "-c", AT_THE_LIMIT, str(more)], capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("goes on\n", "")
