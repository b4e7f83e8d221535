"""Helper library of the course. Importing it loads nothing heavy."""

import logging
import warnings

from helpers.config import Config, load_config
from helpers.errors import HelpersError
from helpers.run import Run, open_private_run, open_run

__all__ = ["Config", "HelpersError", "Run", "load_config", "open_private_run", "open_run"]

# They speak of packages that the course does not need, and of names inside the libraries, in every notebook.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="IProgress not found")
warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
