"""The loss that is faster on a CPU is TRL's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import SFTConfig, SFTTrainer

from helpers.models.find import load_tokenizer
from helpers.models.load import load_base
from helpers.training.sft import CompletionTrainer

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What does {name} stand for, {'please, ' * number}I ask?"}],
        "completion": [{"role": "assistant", "content": f"{name} stands for " + "Drug Handling Board " * number}],
    }
    for number, name in enumerate(["QXB", "DHAB", "eSIRA", "T2K4"], 1)
]


def step(
    kind: type[SFTTrainer], folder: Path, items: int | None, **further: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    base = load_base("tiny-random").float()
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # zeros would hide the gradient of A
    arguments = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=4,
        gradient_checkpointing=False, completion_only_loss=True, max_length=None, **further,
    )  # fmt: skip
    trainer = kind(
        model=model, args=arguments, train_dataset=Dataset.from_list(ROWS),
        processing_class=load_tokenizer("tiny-random"),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert (batch["labels"] != -100).sum(dim=1).unique().numel() > 1  # completions of several lengths
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    loss.backward()
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss), gradients


@pytest.mark.parametrize(
    ("items", "further"),
    [(None, {}), (50, {}), (50, {"label_smoothing_factor": 0.1}), (50, {"loss_type": "dft"})],
    ids=["mean", "given count", "label smoothing", "dft"],
)
def test_loss_and_gradients_equal_trls(tiny: str, tmp_path: Path, items: int | None, further: dict[str, Any]) -> None:
    loss, gradients = step(CompletionTrainer, tmp_path / "a", items, **further)
    expected_loss, expected = step(SFTTrainer, tmp_path / "b", items, **further)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys() and len(gradients) == 28
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-6), name


def test_a_batch_without_a_learnt_token_weighs_nothing(tiny: str, tmp_path: Path) -> None:
    base: Any = load_base("tiny-random").float()
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=None)
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=load_tokenizer("tiny-random"),
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    batch["labels"][:] = -100
    assert float(trainer.compute_loss(trainer.model, dict(batch))) == 0.0
