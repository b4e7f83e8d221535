"""Progress bars: widgets in a notebook that somebody looks at, lines of text elsewhere."""

import os

from tqdm.auto import tqdm as widget
from tqdm.std import tqdm as line

HEADLESS = "COURSE_HEADLESS"
"""Environment variable that the command line sets for the notebooks that it executes: their bars go to the terminal."""

tqdm: type[line] = line if HEADLESS in os.environ else widget
