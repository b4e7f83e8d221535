"""The model of a private training: a frozen base, then its adapter; refused where patients could not be kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from helpers.errors import PrivacyError
from helpers.models import load_architecture, load_base
from helpers.privacy.patient_gradients import adapters_of

if TYPE_CHECKING:
    from helpers.privacy.training import Recipe


def check_model(base_name: str, *, target_modules: str | list[str], dropout: float, max_length_tokens: int) -> None:
    """Try whether a model can be trained privately, without its weights: before anything is paid for.

    Args:
        base_name: the frozen base; see `helpers.models.resolve_model`.
        target_modules: `all-linear` or names of layers.
        dropout: of the adapter's input.
        max_length_tokens: longest record.

    Raises:
        PrivacyError: values are dropped at random, positions depend on other records, or patients cannot be kept apart.
    """
    config = load_architecture(base_name)
    refuse_shared_positions(config, max_length_tokens)
    with torch.device("meta"):
        model = _with_adapter(AutoModelForCausalLM.from_config(config), target_modules, r=1, lora_dropout=dropout)
    refuse_dropout(model)
    adapters_of(model)


def adapted_model(recipe: Recipe, dtype: torch.dtype) -> Any:
    """Load the base and put a trainable adapter in fp32 on it.

    Base, then adapter, then optimizer: in any other order private training may train nothing (opacus #820).
    """
    base = load_base(recipe.base_name, quantisation=recipe.quantisation, threads=recipe.threads, dtype=dtype)
    shape = {"r": recipe.rank, "lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout}
    model = _with_adapter(base, recipe.target_modules, **shape).train()
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": True})
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model


def refuse_dropout(model: nn.Module) -> None:
    """Refuse a model that drops values at random, in its own layers or in the adapter's.

    Raises:
        PrivacyError: naming what does so.
    """
    on = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p}
    for name, share in model.config.to_dict().items():  # some models drop without a module of their own
        if "drop" in name and share and not name.startswith(("classifier_", "summary_")):
            on[name] = share
    if on:
        name, share = next(reversed(on.items()))
        raise PrivacyError(
            f"The model drops values at random, in {len(on)} place(s), for example {name} = {share}. The masks depend "
            "on who else was drawn, so that one patient would change every other's share. Set lora.dropout to 0, or "
            "the dropout in the base model's config.json."
        )


def refuse_shared_positions(config: PretrainedConfig, max_length_tokens: int) -> None:
    """Refuse rotary positions that the longest row of a batch decides for all rows (dynamic NTK, LongRoPE).

    Raises:
        PrivacyError: naming the kind, and the length up to which it is harmless.
    """
    config = config.get_text_config()  # of models that read pictures too
    rope = config.to_dict().get("rope_parameters") or {}
    for kind in [rope, *(value for value in rope.values() if isinstance(value, dict))]:  # some have one a layer type
        if kind.get("rope_type") not in ("dynamic", "longrope"):
            continue
        longest = kind.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None) or 0
        if max_length_tokens > longest:
            raise PrivacyError(
                f"The model's positions are of the kind {kind['rope_type']!r}: one record of more than {longest} "
                "tokens changes those of every patient in its batch. Received private.max_length_tokens = "
                f"{max_length_tokens}; set it to {longest} or less."
            )


def _with_adapter(base: Any, target_modules: str | list[str], **settings: Any) -> Any:
    if target_modules != "all-linear":
        target_modules = [target_modules] if isinstance(target_modules, str) else target_modules  # PEFT reads a pattern
        modules = [f".{name}" for name, _ in base.named_modules()]
        unknown = [name for name in target_modules if not any(module.endswith(f".{name}") for module in modules)]
        if unknown:
            ends = {module.rpartition(".")[2] for module in modules}
            raise PrivacyError(
                f"lora.target_modules names {', '.join(unknown)}, which this model has not. Use all-linear, or some of "
                f"{', '.join(sorted(end for end in ends if end.endswith('_proj')))}."
            )
    return get_peft_model(base, LoraConfig(target_modules=target_modules, task_type="CAUSAL_LM", **settings))
