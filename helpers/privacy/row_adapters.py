"""A gradient for every row of a batch, from one ordinary backward pass.

Rows of a batch share an adapter's matrices, so that autograd adds their gradients up. Here every row reads a
copy of its own, which is a view and takes no memory, and autograd keeps them apart. Nothing else in the model
changes: padding, autocast and gradient checkpointing work as without it. Opacus reaches the same numbers with
hooks; `tests/privacy/test_row_adapters.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from helpers.errors import PrivacyError


def adapter_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers whose weights are trained, by name.

    Raises:
        PrivacyError: something is trained whose gradient cannot be told apart by row, or nothing is.
    """
    layers: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        trained = [key for key, weight in module.named_parameters(recurse=False) if weight.requires_grad]
        if not trained:
            continue
        if type(module) is not nn.Linear or trained != ["weight"]:
            raise PrivacyError(
                f"{name} trains {', '.join(trained)} of a {type(module).__name__}; only the weights of linear LoRA "
                "matrices can be clipped patient by patient. Set lora.target_modules to linear layers, bias to none."
            )
        layers[name] = module
    if not layers:
        raise PrivacyError("Nothing in the model is trainable: attach the adapter before private training begins.")
    if len({id(layer.weight) for layer in layers.values()}) < len(layers):
        raise PrivacyError("Two trained layers share one weight; their gradients cannot be clipped apart.")
    return layers


@contextmanager
def own_copies(layers: dict[str, nn.Linear], rows: int, dtype: torch.dtype) -> Iterator[None]:
    """Within this block a forward and backward pass of `rows` rows leaves each row's gradient at its weight.

    Afterwards `layer.weight.grad_sample` has the shape `(rows, *weight.shape)` that Opacus' optimizers read.
    `layer.weight.grad` is not touched.

    Args:
        layers: what `adapter_layers` returned.
        rows: rows of the batch, the first dimension of every layer's input; 0 leaves empty gradients.
        dtype: number format of the copies, their products and the gradients, as autocast would choose it.

    Raises:
        PrivacyError: a layer took no part in the backward pass, so its rows have no gradient.
    """
    copies: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        copies[name] = layer.weight.detach().to(dtype).expand(rows, *layer.weight.shape).requires_grad_()
        layer.forward = partial(_rowwise, copies[name])
    try:
        yield
        for name, layer in layers.items():
            gradient = copies[name].grad
            if gradient is None and rows:
                raise PrivacyError(f"No gradient reached {name}, so that it cannot be clipped. Nothing was trained.")
            layer.weight.grad_sample = layer.weight.new_zeros(0, *layer.weight.shape) if gradient is None else gradient
    finally:
        for layer in layers.values():
            del layer.forward  # the class's own method shows again


def _rowwise(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Multiply each row of `inputs`, (rows, tokens, in), with its own matrix of `weights`, (rows, out, in)."""
    if inputs.dim() != 3 or len(inputs) != len(weights):
        raise PrivacyError(
            f"A layer received a tensor of shape {tuple(inputs.shape)} in a batch of {len(weights)} rows: rows are "
            "mixed inside this model, so that no patient's share can be told apart."
        )
    return torch.bmm(inputs.to(weights.dtype), weights.transpose(1, 2))
