"""Sliders over pictures, for notebooks. Where nobody looks, each shows one picture in its place.

What they compute is in functions without widgets: `reshaped`, `around` and `mistakes`.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as ui
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from scipy.stats import norm

from helpers.errors import PrivacyError
from helpers.progress import HEADLESS
from helpers.report.figures import styled, to_png
from helpers.style import GRID, MUTED, RIGHT, WRONG

if TYPE_CHECKING:
    from helpers.privacy.accounting import Cost

Cosines = tuple[Sequence[float], Sequence[bool]]
Drawn = tuple[Figure, str]
WIDTH = 700  # pixels of a picture


@dataclass
class Shown:
    """What a cell shows: a widget, and a line and perhaps a PNG in its place where there is no front end for it.

    `widget` is None where the course's command line executes the notebook.
    """

    widget: Any
    words: str
    picture: bytes = b""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """For IPython, whose front ends show the first of these kinds that they know: widget, picture, words."""
        bundle = self.widget._repr_mimebundle_() if self.widget else {}
        if self.picture:
            bundle["image/png"] = b64encode(self.picture).decode()
        metadata = {"image/png": {"width": WIDTH, "alt": self.words}} if self.picture else {}
        return {**bundle, "text/plain": self.words}, metadata


def reshaped(logits: ArrayLike, temperature: float, top_p: float) -> NDArray[np.float64]:
    """Probabilities from which the next token is drawn: softmax of logits / temperature, cut to its nucleus.

    Args:
        logits: one a token of the vocabulary.
        temperature: above 0.
        top_p: above 0, at most 1; of the likeliest tokens as few stay as have this probability or more together.

    Returns:
        As many probabilities as logits, summing to 1; 0 outside of the nucleus.
    """
    probabilities: NDArray[np.float64] = softmax(np.asarray(logits, dtype=np.float64) / temperature)
    falling = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[falling]) - probabilities[falling]  # of all that are likelier
    probabilities[falling[before >= top_p]] = 0.0
    probabilities /= probabilities.sum()
    return probabilities


def next_token_sliders(logits: ArrayLike, decode: Callable[[int], str], *, shown: int = 10) -> Shown:
    """Sliders for temperature and top-p over the probabilities of the likeliest next tokens.

    Args:
        logits: one a token of the vocabulary.
        decode: gives the text of a token.
        shown: how many tokens have a bar.
    """
    logits = np.asarray(logits, dtype=np.float64)
    first = np.argsort(-logits, kind="stable")[:shown]
    names = [repr(decode(int(token))) for token in first]
    plain = reshaped(logits, 1.0, 1.0)[first]

    @styled
    def draw(found: NDArray[np.float64]) -> Figure:
        figure, axes = plt.subplots(figsize=(7, 0.9 + 0.28 * len(first)), layout="constrained")
        axes.barh(range(len(first)), plain, color=GRID, height=0.8, label="as the model gives them")
        axes.barh(range(len(first)), found[first], color=RIGHT, height=0.45, label="with the sliders' values")
        axes.set_yticks(range(len(first)), names, parse_math=False)
        widest = next(limit for limit in (1e-3, 0.01, 0.1, 0.25, 0.5, 1.01) if limit >= max(found.max(), plain.max()))
        axes.set(xlim=(0, widest), ylim=(len(first) - 0.5, -0.5), xlabel="probability to be drawn as the next token")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower right")
        return figure

    def redraw(temperature: float, top_p: float) -> Drawn:
        found = reshaped(logits, temperature, top_p)
        caption = f"Temperature {temperature:.1f}, top-p {top_p:.2f}. Tokens to draw from: {np.count_nonzero(found):,}"
        return draw(found), f"{caption}; the likeliest has a probability of {found.max():.3g}."

    temperature = (ui.FloatSlider, {"value": 1.0, "min": 0.1, "max": 2.0, "step": 0.1})
    top_p = (ui.FloatSlider, {"value": 1.0, "min": 0.05, "max": 1.0, "step": 0.05})
    return _redrawn(redraw, {"temperature": temperature, "top-p": top_p})


def around(cost: Cost, factors: Sequence[float]) -> dict[float, float]:
    """ε of a training for its noise multiplier times each factor, all else equal; without those that guarantee nothing.

    It takes a third of a second each.
    """
    from helpers.privacy.accounting import spent  # takes seconds, and only one notebook needs it

    found = {}
    for noise in sorted({cost.noise_multiplier * factor for factor in factors}):
        try:
            found[noise] = spent(noise, cost.sample_rate, cost.steps, cost.delta).epsilon
        except PrivacyError:  # ε above 200
            continue
    return found


def noise_slider(epsilons: Mapping[float, float], planned: float, ratio: float) -> Shown:
    """A slider for the noise multiplier: its ε, and what one step's noise hides.

    Args:
        epsilons: ε of each noise multiplier on the slider, of `around`.
        planned: the noise multiplier among them where the slider begins.
        ratio: length of the noise over that of the signal with a noise multiplier of 1.
    """
    choices = {f"{value:.3f}": value for value in sorted(epsilons)}

    @styled
    def draw(value: float) -> Figure:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
        left.plot(list(epsilons), list(epsilons.values()), color=MUTED, linewidth=1, marker="o", markersize=3)
        left.plot(planned, epsilons[planned], "o", color="none", markeredgecolor=MUTED, markersize=11, label="planned")
        left.plot(value, epsilons[value], "o", color=WRONG, markersize=8)
        left.set(yscale="log", xlabel="noise multiplier", ylabel="ε of the training")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        left.yaxis.set_major_formatter("{x:g}")
        left.minorticks_off()
        left.set_title("More noise, smaller ε")
        left.legend()
        widest = 3.2 * max(epsilons)
        x = np.linspace(-widest, widest + 1, 400)
        for mean, colour, label in ((0, MUTED, "without the patient"), (1, WRONG, "with")):
            right.plot(x, norm.pdf(x, mean, value), color=colour, label=label)
        room = 1.4 * norm.pdf(0, 0, value)  # for the legend above the bells
        right.set(xlabel="along that patient's direction, in clipping norms", yticks=[], ylim=(0, room))
        right.locator_params(axis="x", nbins=5)
        right.set_title("What one step may publish")
        right.legend(loc="upper left")
        return figure

    def redraw(chosen: str) -> Drawn:
        value = choices[chosen]
        caption = f"Noise multiplier {value:.3f}: ε = {epsilons[value]:.2f} for the whole training"
        return draw(value), f"{caption}. In a step the noise is {value * ratio:.3g} times as long as the signal can be."

    label = "noise multiplier"
    return _redrawn(redraw, {label: (ui.SelectionSlider, {"value": f"{planned:.3f}", "options": list(choices)})})


def mistakes(values: Sequence[float], correct: Sequence[bool], threshold: float) -> tuple[int, int]:
    """How many wrong answers reach a threshold, and how many right ones do not."""
    reached, right = np.asarray(values) >= threshold, np.asarray(correct, dtype=bool)
    return int((reached & ~right).sum()), int((~reached & right).sum())


def threshold_slider(models: Mapping[str, Cosines]) -> Shown:
    """A slider for a threshold over the cosines of right and wrong answers, with both kinds of mistakes.

    Args:
        models: for each model, the cosines of its answers and whether they are right; the first one is shown first.
    """
    lowest = min([0.0, *(min(values, default=0.0) for values, _ in models.values())]) // 0.05 * 0.05
    bins = np.linspace(lowest, 1.0, round((1.0 - lowest) / 0.025) + 1).tolist()

    @styled
    def draw(model: str, cut: float) -> Figure:
        values, right = np.asarray(models[model][0], dtype=float), np.asarray(models[model][1], dtype=bool)
        figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
        for chosen, colour, label in ((values[right], RIGHT, "right"), (values[~right], WRONG, "wrong")):
            axes.hist(np.clip(chosen, lowest, 1.0), bins, color=colour, alpha=0.6, label=f"{len(chosen)} {label}")
        axes.axvline(cut, color=MUTED, label="threshold")
        axes.set(xlabel="cosine of the answer with the right answer", ylabel="answers", xlim=(lowest, 1.01))
        axes.set_title(model)
        axes.legend(loc="upper left")
        return figure

    def redraw(model: str, cut: float) -> Drawn:
        values, correct = models[model]
        accepted, refused = mistakes(values, correct, cut)
        right = int(np.sum(correct))
        caption = (
            f"{model}, threshold {cut:.3f}: {accepted} of {len(correct) - right} wrong answers are taken for right"
        )
        return draw(model, cut), f"{caption}, {refused} of {right} right ones for wrong."

    cut = (ui.FloatSlider, {"value": 0.8, "min": lowest, "max": 1.0, "step": 0.005, "readout_format": ".3f"})
    return _redrawn(redraw, {"model": (ui.Dropdown, {"options": list(models)}), "threshold": cut})


def _redrawn(draw: Callable[..., Drawn], controls: Mapping[str, tuple[Any, dict[str, Any]]]) -> Shown:
    """A picture and a line of text that follow the controls, given as classes of widgets and their arguments."""
    begin = [given.get("value", given.get("options", [None])[0]) for _, given in controls.values()]
    figure, words = draw(*begin)
    picture = to_png(figure)
    if HEADLESS in os.environ:
        return Shown(None, words, picture)
    wide = {"style": {"description_width": "120px"}, "layout": {"width": "480px"}}
    moved = [kind(**given, **wide, description=name) for name, (kind, given) in controls.items()]
    image = ui.Image(value=picture, format="png", layout={"width": f"{WIDTH}px", "height": "auto"})
    line = ui.HTML(escape(words))

    def redraw(_: Any) -> None:
        figure, caption = draw(*(control.value for control in moved))
        image.value, line.value = to_png(figure), escape(caption)

    for control in moved:
        control.observe(redraw, "value")
    return Shown(ui.VBox([*moved, line, image]), words, picture)
