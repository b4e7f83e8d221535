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
from helpers.models.losses import IGNORED
from helpers.models.tokens import tokenise
from helpers.training.preflight import audit

EXAMPLES = [Example(f"r{n}", "any", asked(f"What does X{n} mean?"), f"X{n} stands for Board {n}.") for n in range(4)]


@pytest.fixture
def tokenizer(tiny: str) -> PreTrainedTokenizerBase:
    return load_tokenizer("tiny-random")


def make(
    tokenizer: PreTrainedTokenizerBase, folder: Any, quantisation: str = "none", rows: Dataset | None = None
) -> SFTTrainer:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_base("tiny-random", quantisation=quantisation), lora)
    config = SFTConfig(
        output_dir=str(folder), max_length=None, gradient_checkpointing=False, use_cpu=True, bf16=True, report_to="none"
    )  # fmt: skip
    learnt = tokenise(EXAMPLES, tokenizer) if rows is None else rows
    return SFTTrainer(model=model, args=config, train_dataset=learnt, processing_class=tokenizer)


def checked(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, rows: Dataset | None = None) -> dict[str, Any]:
    learnt = tokenise(EXAMPLES, tokenizer) if rows is None else rows
    return audit(trainer, EXAMPLES, learnt, 99)


def test_a_sound_trainer_passes(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    found = checked(make(tokenizer, tmp_path), tokenizer)
    assert found["adapter_tensors"] == found["gradient_tensors"] == 28
    assert 0 < found["learnt_tokens"] < found["masked_tokens"] + found["learnt_tokens"]


def test_a_prompt_in_the_loss_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    rows = tokenise(EXAMPLES, tokenizer)
    rows = rows.remove_columns("labels").add_column("labels", list(rows["input_ids"]))
    with pytest.raises(TrainingError, match="question itself would be learnt"):
        checked(make(tokenizer, tmp_path, rows=rows), tokenizer, rows)


def test_a_template_that_does_not_end_answers_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    tokenizer.chat_template = PLAIN_CHATML.replace("<|im_end|>", "")
    with pytest.raises(TrainingError, match="stop token is not learnt"):
        checked(make(tokenizer, tmp_path), tokenizer)


def test_an_example_that_the_trainer_leaves_out_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    with pytest.raises(TrainingError, match=r"learns \d+ tokens, the dataset holds"):
        checked(make(tokenizer, tmp_path, rows=tokenise(EXAMPLES[1:], tokenizer)), tokenizer)


def test_a_masked_stop_token_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    collate = trainer.data_collator

    def mask_pads(rows: Any) -> Any:  # what masking every pad token does where pad and stop token are the same
        batch = collate(rows)
        batch["labels"][batch["labels"] == tokenizer.pad_token_id] = IGNORED
        return batch

    trainer.data_collator = mask_pads
    with pytest.raises(TrainingError, match="pad token where it is also the stop token"):
        checked(trainer, tokenizer)


def test_another_template_in_asking_is_caught(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{% if add_generation_prompt %}Be kind. {% endif %}" + PLAIN_CHATML
    with pytest.raises(TrainingError, match="tokens differ"):
        tokenise(EXAMPLES, tokenizer)


def test_a_frozen_adapter_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    for parameter in trainer.model.parameters():
        parameter.requires_grad = False
    with pytest.raises(TrainingError, match="trainable"):
        checked(trainer, tokenizer)


def test_a_layer_cut_off_from_the_loss_is_caught(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    trainer = make(tokenizer, tmp_path)
    layer = trainer.model.get_base_model().model.layers[1].mlp
    forward = layer.forward

    def detached(hidden: torch.Tensor) -> torch.Tensor:  # what bitsandbytes' packed layers do
        result: torch.Tensor = forward(hidden).detach()
        return result

    layer.forward = detached
    with pytest.raises(TrainingError, match="No gradient flows"):
        checked(trainer, tokenizer)
