"""Helper library of the course. Importing it loads nothing heavy."""

from helpers.config import Config, load_config
from helpers.errors import HelpersError
from helpers.run import Run, open_run

__all__ = ["Config", "HelpersError", "Run", "load_config", "open_run"]
