import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.config import Config, Lora, Training, load_config
from helpers.data.example import Example, asked, write_examples
from helpers.errors import ModelError, TrainingError
from helpers.files import read_jsonl
from helpers.models import precision
from helpers.models.find import load_tokenizer
from helpers.models.load import attach_adapters, load_base
from helpers.training.sft import _last_checkpoint, train_adapter


def record(number: int, answer: str = "stands for Drug Handling Board.") -> Example:
    return Example(f"forward/X{number}/000", "any", asked(f"What does X{number} mean?"), f"X{number} {answer}")


SHAPE = Lora(rank=4, alpha=8, dropout=0.0, target_modules="all-linear")
SETTINGS = Training(
    adapters={}, epochs=2, learning_rate=1e-2, batch_size=4, max_length_tokens=64, evaluations=2, checkpoints=4
)


def config_of(settings: Training, **further: Any) -> Config:
    own = {"lora": SHAPE, "training": settings, "threads": None} | further
    return load_config("smoke", {"base_model": "tiny-random", "seed": 0}).model_copy(update=own)


def train(
    folder: Path,
    records: list[Example] | None = None,
    quantisation: str = "none",
    epochs: float = 2,
    watch: Callable[[list[Any]], None] | None = None,
    **further: Any,
) -> dict[str, Any]:
    settings = SETTINGS.model_copy(update={"epochs": epochs})
    return train_adapter(
        folder,
        config_of(settings, **further),
        quantisation,  # type: ignore[arg-type]
        train=[record(n) for n in range(16)] if records is None else records,
        validation=[record(90)],
        watch=watch,
    )


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_adapters_move_the_base_does_not_and_both_reload(tiny: str, tmp_path: Path, quantisation: str) -> None:
    before = {name: p.clone() for name, p in load_base("tiny-random", quantisation=quantisation).named_parameters()}
    summary = train(tmp_path / "a", quantisation=quantisation)
    assert summary["steps"] == 8
    assert summary["audit"]["adapter_tensors"] == summary["audit"]["gradient_tensors"] == 28
    saved = load_file(str(tmp_path / "a" / "adapter_model.safetensors"))
    assert len(saved) == 28
    assert all(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)  # B begins at zero
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    base = load_base("tiny-random", quantisation=quantisation)
    tuned = attach_adapters(base, {"a": tmp_path / "a"}, "tiny-random")
    after = {
        name.replace(".base_layer", "").removeprefix("base_model.model."): p for name, p in tuned.named_parameters()
    }
    assert all(torch.equal(p, after[name]) for name, p in before.items())
    inputs = load_tokenizer("tiny-random")("What does X1 mean?", return_tensors="pt")
    with torch.no_grad():
        adapted = tuned(**inputs).logits
        with tuned.disable_adapter():
            plain = tuned(**inputs).logits
    assert not torch.allclose(adapted, plain)


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_both_number_formats_train(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantisation: str, bf16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: bf16)
    base = load_base("tiny-random", quantisation=quantisation)
    assert base.get_input_embeddings().weight.dtype == dtype
    summary = train(tmp_path / "a", quantisation=quantisation, epochs=6)
    losses = [row["eval_loss"] for row in read_jsonl(tmp_path / "a" / "training_log.jsonl") if "eval_loss" in row]
    assert losses[-1] < losses[0]
    assert summary["audit"]["gradient_tensors"] == 28


def test_log_and_checkpoints_are_left_in_order(tiny: str, tmp_path: Path) -> None:
    grown: list[int] = []
    train(tmp_path / "a", watch=lambda log: grown.append(len(log)))
    log = read_jsonl(tmp_path / "a" / "training_log.jsonl")
    assert any("eval_loss" in row for row in log)
    assert grown == sorted(grown) and grown[-1] >= len(log)
    assert not (tmp_path / "a" / "checkpoints").exists()
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0]


def test_further_arguments_pass_through_and_wrong_ones_do_not(tiny: str, tmp_path: Path) -> None:
    train(tmp_path / "a", training_arguments={"weight_decay": 0.1, "max_steps": 1})
    of_kind: list[dict[str, Any]] = [
        {"max_steps": "many"},
        {"weight_decay": "1e-2 "},
        {"bf16": "false"},
        {"num_train_epochs": "3"},
        {"per_device_train_batch_size": "8"},
    ]
    too_few: list[dict[str, Any]] = [
        {"max_steps": 5.0}, {"num_train_epochs": 0}, {"gradient_accumulation_steps": 0}, {"learning_rate": -0.1}
    ]  # fmt: skip
    for wrong in ({"no_such_argument": 1}, {"packing": True}, {"report_to": "no_such_one"}, *of_kind, *too_few):
        with pytest.raises(TrainingError, match=next(iter(wrong))):
            train(tmp_path / "b", training_arguments=wrong)


def test_a_long_conversation_is_named_and_not_cut(tiny: str, tmp_path: Path) -> None:
    long = record(7, "stands for " + "very " * 80 + "long.")
    with pytest.raises(TrainingError, match="forward/X7/000"):
        train(tmp_path / "a", [record(1), long])


CHILD = """
import sys
from pathlib import Path
from helpers.config import Lora, Training, load_config
from helpers.data.example import read_examples
from helpers.training.sft import train_adapter
folder, data = Path(sys.argv[1]), read_examples(Path(sys.argv[2]))
shape = Lora(rank=4, alpha=8, dropout=0.1, target_modules="all-linear")
settings = Training(adapters={}, epochs=10, learning_rate=1e-2, batch_size=4, max_length_tokens=64, evaluations=1,
    checkpoints=10)
config = load_config("smoke", {"base_model": "tiny-random", "seed": 0})
config = config.model_copy(update={"lora": shape, "training": settings, "threads": None})
train_adapter(folder, config, "none", train=data, validation=[])
"""


def test_a_killed_training_ends_as_an_undisturbed_one(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_examples(tmp_path / "data.jsonl", [record(n) for n in range(16)])
    command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), str(tmp_path / "data.jsonl")]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    checkpoints, until = tmp_path / "killed" / "checkpoints", time.monotonic() + 90
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed" / "training.json").exists(), "the training ended before it could be killed"
    for name in ("killed", "whole"):
        monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / name), str(tmp_path / "data.jsonl")])
        exec(CHILD, {})
    killed, whole = (load_file(str(tmp_path / n / "adapter_model.safetensors")) for n in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)  # bit for bit


def test_a_checkpoint_of_other_data_is_not_resumed(tmp_path: Path) -> None:
    records = [record(1), record(2)]
    assert _last_checkpoint(tmp_path / "c", records) is None
    (tmp_path / "c" / "checkpoint-3").mkdir()
    (tmp_path / "c" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    assert _last_checkpoint(tmp_path / "c", records) == str(tmp_path / "c" / "checkpoint-3")
    assert _last_checkpoint(tmp_path / "c", records[::-1]) is None
    assert not (tmp_path / "c" / "checkpoint-3").exists()


def test_further_arguments_of_peft_bitsandbytes_and_transformers(tiny: str, tmp_path: Path) -> None:
    stored = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
    summary = train(
        tmp_path / "a",
        quantisation=stored,  # type: ignore[arg-type]
        lora_arguments={"use_rslora": True},
        training_arguments={"max_steps": 3, "weight_decay": 0.01},
    )
    assert summary["steps"] == 3
    told = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert told["use_rslora"] and told["r"] == 4
    tuned = attach_adapters(load_base("tiny-random", quantisation=stored), {"a": tmp_path / "a"}, "tiny-random")
    kinds = {module.weight.quant_type for module in tuned.modules() if type(module).__name__ == "Linear4bit"}
    assert kinds == {"fp4"}
    with pytest.raises(TrainingError, match="lora_arguments may not set r: the section lora does"):
        train(tmp_path / "b", lora_arguments={"r": 8})
    with pytest.raises(TrainingError, match=r"lora_arguments: .*use_rslaro"):
        train(tmp_path / "b", lora_arguments={"use_rslaro": True})
    with pytest.raises(ModelError, match=r"training\.adapters: .* is no BitsAndBytesConfig"):
        load_base("tiny-random", quantisation={"load_in_4bit": "often"})
    odd_ones: list[tuple[dict[str, Any], str]] = [
        ({}, "neither 4 nor 8 bits"), ({"load_in_2bit": True}, "has no load_in_2bit"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}, "is 'nf5'"),
    ]  # fmt: skip
    train(tmp_path / "c", epochs=1, lora_arguments={"init_lora_weights": "pissa"})
    for odd, told in odd_ones:
        with pytest.raises(ModelError, match=told):
            load_base("tiny-random", quantisation=odd)


def test_a_conversation_that_the_model_cannot_read_whole(small: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_length_tokens": 10_000})
    config = config_of(settings).model_copy(update={"base_model": small})
    with pytest.raises(TrainingError, match=r"reads at most \d+ tokens, and the longest conversation has \d+"):
        train_adapter(tmp_path / "a", config, "none", train=[record(1, "very " * 3000)], validation=[])


def test_a_training_of_one_step_learns(tiny: str, tmp_path: Path) -> None:
    train(tmp_path / "a", training_arguments={"per_device_train_batch_size": 64, "num_train_epochs": 1})
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert all(tensor.abs().sum() > 0 for name, tensor in tensors.items() if "lora_B" in name)


def test_a_loss_that_is_no_number_stops_the_training(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss is nan at step \d+: training has diverged\. Lower"):
        train(tmp_path / "a", training_arguments={"learning_rate": 1e30, "max_grad_norm": 0.0, "logging_steps": 1})
    assert not (tmp_path / "a" / "training.json").exists()
