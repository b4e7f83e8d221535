"""Show a training while it runs: a progress bar in any terminal, a loss curve that grows in a notebook."""

from __future__ import annotations

import math
import time
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


def live_curve(title: str) -> Watch:
    """A function that draws the training log so far, always into the same figure, every 5 s and once more at the end.

    Outside a notebook it does nothing; the progress bar tells the same there.
    """
    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        return lambda log: None
    from IPython.display import DisplayHandle, Image

    from helpers.report.figures import plot_training, to_png

    handle, drawn_at = DisplayHandle(), 0.0

    def watch(log: list[Record]) -> None:
        nonlocal drawn_at
        ended = bool(log) and "train_loss" in log[-1]  # the Trainer's closing row
        if ended or time.monotonic() - drawn_at >= 5:
            show = handle.update if drawn_at else handle.display
            drawn_at = time.monotonic()
            figure = plot_training({"training": {title: {"log": log}}})
            show(Image(to_png(figure), format="png", width=700))

    return watch
