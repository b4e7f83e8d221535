"""Each patient's own gradient, from one pass over the patients of a part, in which nobody's numbers touch another's.

In floating point a sum depends on its order, and libraries choose the order by the shape of what they are given. A
patient's gradient has to be the same to the last bit whoever else was drawn. So every computation here has a shape that
does not depend on the others:

- The records of a part lie one behind another, without padding. Linear layers multiply `BLOCK` tokens at a time; the
  last block is filled up with padding tokens.
- Attention is computed for `GROUP` records of one padded length at a time; the gradient of the adapter's matrices
  patient by patient, over that patient's own tokens. That is the sum over the patient's records, which clipping needs.
- Whatever works number by number or token by token (norms, activations) is split between threads at whole blocks.

`helpers.privacy.self_checks.check_batch_composition` measures on the machine that trains whether this holds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from helpers.errors import PrivacyError
from helpers.privacy.layout import ATTENTION, BLOCK, PARTS, Part, lay_out
from helpers.privacy.units import Unit


class PatientGradients:
    """Computes losses and gradients patient by patient; between its calls the model is as it was.

    `model` is a PEFT model with one LoRA adapter, its base frozen; `dtype` the number format of all products, while
    gradients of the adapter's matrices are summed in fp32. Raises PrivacyError if patients cannot be kept apart.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.adapters = adapters_of(model)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        starts = torch.tensor([0, *(weight.numel() for weight in self.weights)]).cumsum(0).tolist()
        self.starts = {id(weight): start for weight, start in zip(self.weights, starts, strict=False)}
        self.numbers: int = starts[-1]
        self._kept = self._rows = torch.empty(0, self.numbers)
        self._missing: set[int] = set()

    def gradients(self, units: Sequence[Unit]) -> torch.Tensor:
        """The gradient of each patient's loss: fp32 `(patients, numbers)`, in the order of the trained weights.

        The memory is used again by the next call.
        """
        if len(self._kept) < len(units):  # kept: to get so much memory anew takes a quarter of a second
            self._kept = self._rows = torch.empty(0)
            self._kept = torch.empty(len(units), self.numbers, device=self.model.device)
        self._rows = self._kept[: len(units)]
        if units:
            self._missing = set(self.starts)
            part = lay_out(units, self.model.device)
            with self._patched(part):
                (self._nats(part) * part.weights).sum().backward()
            if self._missing:
                raise PrivacyError(
                    f"No gradient reached {len(self._missing)} matrices, so that they cannot be clipped."
                )
        return self._rows

    def losses(self, units: Sequence[Unit]) -> torch.Tensor:
        """Each patient's loss, the sum over records of their mean negative log-likelihood: nats, fp32 `(patients,)`."""
        part = lay_out(units, self.model.device)
        with torch.no_grad(), self._patched(part):
            nats = (self._nats(part) * part.weights).cpu()
        owners = [number for number, unit in enumerate(units) for row, begin in unit.distinct for _ in row[begin:]]
        return torch.zeros(len(units)).index_add(0, torch.tensor(owners, dtype=torch.long), nats)

    def _nats(self, part: Part) -> torch.Tensor:
        """Negative log-likelihood of every learnt token: fp32 `(learnt,)`."""
        logits = self.model(input_ids=part.ids, position_ids=part.positions, use_cache=False).logits[0]
        return cross_entropy(logits[: len(part.targets)].float(), part.targets, reduction="none")

    @contextmanager
    def _patched(self, part: Part) -> Iterator[None]:
        """Within this block every linear layer and every attention of the model computes as the module says."""
        output = self.model.get_output_embeddings()
        layers: dict[Any, Any] = {
            module: partial(self._linear, part, module) for module in linear_layers(self.model) if module is not output
        }
        layers[output] = lambda states: self._linear(part, output, states[:, part.learnt])
        before = self.model.config.get_text_config()._attn_implementation
        self.model.get_base_model().set_attn_implementation(ATTENTION)
        PARTS.append(part)
        try:
            for module, forward in layers.items():
                module.forward = forward
            yield
        finally:
            for module in layers:
                del module.forward  # the class's own method shows again
            PARTS.pop()
            self.model.get_base_model().set_attn_implementation(before)

    def rows_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """Where the patients' gradients of a trained matrix belong: `(patients, *shape)`."""
        start = self.starts[id(matrix)]
        self._missing.discard(id(matrix))
        return self._rows[:, start : start + matrix.numel()].unflatten(1, matrix.shape)

    def _linear(self, part: Part, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return _Linear.apply(inputs, *self.adapters.get(module, (None, None)), module, part, self)


class _Linear(torch.autograd.Function):  # type: ignore[misc]
    """A frozen linear layer and its adapter, block by block; backward fills in each patient's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        first: torch.Tensor | None,
        second: torch.Tensor | None,
        module: Any,
        part: Part,
        owner: PatientGradients,
    ) -> torch.Tensor:
        tokens = inputs.flatten(0, -2).to(owner.dtype)
        if len(tokens) % BLOCK:
            raise PrivacyError(
                f"A layer received a tensor of shape {tuple(inputs.shape)}: this model does not keep all tokens in "
                "one sequence, so patients' gradients cannot be separated."
            )
        frozen = getattr(module, "base_layer", module)
        weight, bias = dense(frozen, owner.dtype), frozen.bias
        outputs = tokens.new_empty(len(tokens), len(weight))
        inner = tokens.new_empty(len(tokens), 0 if first is None else len(first))
        down, up = (None if matrix is None else matrix.t().to(owner.dtype) for matrix in (first, second))
        for block in blocks(len(tokens)):
            torch.mm(tokens[block], weight.t(), out=outputs[block])
            if down is not None:
                torch.mm(tokens[block], down, out=inner[block]).mul_(scaling_of(module))
                outputs[block].addmm_(inner[block], up)
        if bias is not None:
            outputs += bias
        ctx.save_for_backward(tokens, inner, first, second)
        ctx.frozen, ctx.module, ctx.part, ctx.owner, ctx.shape = frozen, module, part, owner, inputs.shape
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, inner, first, second = ctx.saved_tensors
        dtype = ctx.owner.dtype
        grads = outer[0].flatten(0, -2).to(dtype)
        weight = dense(ctx.frozen, dtype)
        back = tokens.new_empty(tokens.shape) if ctx.needs_input_grad[0] else None
        between = torch.empty_like(inner)
        down, up = (None if matrix is None else matrix.to(dtype) for matrix in (first, second))
        for block in blocks(len(tokens)):
            if back is not None:
                torch.mm(grads[block], weight, out=back[block])
            if up is not None:
                torch.mm(grads[block], up, out=between[block]).mul_(scaling_of(ctx.module))
                if back is not None:
                    back[block].addmm_(between[block], down)
        if first is not None:
            for matrix, left, right in ((first, between, tokens), (second, grads, inner)):
                sizes = ctx.part.tokens
                ones = left[: sum(sizes)].float().t().split(sizes, dim=1)
                others = right[: sum(sizes)].float().split(sizes)
                for patient, one, other in zip(ctx.owner.rows_of(matrix), ones, others, strict=True):
                    torch.mm(one, other, out=patient)
        return (None if back is None else back.view(ctx.shape), None, None, None, None, None)


def blocks(tokens: int) -> Iterator[slice]:
    """Slices of `BLOCK` tokens."""
    return (slice(start, start + BLOCK) for start in range(0, tokens, BLOCK))


def dense(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The frozen weights of a linear layer, dequantised: `(out, in)`."""
    weight = layer.weight
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(dtype)
    return (weight.t() if isinstance(layer, Conv1D) else weight).to(dtype)


def scaling_of(module: Any) -> float:
    """What the adapter's output is multiplied by: alpha over rank, or over its root."""
    return float(module.scaling[module.active_adapters[0]])


def linear_layers(model: nn.Module) -> list[nn.Module]:
    """The layers to be computed block by block: those with an adapter, and other linear ones outside of these."""
    inside = {id(part) for module in model.modules() if isinstance(module, LoraLayer) for part in module.modules()}
    return [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer) or (isinstance(module, nn.Linear | Conv1D) and id(module) not in inside)
    ]


def adapters_of(model: Any) -> dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """The two trained matrices of each layer with an adapter.

    Raises PrivacyError if anything else or nothing is trained, or the model has experts or convolutions.
    """
    found, trained = {}, set()
    for module in (each for each in model.modules() if isinstance(each, LoraLayer)):
        (name,) = module.active_adapters
        plain = isinstance(module.get_base_layer(), nn.Linear | Conv1D) and name not in module.lora_magnitude_vector
        if plain and name in module.lora_A:
            found[module] = module.lora_A[name].weight, module.lora_B[name].weight
            trained |= set(map(id, found[module]))
    others = [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in trained]
    if others or not found:
        raise PrivacyError(
            f"Private training trains LoRA matrices of linear layers and nothing else; found {len(found)} such layers "
            f"and, besides, {', '.join(others[:3]) or 'nothing'}. Attach the adapter first; set lora.target_modules to "
            "linear layers and leave bias and DoRA out."
        )
    mixing = [name for name, weight in model.named_parameters() if weight.dim() > 2]
    if mixing or getattr(model.get_output_embeddings(), "lora_A", None):
        raise PrivacyError(
            f"{', '.join(mixing[:2]) or 'An adapter on the output layer'} would be computed for the tokens of several "
            "patients together (experts, convolutions), so that one's gradient depended on the others. Choose "
            "another base model, or other lora.target_modules."
        )
    return found
