"""What a training does beside training: a progress bar, a few questions on the way, copies of the model's folder."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
from transformers import TrainerCallback, TrainerState

from helpers.data.example import Example
from helpers.errors import DataError, TrainingError
from helpers.files import Record, read_jsonl, write_jsonl
from helpers.models.hot_test import due, hot_test
from helpers.progress import tqdm
from helpers.storage import Address, copy_model

Watch = Callable[[list[Record]], None]
"""Called with every row logged so far, whenever there is a new one."""


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Steps, minutes left, loss, validation loss, tokens a second and memory on one line."""

    def __init__(self, title: str, watch: Watch | None = None) -> None:
        self._title, self._watch = title, watch
        self._bar: tqdm[Any] = tqdm(disable=True)
        self._shown: dict[str, str] = {}

    def on_train_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        """Open the bar, part full after a resume."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=f"train {self._title}", unit="step")

    def on_step_end(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        """Move the bar."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, _: Any, state: TrainerState, __: Any, logs: Record, **___: Any) -> None:
        """Show the newest figures; stop where a loss is no number any more."""
        for name, short in (("loss", "loss"), ("eval_loss", "val")):
            if name in logs:
                self._shown[short] = f"{float(logs[name]):.3f}"
                if not math.isfinite(float(logs[name])):
                    raise TrainingError(
                        f"{name} is {logs[name]} at step {state.global_step}: training has diverged. Lower "
                        "training.learning_rate, or train in fp32 (training_arguments: {bf16: false})."
                    )
        if "train_tokens_per_second" in logs:
            self._shown["tok/s"] = f"{logs['train_tokens_per_second']:.0f}"
        self._shown["MB"] = f"{psutil.Process().memory_info().rss / 2**20:.0f}"
        self._bar.set_postfix(self._shown)
        if self._watch:
            self._watch(list(state.log_history))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the bar."""
        self._bar.close()


class HotTest(TrainerCallback):  # type: ignore[misc]
    """Asks `questions` at `points` of a training and keeps the answers in `path`; a resumed training adds to them.

    A point comes before the checkpoint of its step: the answers up to a checkpoint are always there.
    """

    def __init__(
        self,
        path: Path,
        questions: Sequence[Example],
        points: int,
        tokenizer: Any,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._path, self._questions, self._points = path, questions, points
        self._tokenizer, self._autocast = tokenizer, autocast
        self._rows: list[Record] = []
        self.seconds = 0.0  # of this session

    def on_train_begin(self, _: Any, state: TrainerState, *__: Any, model: Any, **___: Any) -> None:
        """Ask before the first step, or take up the answers until the checkpoint that training goes on from."""
        kept = read_jsonl(self._path) if state.global_step and self._path.exists() else []
        self._rows = [row for row in kept if row["step"] <= state.global_step]
        if not self._rows:
            self._path.unlink(missing_ok=True)  # of an earlier training
        self._ask(model, state)

    def on_step_end(self, _: Any, state: TrainerState, *__: Any, model: Any, **___: Any) -> None:
        """Ask where it is time."""
        self._ask(model, state)

    def _ask(self, model: Any, state: TrainerState) -> None:
        step = state.global_step
        if not due(step, state.max_steps, self._points) or any(row["step"] == step for row in self._rows):
            return
        started = time.monotonic()
        with self._autocast():
            self._rows += hot_test(model, self._tokenizer, self._questions, step)
        if self._rows:
            write_jsonl(self._path, self._rows)
        self.seconds += time.monotonic() - started


class Copies(TrainerCallback):  # type: ignore[misc]
    """Copies at every checkpoint. An address that cannot be written stops a training before its first step only."""

    def __init__(self, folder: Path, addresses: Iterable[Address]) -> None:
        self._folder, self._addresses = folder, tuple(addresses)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Copy what is there, the last checkpoint of a killed training perhaps."""
        copy_model(self._folder, self._addresses)

    def on_save(self, *_: Any, **__: Any) -> None:
        """Copy the new checkpoint; a failure is told, and training goes on."""
        try:
            copy_model(self._folder, self._addresses)
        except DataError as error:
            tqdm.write(f"{error} Training goes on; the copy is tried again at the next checkpoint or at the end.")
