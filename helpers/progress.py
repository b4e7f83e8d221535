"""Progress bars: widgets in a notebook that somebody looks at, lines of text elsewhere."""

import os
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm as widget
from tqdm.std import tqdm as line

__all__ = ["HEADLESS", "tqdm"]

HEADLESS = "COURSE_HEADLESS"
"""Environment variable that the command line sets for the notebooks that it executes: their bars go to the terminal."""

if TYPE_CHECKING:
    from tqdm.std import tqdm
elif HEADLESS in os.environ or not any(base.__module__ == "tqdm.notebook" for base in widget.__mro__):
    tqdm = line
else:
    from IPython.display import Pretty, display

    class tqdm(widget):
        """A bar that ends as a line of text: a widget is gone when its notebook is opened again, a line is not."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options, display=False)
            if not self.disable:
                self.shown = display(self.container, display_id=True)

        def close(self) -> None:  # noqa: D102 -- as in tqdm
            if self.disable:  # closed before, or never shown
                return
            super().close()
            self.shown.update(Pretty(str(self)))
            self.container.close()
