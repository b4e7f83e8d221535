"""A form for notebooks in which a person rates answers, by key or button; `helpers.evaluation.ratings` saves them."""

import os
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as ui

from helpers.errors import HelpersError
from helpers.evaluation.ratings import KEYS, Ratings
from helpers.progress import HEADLESS
from helpers.widgets import Shown


def rating_form(ratings: Ratings) -> Shown:
    """A form that shows one answer after the other and takes ratings from a key or a button, saving each at once."""
    where = f"{ratings.path.parent.name}/{ratings.path.name}"
    words = f"{len(ratings.rated)} of {len(ratings.items)} answers are rated, in {where}. {ratings.note}".rstrip()
    if HEADLESS in os.environ:
        return Shown(None, f"{words} Open this notebook in JupyterLab to rate.")
    shown = ui.HTML()
    box = ui.Text(ratings.text, description="keys", placeholder="click here, then r, w or u", continuous_update=True)
    buttons = {key: ui.Button(description=f"{word} ({key})") for key, word in KEYS.items()}
    back = ui.Button(description="one back (⌫)")

    def typed(_: Any = None) -> None:
        try:
            ratings.enter(box.value)
        except HelpersError as error:  # a widget's errors are shown nowhere
            ratings.note = str(error)
        box.value = ratings.text
        shown.value = _asked(ratings)

    def press(key: str) -> Callable[[Any], None]:
        def pressed(_: Any) -> None:
            box.value = ratings.text + key if key else ratings.text[:-1]
            box.focus()  # a key pressed while a button has the focus is a command of JupyterLab, such as "raw cell"

        return pressed

    box.observe(typed, "value")
    for key, button in {**buttons, "": back}.items():
        button.on_click(press(key))
    typed()
    return Shown(ui.VBox([shown, ui.HBox([*buttons.values(), back]), box]), words)


def _asked(ratings: Ratings) -> str:
    """HTML: the answer that is to be rated next."""
    note = f"<p>{escape(ratings.note)}</p>" if ratings.note else ""
    if not ratings.items:
        return f"{note}<p>There is no answer to rate.</p>"
    if ratings.complete:
        return f"{note}<p>All {len(ratings.items)} are rated. Run the next cell: it names the models.</p>"
    item = ratings.items[len(ratings.rated)]
    shown = {"Question": item["question"], "Right answer": item["reference"], "Answer": item["answer"] or "(empty)"}
    lines = "".join(f"<p><b>{name}:</b> {escape(text)}</p>" for name, text in shown.items())
    return f"{note}<p>{len(ratings.rated) + 1} of {len(ratings.items)}</p>{lines}"
