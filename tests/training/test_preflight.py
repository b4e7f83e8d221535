from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from helpers.data.example import Example, asked
from helpers.errors import TrainingError
from helpers.models.find import PLAIN_CHATML, load_tokenizer
from helpers.models.load import load_base
from helpers.training.preflight import IGNORED, audit

EXAMPLES = [Example(f"r{n}", "any", asked(f"What does X{n} mean?"), f"X{n} stands for Board {n}.") for n in range(4)]


@pytest.fixture
def tokenizer(tiny: str) -> PreTrainedTokenizerBase:
    return load_tokenizer("tiny-random")


def make(tokenizer: PreTrainedTokenizerBase, folder: Any, quantisation: str = "none", **arguments: Any) -> SFTTrainer:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_base("tiny-random", quantisation=quantisation), lora)
    settings = {"completion_only_loss": True, "use_cpu": True, "bf16": True, "report_to": "none"} | arguments
    rows = Dataset.from_list([{key: e.row()[key] for key in ("prompt", "completion")} for e in EXAMPLES])
    config = SFTConfig(output_dir=str(folder), max_length=None, gradient_checkpointing=False, **settings)
    return SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)


def test_a_sound_trainer_passes(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    found = audit(make(tokenizer, tmp_path), tokenizer, EXAMPLES, max_length_tokens=99)
    assert found["adapter_tensors"] == found["gradient_tensors"] == 28
    assert 0 < found["learnt_tokens"] < found["masked_tokens"] + found["learnt_tokens"]


def test_a_prompt_in_the_loss_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    with pytest.raises(TrainingError, match="question itself would be learnt"):
        audit(make(tokenizer, tmp_path, completion_only_loss=False), tokenizer, EXAMPLES, max_length_tokens=99)


def test_a_masked_stop_token_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    collate = trainer.data_collator

    def mask_pads(rows: Any) -> Any:  # what masking every pad token does where pad and stop token are the same
        batch = collate(rows)
        batch["labels"][batch["labels"] == tokenizer.pad_token_id] = IGNORED
        return batch

    trainer.data_collator = mask_pads
    with pytest.raises(TrainingError, match="stop token is not learnt"):
        audit(trainer, tokenizer, EXAMPLES, max_length_tokens=99)


def test_another_template_in_serving_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    serving = load_tokenizer("tiny-random")
    serving.chat_template = "<|im_start|>system\nBe kind.<|im_end|>\n" + PLAIN_CHATML
    with pytest.raises(TrainingError, match="tokens differ"):
        audit(trainer, serving, EXAMPLES, max_length_tokens=99)


def test_a_frozen_adapter_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    for parameter in trainer.model.parameters():
        parameter.requires_grad = False
    with pytest.raises(TrainingError, match="trainable"):
        audit(trainer, tokenizer, EXAMPLES, max_length_tokens=99)


def test_a_layer_cut_off_from_the_loss_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    layer = trainer.model.get_base_model().model.layers[1].mlp
    forward = layer.forward

    def detached(hidden: torch.Tensor) -> torch.Tensor:  # what bitsandbytes' packed layers do
        result: torch.Tensor = forward(hidden).detach()
        return result

    layer.forward = detached
    with pytest.raises(TrainingError, match="No gradient flows"):
        audit(trainer, tokenizer, EXAMPLES, max_length_tokens=99)
