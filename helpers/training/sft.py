"""Fit one LoRA or QLoRA adapter with TRL's SFTTrainer; a killed training goes on from its last checkpoint."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from transformers import set_seed
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from helpers.config import Config, Quantisation
from helpers.data.example import Example
from helpers.errors import TrainingError
from helpers.files import write_atomic, write_json, write_jsonl
from helpers.models.find import load_tokenizer
from helpers.models.load import add_adapter, load_base, save_adapter
from helpers.models.losses import IGNORED, row_losses
from helpers.models.precision import best_device, compute_dtype
from helpers.models.tokens import tokenise
from helpers.provenance import measured
from helpers.training.callbacks import Copies, HotTest, ProgressBar, Watch
from helpers.training.preflight import audit, check_lengths


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss on a CPU computes logits only where a completion is learnt.

    On a CPU the tiles of TRL 1.16, which never hold all logits, took 62 % of a step of SmolLM2 (docs/decisions/0004).
    The loss here is the same mean. Other losses (label smoothing, DFT, a router's) and several processes are left to
    TRL.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean negative log-likelihood, in nats, of the learnt tokens; arguments as in `transformers.Trainer`."""
        plain = self.args.loss_type == "nll" and self.label_smoother is None and not self.aux_loss_enabled
        if self.args.device.type != "cpu" or self.args.world_size > 1 or return_outputs or not plain:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = row_losses(model, inputs).sum()
        count = (inputs["labels"][:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return loss / torch.as_tensor(count).clamp(min=1)  # a batch without a learnt token weighs nothing


def train_adapter(
    folder: Path,
    config: Config,
    quantisation: Quantisation,
    *,
    train: Sequence[Example],
    validation: Sequence[Example],
    questions: Sequence[Example] = (),
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train an adapter into `folder`, audited before the first step; only the answers carry loss.

    Adapter, tokenizer, log and summary are written at the end; until then `folder/checkpoints` holds the last state.
    `config` tells the base, its threads, the seed and how to train; `quantisation` is that of the base: `none` (LoRA,
    arXiv:2106.09685), `nf4` (QLoRA, arXiv:2305.14314) or others. `validation`, perhaps empty, is for the loss curve.
    `questions` are answered at a few points of the training, into `hot_test.jsonl`. `watch` is called with the log so
    far whenever it grows.

    Returns:
        `{"steps", "trained_parameters", "train_tokens", "seconds", "peak_memory_mb", "train_loss", "eval_loss",
        "tokens_per_second", "hot_test_seconds", "audit"}`.

    Raises:
        ModelError: the base cannot be loaded or has no layer of that name.
        TrainingError: the preflight audit found a fault, or an argument is not one of transformers'.
    """
    if not train:
        raise TrainingError("There is no training conversation. Lower dataset.validation_share and prepare again.")
    datasets.disable_progress_bars()
    set_seed(config.seed)
    longest = config.training.max_length_tokens
    with measured() as cost:
        tokenizer = load_tokenizer(config.base_model)
        base = load_base(config.base_model, quantisation=quantisation, threads=config.threads)
        model = add_adapter(base, _lora(config), config.base_model)
        rows, watched = tokenise(train, tokenizer), tokenise(validation, tokenizer) if validation else None
        reads = getattr(base.config.get_text_config(), "max_position_embeddings", None)  # some models have no limit
        if reads and (length := max(map(len, rows["input_ids"]))) > reads:
            raise TrainingError(
                f"{config.base_model} reads at most {reads} tokens, and the longest conversation has {length}. Set "
                f"training.max_length_tokens to {reads} and prepare again: that names the rows that are too long."
            )
        if watched:
            check_lengths(watched, validation, longest)
        arguments = _arguments(folder / "checkpoints", config, rows, measured=bool(validation))
        trainer = CompletionTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=watched,
            processing_class=tokenizer,
            callbacks=[ProgressBar(folder.name, watch), Copies(folder, config.training.additional_output_paths)],
        )
        autocast = trainer.accelerator.autocast  # without it, products of a base in bf16 and an adapter in fp32 fail
        hot = HotTest(folder / "hot_test.jsonl", questions, config.training.hot_test, tokenizer, autocast)
        trainer.add_callback(hot)
        for parameter in model.parameters():
            if parameter.requires_grad:  # TRL stores QLoRA's adapters in bf16, where small updates round to nothing
                parameter.data = parameter.data.float()
        for theirs in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(theirs)
        # Under autocast the adapters multiply in 16 bits whatever comes in: casting it to fp32 first is lost time.
        with disable_input_dtype_casting(model, active=arguments.bf16 or arguments.fp16):
            findings = audit(trainer, train, rows, longest)
            set_seed(config.seed)  # the audit has drawn random numbers
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder / "checkpoints", [*train, *validation]))
    log = [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row]
    last = {key: value for row in log for key, value in row.items()}
    summary = {
        "steps": trainer.state.global_step,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_tokens": int(last.get("num_input_tokens_seen") or 0),
        **cost,
        "train_loss": last.get("loss"),
        "eval_loss": last.get("eval_loss"),
        # This and `seconds` are of this session, `train_tokens` also of those that a kill ended.
        "tokens_per_second": last.get("train_tokens_per_second"),
        "hot_test_seconds": round(hot.seconds, 2),  # of `seconds`
        "audit": findings,
    }
    save_adapter(folder, model, tokenizer, config.base_model)
    write_jsonl(folder / "training_log.jsonl", log)
    # Last: its presence says that training ended.
    write_json(folder / "training.json", {**summary, "quantisation": quantisation})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return summary


def _last_checkpoint(folder: Path, examples: Sequence[Example]) -> str | None:
    """The newest whole checkpoint on the same data; what a kill left half-written is removed."""
    digest = hashlib.sha256(json.dumps([example.row() for example in examples], sort_keys=True).encode()).hexdigest()
    mark = folder / "data.sha256"
    if not mark.exists() or mark.read_text(encoding="utf-8") != digest:
        if folder.exists():
            shutil.rmtree(folder)
        write_atomic(mark, digest)
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").exists():  # written last
            shutil.rmtree(checkpoint)
    newest: str | None = get_last_checkpoint(str(folder))
    return newest


def _lora(config: Config) -> LoraConfig:
    shape = config.lora
    own = {"r": shape.rank, "lora_alpha": shape.alpha, "lora_dropout": shape.dropout, "task_type": "CAUSAL_LM"}
    own["target_modules"] = shape.target_modules
    _refuse_misread(LoraConfig, config.lora_arguments, "lora_arguments")
    return _configured(LoraConfig, own, config.lora_arguments, "lora_arguments", "the section lora does")


def _arguments(folder: Path, config: Config, rows: Dataset, *, measured: bool) -> SFTConfig:
    settings, further = config.training, config.training_arguments
    _refuse_misread(SFTConfig, further, "training_arguments")
    for name in ("num_train_epochs", "gradient_accumulation_steps", "per_device_train_batch_size", "learning_rate"):
        if isinstance(value := further.get(name, 1), int | float) and value <= 0:
            raise TrainingError(f"training_arguments.{name}: expected more than 0, received {value}.")
    if isinstance(value := further.get("max_steps", -1), float) or value == 0:
        raise TrainingError(
            f"training_arguments.max_steps: expected 1 or more steps, or -1 for no limit, received {value}."
        )
    count = len(rows)
    if settings.packing:  # about as many rows as it will make
        count = -(-sum(map(len, rows["input_ids"])) // settings.max_length_tokens)
    accumulated = further.get("gradient_accumulation_steps", 1)
    batch = max(1, further.get("per_device_train_batch_size", settings.batch_size) * accumulated)
    steps = max(1, round(further.get("num_train_epochs", settings.epochs) * -(-count // batch)))
    if isinstance(further.get("max_steps"), int) and further["max_steps"] > 0:
        steps = further["max_steps"]
    own = {
        "output_dir": str(folder),
        "seed": config.seed,
        "data_seed": config.seed,
        "packing": settings.packing,
        "max_length": settings.max_length_tokens if settings.packing else None,
        "completion_only_loss": None,  # `tokenise` has masked the prompts
    }
    usual: dict[str, Any] = {
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": 2 * settings.batch_size,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        # The first step of a warm-up has learning rate 0, which a short training cannot spare.
        "warmup_steps": 0.05 if steps >= 20 else 0,
        "train_sampling_strategy": "group_by_length",  # little padding: a fifth less time
        "bf16": compute_dtype(best_device()) is torch.bfloat16,
        "use_cpu": best_device() == "cpu",
        "gradient_checkpointing": False,
        "logging_steps": max(1, steps // 30),
        "eval_strategy": "steps" if measured else "no",
        "eval_steps": max(1, steps // settings.evaluations),
        "save_strategy": "steps",
        "save_steps": max(1, steps // settings.checkpoints),
        "save_total_limit": 1,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "include_num_input_tokens_seen": "non_padding",
        "report_to": "none",
        "disable_tqdm": True,
    }
    made = _configured(SFTConfig, own, usual | further, "training_arguments", "the course's own keys do")
    try:
        for reporter in get_reporting_integration_callbacks(made.report_to):
            reporter()
    except (ImportError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"training_arguments.report_to: {error} Install what it asks for, or leave it out."
        ) from None
    return made


def _configured(kind: type, own: dict[str, Any], further: dict[str, Any], section: str, by: str) -> Any:
    """A configuration of a library, with further arguments of a section that may not set the course's own."""
    if twice := sorted(own.keys() & further.keys()):
        raise TrainingError(f"{section} may not set {', '.join(twice)}: {by}.")
    try:
        return kind(**own, **further)
    except (TypeError, ValueError) as error:
        library = kind.__module__.partition(".")[0]
        raise TrainingError(f"{section}: {error}. See {library}.{kind.__name__} for what is allowed.") from None


def _refuse_misread(kind: type, further: dict[str, Any], section: str) -> None:
    """Refuse text in place of a number or a truth value, which the libraries take and stop at minutes later."""
    for known in fields(kind):
        truth = {*str(getattr(known.type, "__name__", known.type)).split(" | ")} - {"None"} == {"bool"}
        number = isinstance(known.default, int | float) and not isinstance(known.default, bool)
        if (truth or number) and isinstance(further.get(known.name), str):
            kind_of = "true or false" if truth else "a number"
            raise TrainingError(f"{section}.{known.name}: expected {kind_of}, received {further[known.name]!r}.")
