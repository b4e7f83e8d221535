"""Helper library of the course. Importing it loads nothing heavy."""

import logging
import sys
import warnings
from typing import Any

from helpers.config import Config, load_config
from helpers.errors import HelpersError
from helpers.run import Run, open_private_run, open_run

__all__ = ["Config", "HelpersError", "Run", "load_config", "open_private_run", "open_run"]

# They speak of packages that the course does not need, and of names inside the libraries, in every notebook.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
logging.getLogger("sentence_transformers.base.model").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="IProgress not found")
warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)


def _message_alone(shell: Any, kind: type[BaseException], error: BaseException, *_: Any, **__: Any) -> list[str]:
    """Show one of the course's own errors as a command does: what to do next, without the lines that led there."""
    shown = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, shown)
    return shown


if (ipython := sys.modules.get("IPython")) and (notebook := ipython.get_ipython()):
    notebook.set_custom_exc((HelpersError,), _message_alone)
