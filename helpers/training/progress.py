"""Show a training while it runs: a progress bar in any terminal, a callback for a live picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import psutil
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from helpers.errors import TrainingError
from helpers.files import Record


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Steps, minutes left, loss, validation loss, tokens a second and memory on one line."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: tqdm[Any] | None = None
        self._shown: dict[str, str] = {}
        self._mark: tuple[float, float] | None = None

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Open the bar, part full after a resume."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=f"train {self._title}", unit="step")

    def on_step_end(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        _: TrainingArguments,
        state: TrainerState,
        __: TrainerControl,
        logs: Record | None = None,
        **___: Any,
    ) -> None:
        """Show the newest figures and put tokens a second into the log; stop where a loss is no number any more."""
        logs = logs or {}
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(float(logs[name])):
                raise TrainingError(
                    f"{name} is {logs[name]} at step {state.global_step}: training has diverged. Lower "
                    "training.learning_rate, or train in fp32 (training_arguments: {bf16: false})."
                )
        row = state.log_history[-1] if state.log_history else logs
        if "loss" in logs:
            now, tokens = time.monotonic(), float(logs.get("num_input_tokens_seen", 0))
            if self._mark is not None and now > self._mark[0]:
                rate = (tokens - self._mark[1]) / (now - self._mark[0])
                row["tokens_per_second"] = round(rate, 1)
                self._shown["tok/s"] = f"{rate:.0f}"
            self._mark = (now, tokens)
            self._shown["loss"] = f"{float(logs['loss']):.3f}"
        if "eval_loss" in logs:
            self._shown["val"] = f"{float(logs['eval_loss']):.3f}"
        self._shown["MB"] = f"{psutil.Process().memory_info().rss / 2**20:.0f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Hands the log so far to a function, for a picture that grows while the model trains."""

    def __init__(self, watch: Callable[[list[Record]], None]) -> None:
        self._watch = watch

    def on_log(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Call the function with every row logged so far."""
        self._watch(list(state.log_history))
