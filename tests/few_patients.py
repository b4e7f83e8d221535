"""The example's three holders with a fifth of their patients, whose records are joined in seconds."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from helpers.config import PROJECT_ROOT


@cache
def holders() -> Path:
    """The folder of 600 patients and the pipeline, made once for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="holders-"))
    atexit.register(shutil.rmtree, folder)
    example = PROJECT_ROOT / "example_data"
    shutil.copytree(example / "providers", folder, ignore=shutil.ignore_patterns("public"), dirs_exist_ok=True)
    made = [sys.executable, str(example / "make_providers.py"), "--patients", "600", "--folder", str(folder)]
    subprocess.run(made, check=True)
    return folder
