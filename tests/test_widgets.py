import errno
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import ipywidgets as ui
import numpy as np
import pytest
import torch

from helpers import widgets
from helpers.evaluation.ratings import Ratings
from helpers.privacy.accounting import plan
from helpers.progress import HEADLESS
from helpers.rating_form import rating_form

VIEW = "application/vnd.jupyter.widget-view+json"
COSINES = {"one": ([0.5, 0.75, 0.9], [False, True, True]), "none": ([], [])}


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)


def parts(widget: Any, kind: type) -> list[Any]:
    """The widgets of a kind inside of another, from top to bottom."""
    inner = [part for child in getattr(widget, "children", ()) for part in parts(child, kind)]
    return [widget, *inner] if isinstance(widget, kind) else inner


def bundle(shown: widgets.Shown) -> dict[str, Any]:
    return shown._repr_mimebundle_(include=None, exclude=None)[0]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.3, 0.9), (2.0, 0.5), (1.0, 0.05)])
def test_temperature_and_top_p_are_those_of_transformers(temperature: float, top_p: float) -> None:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    theirs = TemperatureLogitsWarper(temperature)(None, logits.clone())
    theirs = theirs if top_p == 1.0 else TopPLogitsWarper(top_p)(None, theirs)
    np.testing.assert_allclose(widgets.reshaped(logits[0], temperature, top_p), theirs.softmax(dim=-1)[0], atol=1e-12)


def test_sliders_over_the_next_token_redraw() -> None:
    shown = widgets.next_token_sliders(torch.tensor([3.0, 2.0, 1.0, 0.0]), lambda token: "$x$"[: token + 1], shown=3)
    assert "draw from: 4;" in shown.words and shown.picture.startswith(b"\x89PNG")
    temperature, top_p = parts(shown.widget, ui.FloatSlider)
    [image], [line] = parts(shown.widget, ui.Image), parts(shown.widget, ui.HTML)
    top_p.value = 0.6
    assert "draw from: 1;" in line.value and "probability of 1." in line.value and image.value != shown.picture
    before, temperature.value = image.value, 2.0
    assert "Temperature 2.0" in line.value and "draw from: 2;" in line.value and image.value != before


def test_the_accountant_gives_epsilon_for_each_noise_and_refuses_what_guarantees_nothing() -> None:
    cost = plan(250, 6, 0.16, target_epsilon=8.0)
    found = widgets.around(cost, (0.01, 1.0, 2.0, 2.0))
    assert [*found] == [cost.noise_multiplier, 2 * cost.noise_multiplier]
    assert found[cost.noise_multiplier] == cost.epsilon > 2 * found[2 * cost.noise_multiplier]
    shown = widgets.noise_slider(found, cost.noise_multiplier, 10.0)
    [slider], [line] = parts(shown.widget, ui.SelectionSlider), parts(shown.widget, ui.HTML)
    assert f"ε = {cost.epsilon:.2f}" in shown.words and f"{10 * cost.noise_multiplier:.3g} times" in shown.words
    slider.index = 1
    assert f"ε = {min(found.values()):.2f}" in line.value


def test_a_threshold_makes_two_kinds_of_mistakes() -> None:
    assert widgets.mistakes([0.2, 0.8, 0.5], [True, False, True], 0.5) == (1, 1)
    assert widgets.mistakes([0.5], [True], 0.5) == (0, 0)  # who reaches it is accepted
    assert widgets.mistakes([], [], 0.5) == (0, 0)
    shown = widgets.threshold_slider(COSINES)
    assert "0 of 1 wrong answers are taken for right, 1 of 2 right ones for wrong" in shown.words
    [model], [cut] = parts(shown.widget, ui.Dropdown), parts(shown.widget, ui.FloatSlider)
    [line] = parts(shown.widget, ui.HTML)
    cut.value = 0.4
    assert "1 of 1 wrong answers are taken for right, 0 of 2 right ones" in line.value
    model.value = "none"
    assert "0 of 0 wrong answers" in line.value


def form(path: Path) -> tuple[Ratings, widgets.Shown]:
    given = [{"id": t, "question": "<b>?</b>", "reference": "R", "answer": t, "judged": False} for t in ("", "a", "b")]
    ratings = Ratings(path / "ratings.jsonl", given)
    return ratings, rating_form(ratings)


def test_keys_and_buttons_rate_and_the_form_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ratings, shown = form(tmp_path)
    [told], [box] = parts(shown.widget, ui.HTML), parts(shown.widget, ui.Text)
    assert "1 of 3" in told.value and "&lt;b&gt;" in told.value
    box.value = "rx"
    assert (box.value, ratings.text) == ("r", "r") and "2 of 3" in told.value
    right, wrong, unsure, back = parts(shown.widget, ui.Button)
    wrong.click()
    back.click()
    unsure.click()
    assert (box.value, ratings.text) == ("ru", "ru")
    box.value = ""  # all marked and deleted
    assert (box.value, ratings.text) == ("ru", "ru")
    again, resumed = form(tmp_path)
    assert again.text == "ru" and "2 of 3 answers are rated" in resumed.words
    assert "3 of 3" in parts(resumed.widget, ui.HTML)[0].value
    parts(resumed.widget, ui.Button)[0].click()
    assert again.complete and "names the models" in parts(resumed.widget, ui.HTML)[0].value
    right.click()  # in the older form, which has not heard of it
    assert ratings.text == box.value == "ru" and "Run this cell again" in told.value
    assert form(tmp_path)[0].text == "rur"


def test_a_rating_that_cannot_be_saved_is_told_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings, shown = form(tmp_path)
    [told], [box] = parts(shown.widget, ui.HTML), parts(shown.widget, ui.Text)
    monkeypatch.setattr("tempfile.mkstemp", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    box.value = "r"
    assert (box.value, ratings.text) == ("", "") and "The disk is full" in told.value


def test_a_form_without_answers_says_so(tmp_path: Path) -> None:
    shown = rating_form(Ratings(tmp_path / "ratings.jsonl", []))
    assert "no answer to rate" in parts(shown.widget, ui.HTML)[0].value


def test_without_a_front_end_there_is_a_picture_or_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = widgets.threshold_slider(COSINES)
    assert {*bundle(shown)} == {VIEW, "image/png", "text/plain"}
    monkeypatch.setenv(HEADLESS, "1")
    logits = torch.zeros(4)
    for still in (
        widgets.threshold_slider(COSINES),
        widgets.next_token_sliders(logits, str),
        widgets.noise_slider({1.0: 3.0}, 1.0, 2.0),
    ):
        assert still.widget is None and {*bundle(still)} == {"image/png", "text/plain"}
    _, shown = form(tmp_path)
    assert shown.widget is None and {*bundle(shown)} == {"text/plain"}
    assert shown.words.startswith("0 of 3 answers are rated, in ") and "JupyterLab" in shown.words
