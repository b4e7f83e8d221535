"""Progress bars: widgets in a notebook that somebody looks at, lines of text elsewhere."""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm as widget
from tqdm.std import tqdm as text_bar

__all__ = ["HEADLESS", "say_once", "tqdm"]

HEADLESS = "COURSE_HEADLESS"
"""Environment variable that the command line sets for the notebooks that it executes: their bars go to the terminal."""

if TYPE_CHECKING:
    from tqdm.std import tqdm
elif HEADLESS in os.environ or not any(base.__module__ == "tqdm.notebook" for base in widget.__mro__):
    tqdm = text_bar
else:
    from IPython.display import Pretty, display

    class tqdm(widget):
        """A bar that ends as a line of text: a widget is gone when its notebook is opened again, a line is not."""

        shown = None

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "display": False})
            if not (self.disable or self.delay):
                self.display()

        def display(self, *args: Any, check_delay: bool = True, **options: Any) -> None:  # noqa: D102 -- as in tqdm
            if check_delay and not self.shown:
                self.shown, self.displayed = display(self.container, display_id=True), True
            super().display(*args, check_delay=check_delay, **options)

        def close(self) -> None:  # noqa: D102 -- as in tqdm
            if self.disable:  # closed before, or never shown
                return
            super().close()
            if self.shown:
                stays = self.leave or (self.total and self.n < self.total)  # stopped in the midst, it stays anyway
                self.shown.update(Pretty(str(self) if stays else ""))
            self.container.close()


@cache
def say_once(line: str) -> None:
    """Print a line, unless this process has printed it before."""
    print(line)
