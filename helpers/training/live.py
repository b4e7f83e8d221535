"""A loss curve that grows inside the notebook while the model trains."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

from helpers.files import Record

Watch = Callable[[list[Record]], None]


def live_curve(title: str = "", seconds_between: float = 5.0) -> Watch:
    """Make a function that draws the training log so far, always into the same figure.

    Outside a notebook it does nothing; the progress bar tells the same there.

    Args:
        title: above the curve.
        seconds_between: the picture is drawn anew at most this often, and once more at the end.
    """
    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        return lambda log: None
    from IPython.display import DisplayHandle, Image, display

    handle: DisplayHandle | None = None
    drawn_at = 0.0

    def watch(log: list[Record]) -> None:
        nonlocal handle, drawn_at
        ended = bool(log) and "train_runtime" in log[-1]  # the Trainer's closing row
        if not ended and time.monotonic() - drawn_at < seconds_between:
            return
        drawn_at = time.monotonic()
        image = Image(data=curve_png(log, title), format="png")
        if handle is None:
            handle = display(image, display_id=True)
        else:
            handle.update(image)

    return watch


def curve_png(log: Sequence[Record], title: str = "") -> bytes:
    """Draw training and validation loss over the steps, as PNG.

    Args:
        log: rows of the Trainer's log, `{"step", "loss"}` or `{"step", "eval_loss"}`; others are ignored.
        title: above the curve.
    """
    # A Figure of its own: pyplot would keep it, and a notebook would show it twice.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), dpi=100, layout="constrained")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o--")):
        points = [(row["step"], row[key]) for row in log if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=f"{label}, now {points[-1][1]:.3f}")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.locator_params(axis="x", integer=True)
    if axes.lines:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
