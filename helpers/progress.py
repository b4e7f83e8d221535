"""Progress bars: widgets in a notebook that somebody looks at, lines of text elsewhere."""

import os
from typing import TYPE_CHECKING

from tqdm.auto import tqdm as widget
from tqdm.std import tqdm as line

__all__ = ["HEADLESS", "tqdm"]

HEADLESS = "COURSE_HEADLESS"
"""Environment variable that the command line sets for the notebooks that it executes: their bars go to the terminal."""

if TYPE_CHECKING:
    from tqdm.std import tqdm
else:
    tqdm = line if HEADLESS in os.environ else widget
