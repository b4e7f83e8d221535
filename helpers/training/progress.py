"""Show a training while it runs: a progress bar in any terminal, a loss curve that grows in a notebook."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import psutil
from tqdm import tqdm
from transformers import TrainerCallback, TrainerState

from helpers.errors import TrainingError
from helpers.files import Record

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
