"""Load and quantise base models, and put adapters on them."""

import re
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from helpers.config import Quantisation
from helpers.errors import ModelError
from helpers.files import read_json, write_json
from helpers.models.find import fetch, resolve_model
from helpers.models.precision import best_device, compute_dtype


def load_base(
    name: str,
    *,
    quantisation: Quantisation = "none",
    threads: int | None = None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Load a base model: an embedded one, a folder's or a hub id's.

    Args:
        name: as in `resolve_model`.
        quantisation: `none`, `nf4` (arXiv:2305.14314), `int8`, or arguments of transformers' BitsAndBytesConfig.
        threads: CPU threads for torch; None leaves torch's own choice.
        dtype: number format of weights and products; None takes that of `compute_dtype`.

    Raises:
        ModelError: the model cannot be found, is gated, or does not fit.
    """
    if threads:
        torch.set_num_threads(threads)
    device = best_device()
    dtype = dtype or compute_dtype(device)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if quantisation != "none":
        options["quantization_config"] = _quantised(quantisation, dtype)
    model: PreTrainedModel = fetch(lambda: AutoModelForCausalLM.from_pretrained(resolve_model(name), **options), name)
    # On CPUs with AVX512-BF16, bitsandbytes 0.50 packs 4-bit layers in the first forward without gradients (an
    # evaluation, a generate). Afterwards no gradient passes through them; there is only a warning.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # If the input is not contiguous, torch copies a frozen output layer once for each row: 5 GB for 96 rows of
    # SmolLM2-135M. The last positions, sliced out for the first new token, are such an input; this copies them instead.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")  # torch's fused attention is the slower one on short texts
    own = model.generation_config  # sampling, penalties and a cache switched off would stay in force in greedy answers
    kept = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**kept, do_sample=False, use_cache=True)
    model.config.use_cache = True
    return model.eval()


def _quantised(quantisation: Quantisation, dtype: torch.dtype) -> BitsAndBytesConfig:
    named: dict[str, dict[str, Any]] = {
        "int8": {"load_in_8bit": True},
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    }
    arguments = quantisation if isinstance(quantisation, dict) else named[quantisation]
    known = {*signature(BitsAndBytesConfig).parameters}
    if unknown := sorted(arguments.keys() - known):
        raise ModelError(f"training.adapters: BitsAndBytesConfig has no {', '.join(unknown)}.")
    if not (arguments.get("load_in_4bit") or arguments.get("load_in_8bit")):
        raise ModelError(f"training.adapters: {quantisation} stores in neither 4 nor 8 bits. Add load_in_4bit: true.")
    if (form := arguments.get("bnb_4bit_quant_type", "nf4")) not in ("nf4", "fp4"):
        raise ModelError(f"training.adapters: bnb_4bit_quant_type is {form!r}; expected nf4 or fp4.")
    try:
        return BitsAndBytesConfig(**{"bnb_4bit_compute_dtype": dtype, **arguments})
    except (TypeError, ValueError) as error:
        raise ModelError(f"training.adapters: {quantisation} is no BitsAndBytesConfig ({error}).") from None


def add_adapter(base: PreTrainedModel, lora: LoraConfig, base_name: str) -> PeftModel:
    """Put a new adapter on a base, to be trained. Raises ModelError where the base lacks a layer for it."""
    try:
        model = get_peft_model(base, lora)
    except (ValueError, NotImplementedError, re.error) as error:
        raise ModelError(f"{base_name} has no layers to adapt as asked: {str(error).splitlines()[0]}") from None
    adapted = [f".{name}" for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    wanted = lora.target_modules if isinstance(lora.target_modules, list | set) else []  # PEFT needs one of them only
    missing = sorted(name for name in wanted if not any(layer.endswith(f".{name}") for layer in adapted))
    if missing:
        raise ModelError(
            f"lora.target_modules names {', '.join(missing)}, which {base_name} has not. Use all-linear, or ends of "
            "its layers' names, such as q_proj."
        )
    return model


def attach_adapters(base: PreTrainedModel, folders: dict[str, Path], base_name: str) -> PeftModel:
    """Put saved adapters on one base; choose between them with `set_adapter` and `disable_adapter`.

    Raises:
        ModelError: a folder holds no adapter, or one that was trained on another base.
    """
    model: Any = None
    for name, folder in folders.items():
        if not all((folder / file).exists() for file in ("adapter_config.json", "adapter_model.safetensors")):
            raise ModelError(f"{folder} holds no adapter. Train it with 02-fine_tune/02-train_adapters.ipynb.")
        trained_on = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        if trained_on != base_name:
            raise ModelError(
                f"The adapter {folder} was trained on {trained_on}, not on {base_name}. "
                "Set base_model to that name, or train the adapter again."
            )
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
            else:
                model.load_adapter(str(folder), adapter_name=name)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"The adapter {folder} does not fit {base_name}: {str(error).splitlines()[0]}") from None
    return model.eval()


def save_adapter(folder: Path, model: PeftModel, tokenizer: PreTrainedTokenizerBase, base_name: str) -> None:
    """Save an adapter with its tokenizer and the name of its base, as `attach_adapters` reads them."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    # Neither this machine's folder nor a cache path belongs into a file that travels.
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": base_name})
    (folder / "README.md").unlink(missing_ok=True)
