"""The report's figures, in one style that is safe for colour-blind readers (Okabe and Ito's palette).

Functions return a figure, which a notebook shows and the report embeds; `results` is the dictionary in `results.json`.
In the report, the page's theme replaces the colours of ink and grid.
"""

import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.files import Record, read_jsonl
from helpers.style import GRID, INK, MUTED, RIGHT, STYLE, WRONG

Results = Mapping[str, Any]
P = ParamSpec("P")

MODEL_COLOURS = {"base": "#8b93a0", "in_context": "#e69f00", "lora": "#1f83c4", "qlora": "#009e73"}
_MORE_COLOURS = ("#cc79a7", "#56b4e9", "#d55e00", "#b3a100")
_MARKERS = ("o", "s", "D", "^", "v", "P")
METRIC_TITLES = {
    "rouge_l": "ROUGE-L",
    "static": "Static vectors",
    "sentence": "Sentence cosine",
    "cross_encoder": "Cross-encoder",
}
_LOSSES: dict[str, Any] = {
    "loss": {"linewidth": 1, "alpha": 0.55},
    "eval_loss": {"linewidth": 2.2, "marker": "o", "markersize": 5},
}


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour for each model, the same in every figure; the reader's own adapters get further ones."""
    more = cycle(_MORE_COLOURS)
    return {name: MODEL_COLOURS.get(name) or next(more) for name in names}


def percent(share: float | None) -> str:
    """Write a share as a whole percentage, or a dash where there is none."""
    return "–" if share is None else f"{100 * share:.0f}%"


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the course's style, whatever style a notebook has set."""

    @wraps(draw)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            plt.close(figure)  # Or a notebook would show it twice: as its cell's figure and as its value.
            return figure

    return with_style


def buckets_of(results: Results) -> dict[str, str]:
    """The buckets with rates of right answers, in the order of the test, and their titles."""
    names = dict.fromkeys(bucket for model in results["models"].values() for bucket in model["buckets"])
    return {name: bucket_title(results, name) for name in names}


def bucket_title(results: Results, bucket: str) -> str:
    """What the dataset's card calls a bucket."""
    told = {"general": {"title": "General knowledge"}} | results.get("dataset", {}).get("buckets", {})
    title: str = told.get(bucket, {}).get("title", bucket.replace("_", " ").capitalize())
    return title


@styled
def plot_buckets(results: Results) -> Figure:
    """Draw each model's rate of right answers in each bucket, with its 95 % interval."""
    models: Mapping[str, Any] = results["models"]
    buckets = buckets_of(results)
    colours = model_colours(list(models))
    step = len(models) + 1.2
    starts = [row * step for row in range(len(buckets))]
    height = 1.0 + 0.27 * max(1, len(buckets) * (len(models) + 1))
    figure, axes = plt.subplots(figsize=(9.2, height), layout="constrained")
    for place, (name, model) in enumerate(models.items()):
        found = [(start + place, model["buckets"].get(bucket)) for start, bucket in zip(starts, buckets, strict=True)]
        rates = [(y, rate) for y, rate in found if rate and rate["rate"] is not None]
        marker, colour = _MARKERS[place % len(_MARKERS)], colours[name]
        dots = [rate["rate"] for _, rate in rates], [y for y, _ in rates]
        axes.plot(*dots, marker, color=colour, markersize=8, label=name, zorder=3)
        for y, rate in rates:
            axes.plot([rate["low"], rate["high"]], [y, y], color=colour, linewidth=4.5, alpha=0.35)
            axes.text(1.035, y, percent(rate["rate"]), va="center", fontweight="bold", fontsize=9.5)
    for start in starts[1:]:
        axes.axhline(start - 1.1, color=GRID, linewidth=0.8)
    axes.set_yticks([start + (len(models) - 1) / 2 for start in starts], buckets.values(), color=INK, fontsize=11)
    axes.set_ylim(max(1.0, len(buckets) * step) - 1.1, -1.1)
    axes.set_xlim(-0.02, 1.1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100% right"])
    axes.grid(axis="y", visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    if models and buckets:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(models), handletextpad=0.2)
    return figure


@styled
def plot_training(results: Results) -> Figure:
    """Draw the loss of each adapter by step: thin on training data, bold on held-back conversations.

    Below, on the same axis of steps, which of the few questions asked on the way (`hot_test`) were answered right.
    """
    training: Mapping[str, Any] = results.get("training", {})
    colours = model_colours(list(training))
    answers = {name: facts["hot_test"] for name, facts in training.items() if facts.get("hot_test")}
    figure = plt.figure(figsize=(9.2, 3.6), layout="constrained")
    if answers:
        marked = 0.24 * len({(name, row["id"]) for name, rows in answers.items() for row in rows}) + 0.6
        figure.set_figheight(3.6 + marked)
        axes, below = figure.subplots(2, sharex=True, height_ratios=(3.6, marked))
        _draw_answers(below, answers, results)
    else:
        axes = figure.subplots()
    drawn: dict[str, Line2D] = {}  # for the legend: the bold line, where there is one
    for name, facts in training.items():
        for key, style in _LOSSES.items():
            points = [(row["step"], row[key]) for row in facts["log"] if row.get(key) is not None]
            if points:
                [drawn[name]] = axes.plot(*zip(*points, strict=True), color=colours[name], **style)
    axes.set(xlabel="" if answers else "Training step", ylabel="Loss (nats a token)", ylim=(0, None))
    told = "Bold: conversations held back. Thin: conversations trained on."
    axes.set_title(told, fontweight="normal", fontsize=10.5)
    if drawn:
        axes.legend(drawn.values(), drawn.keys(), loc="upper right")
    return figure


def _draw_answers(axes: Axes, answers: Mapping[str, Sequence[Record]], results: Results) -> None:
    """One line for each model and question: a dot where the answer is right, a cross where it is wrong."""
    lines = {(name, row["id"]): row["bucket"] for name, rows in answers.items() for row in rows}
    places = {line: place for place, line in enumerate(lines)}
    marks: dict[bool | None, dict[str, Any]] = {
        True: {"marker": "o", "color": RIGHT},
        False: {"marker": "x", "color": WRONG, "markeredgewidth": 2},
        None: {"marker": "o", "color": MUTED, "fillstyle": "none"},
    }
    for name, rows in answers.items():
        for row in rows:
            axes.plot(row["step"], places[name, row["id"]], markersize=8, clip_on=False, **marks[row["correct"]])
    shown = [f"{name}: {bucket_title(results, bucket).lower()}" for (name, _), bucket in lines.items()]
    axes.set_yticks(range(len(lines)), shown, color=INK)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel("Training step")
    axes.set_title("Asked on the way. Dot: right. Cross: wrong. Ring: not decided.", fontweight="normal", fontsize=10.5)
    axes.spines["left"].set_visible(False)


@styled
def plot_similarity_blindness(results: Results) -> Figure:
    """Draw the cosines of right and wrong answers, and how often each metric ranks a right one above a wrong one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5), width_ratios=(1.5, 1), layout="constrained")
    _draw_cosines(left, results.get("similarity", {}))
    found = {k: v for k, v in results.get("separation", {}).items() if v is not None}
    for row, area in enumerate(found.values()):
        right.plot([0.5, area], [row, row], color=MUTED, linewidth=2, alpha=0.5)
        right.plot(area, row, "o", color=RIGHT if area >= 0.95 else MODEL_COLOURS["in_context"], markersize=9)
        right.text(max(area, 0.5) + 0.03, row, f"{area:.2f}", va="center", fontweight="bold", fontsize=9.5)
    right.set_yticks(range(len(found)), [METRIC_TITLES.get(name, name) for name in found], color=INK)
    right.set_ylim(len(found) - 0.4, -0.6)
    right.set_xlim(min([0.45, *(area - 0.05 for area in found.values())]), 1.12)
    right.set_xticks([0.5, 0.75, 1], ["0.5\ncoin toss", "0.75", "1\nalways"])
    right.axvline(0.5, color=MUTED, linewidth=1)
    right.grid(axis="y", visible=False)
    right.spines[["left", "bottom"]].set_visible(False)
    right.set_title("Right ranked above wrong")
    return figure


def _draw_cosines(axes: Axes, similarity: Mapping[str, Sequence[float]]) -> None:
    correct, wrong = similarity.get("correct", []), similarity.get("wrong", [])
    start = min([0.0, *correct, *wrong]) // 0.05 * 0.05
    edges = np.linspace(start, 1, round((1 - start) / 0.05) + 1).tolist()
    tallest = 1.0
    for values, sign, colour, word in ((correct, 1, RIGHT, "right"), (wrong, -1, WRONG, "wrong")):
        if not values:
            continue
        shares = [sign * 100 / len(values)] * len(values)
        heights, _, _ = axes.hist(values, edges, weights=shares, color=colour, rwidth=0.86)
        tallest = max(tallest, float(np.abs(heights).max()))
        place: Any = {"transform": axes.transAxes, "va": "center"}
        axes.text(0.02, 0.5 + sign * 0.41, f"{len(values)} {word} answers", color=colour, fontweight="bold", **place)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_ylim(-1.12 * tallest, 1.12 * tallest)
    axes.yaxis.set_major_formatter(lambda share, _: f"{abs(share):.0f}%")
    axes.set_xlabel("Cosine of the answer with the right answer")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(axis="x", visible=False)
    axes.set_title("Cosines of right and wrong answers")


@styled
def draw_lengths(lengths: Sequence[int], longest: int) -> Figure:
    """How many conversations have how many tokens, beside the longest length that training allows."""
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    axes.hist(lengths, bins=40, color=RIGHT, rwidth=0.9)
    axes.axvline(longest, color=WRONG, linewidth=1.5)
    place = axes.get_xaxis_transform()
    axes.text(longest, 0.98, " longest allowed ", color=WRONG, ha="right", va="top", transform=place)
    axes.set(xlabel="tokens of a conversation", ylabel="conversations")
    axes.grid(axis="x", visible=False)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as a file of pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def to_svg(figure: Figure, prefix: str) -> str:
    """Turn a figure into SVG for a page: its fonts, ink and grid, no background, and ids that begin with `prefix`."""
    buffer = io.StringIO()
    with plt.rc_context({**STYLE, "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in ((INK, "--ink"), (MUTED, "--muted"), (GRID, "--grid")):
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--font)", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(?:xlink:)?(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]+")[^>]*>', r'<svg \1 role="img">', svg, count=1)


def live_curve(title: str, folder: Path | None = None) -> Callable[[list[Record]], None]:
    """A function that draws the log so far, always into the same figure, at most every 5 s and once at the end.

    Where the model's `folder` is given, what was asked on the way is drawn too. Outside a notebook it does nothing; the
    progress bar tells the same there.
    """
    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        return lambda log: None
    from IPython.display import DisplayHandle, Image

    handle, drawn_at = DisplayHandle(), 0.0

    def watch(log: list[Record]) -> None:
        nonlocal drawn_at
        ended = bool(log) and "train_loss" in log[-1]  # the Trainer's closing row
        if ended or time.monotonic() - drawn_at >= 5:
            show = handle.update if drawn_at else handle.display
            drawn_at = time.monotonic()
            asked = folder / "hot_test.jsonl" if folder else None
            answered = read_jsonl(asked) if asked and asked.exists() else []
            figure = plot_training({"training": {title: {"log": log, "hot_test": answered}}})
            show(Image(to_png(figure), format="png", width=700))

    return watch
