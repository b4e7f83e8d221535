"""Find, load, quantise and adapt language models, and let them answer in batches."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from helpers.config import PROJECT_ROOT
from helpers.embedded_server import embedded_gguf
from helpers.errors import ModelError
from helpers.files import read_json, write_atomic, write_json
from helpers.precision import best_device, compute_dtype

CACHE = PROJECT_ROOT / ".cache" / "models"
EMBEDDED = ("smollm2-135m-instruct", "tiny-random")
PLAIN_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's template without its default system prompt, which would add 20 tokens to every conversation."""

ROUND = 16
"""Tokens after which answers that have ended leave their batch."""


class Generated(NamedTuple):
    """One answer: its text, its length in tokens, and whether the model stopped by itself."""

    text: str
    new_tokens: int
    stopped: bool


def resolve_model(name: str) -> str:
    """Turn a model's name into what transformers can load: a folder, or a hub id as it is.

    The embedded models are made once below .cache/: SmolLM2 dequantised from its GGUF file to bf16
    safetensors (25 s), `tiny-random` a Llama of two layers and random weights with the same tokenizer.

    Raises:
        ModelError: the embedded weights are not installed, or a path does not hold a model.
    """
    if name == "smollm2-135m-instruct":
        return str(_made(CACHE / name, _export_smollm2))
    if name == "tiny-random":
        smollm2 = resolve_model("smollm2-135m-instruct")
        return str(_made(CACHE / name, lambda folder: _make_tiny(folder, smollm2)))
    path = Path(name).expanduser()
    anchored = path if path.is_absolute() else PROJECT_ROOT / path
    if anchored.is_dir():
        if not (anchored / "config.json").exists():
            raise ModelError(
                f"{anchored} holds no model (config.json is missing). Give a folder, or one of {EMBEDDED}."
            )
        return str(anchored)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(f"There is no model '{name}'. Use {', '.join(EMBEDDED)}, a folder, or a hub id 'owner/name'.")
    return name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the left as generation needs.

    Raises:
        ModelError: it cannot be found, or has no chat template.
    """
    where = resolve_model(name)
    tokenizer: PreTrainedTokenizerBase = _fetch(lambda: AutoTokenizer.from_pretrained(where, token=_token()), name)
    if not tokenizer.chat_template:
        raise ModelError(f"The tokenizer of {name} has no chat template. Choose an instruct model.")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    name: str, *, quantisation: str = "none", threads: int | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Load the frozen base weights, or with 4-bit NF4 linear layers (QLoRA, arXiv:2305.14314).

    Weights and products are bf16 where the processor has instructions for it, else fp32 (helpers/precision.py).

    Args:
        name: embedded name, folder or hub id.
        quantisation: `none` or `nf4`.
        threads: CPU threads for torch; None leaves torch's own choice.
        dtype: number format of weights and products; None takes the one above.

    Raises:
        ModelError: the model cannot be found, is gated, or does not fit.
    """
    if threads:
        torch.set_num_threads(threads)
    where = resolve_model(name)
    device = best_device()
    dtype = dtype or compute_dtype(device)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "token": _token()}
    if quantisation == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",  # the library's default is fp4
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    model: PreTrainedModel = _fetch(lambda: AutoModelForCausalLM.from_pretrained(where, **options), name)
    _keep_gradients(model)
    model.get_output_embeddings().register_forward_pre_hook(_in_one_piece)
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")  # torch's fused attention is the slower one on short texts
    model.generation_config.do_sample = False
    model.generation_config.temperature = model.generation_config.top_p = model.generation_config.top_k = None
    return model.eval()


def add_adapter(base: PreTrainedModel, lora: LoraConfig, base_name: str) -> PeftModel:
    """Put a new adapter on a base, to be trained.

    Raises:
        ModelError: the base has no linear layer of a name in `lora.target_modules`.
    """
    try:
        model = get_peft_model(base, lora)
    except ValueError as error:
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
    model: PeftModel | None = None
    for name, folder in folders.items():
        check_adapter(folder, base_name)
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
            else:
                model.load_adapter(str(folder), adapter_name=name)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"The adapter {folder} does not fit {base_name}: {str(error).splitlines()[0]}") from None
    if model is None:
        raise ModelError("No adapter was given. Train one with 02-fine_tune/02-train_adapters.ipynb.")
    return model.eval()


def save_adapter(folder: Path, model: PeftModel, tokenizer: PreTrainedTokenizerBase, base_name: str) -> None:
    """Save an adapter with its tokenizer and the name of its base, as `attach_adapters` reads them."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    # Neither this machine's folder nor a cache path belongs into a file that travels.
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": base_name})
    (folder / "README.md").unlink(missing_ok=True)
    write_atomic(folder / "base_model.txt", base_name + "\n")


def check_adapter(folder: Path, base_name: str) -> None:
    """Refuse a folder without an adapter, and an adapter of another base.

    Raises:
        ModelError: with both names.
    """
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(f"{folder} holds no adapter. Train it with 02-fine_tune/02-train_adapters.ipynb.")
    note = folder / "base_model.txt"
    trained_on = note.read_text(encoding="utf-8").strip() if note.exists() else "an unnamed model"
    if trained_on != base_name:
        raise ModelError(
            f"The adapter {folder} was trained on {trained_on}, not on {base_name}. "
            "Set base_model to that name, or train the adapter again."
        )


@torch.inference_mode()  # type: ignore[untyped-decorator]
def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[dict[str, str]]],
    *,
    max_new_tokens: int,
    batch_size: int,
    title: str = "answers",
    on_batch: Callable[[list[int], list[Generated]], None] | None = None,
) -> list[Generated]:
    """Answer each conversation greedily, in left-padded batches of similar length.

    Args:
        model: a causal language model or a PeftModel.
        tokenizer: its tokenizer, padding on the left.
        conversations: messages ending with the user's turn; each is put into the chat template.
        max_new_tokens: longest answer, in tokens.
        batch_size: conversations answered at once.
        title: of the progress bar.
        on_batch: called with (positions, answers) as soon as a batch is done.

    Returns:
        One answer for each conversation, in their order.
    """
    texts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations]
    order = sorted(range(len(texts)), key=lambda position: (len(texts[position]), position))
    answers: dict[int, Generated] = {}
    stops = stop_tokens(model, tokenizer)
    with tqdm(total=len(texts), desc=title) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer([texts[i] for i in batch], return_tensors="pt", padding=True, add_special_tokens=False)
            rows = _continued(model, inputs.to(model.device), stops, max_new_tokens, tokenizer.pad_token_id)
            done = [_read(row, stops, tokenizer) for row in rows]
            answers.update(zip(batch, done, strict=True))
            if on_batch:
                on_batch(batch, done)
            bar.update(len(batch))
    return [answers[position] for position in range(len(texts))]


def _continued(
    model: Any, inputs: dict[str, torch.Tensor], stops: set[int], max_new_tokens: int, pad_token: int
) -> list[list[int]]:
    """What a model writes behind each row, in rounds: what has ended leaves the batch, and the others go on faster."""
    ids, mask, cache = inputs["input_ids"], inputs["attention_mask"], None
    asked, left = ids.shape[1], list(range(len(ids)))
    written: list[list[int]] = [[] for _ in left]
    for begin in range(0, max_new_tokens, ROUND):
        output = model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, pad_token_id=pad_token,
            max_new_tokens=min(ROUND, max_new_tokens - begin), return_dict_in_generate=True,
        )  # fmt: skip
        for number, row in zip(left, output.sequences[:, asked:].tolist(), strict=True):
            written[number] = row
        going = [place for place, number in enumerate(left) if not stops.intersection(written[number])]
        if not going:
            break
        left = [left[place] for place in going]
        chosen = torch.tensor(going, device=ids.device)
        ids, cache = output.sequences[chosen], output.past_key_values
        cache.batch_select_indices(chosen)
        mask = torch.nn.functional.pad(mask[chosen], (0, ids.shape[1] - mask.shape[1]), value=1)
    return written


def record_tokens(tokenizer: PreTrainedTokenizerBase, text: str, *, whole: bool = True) -> list[int]:
    """The tokens of a plain text, outside any chat: a start token, the text and, where it is whole, the stop token.

    The start token lets a model be asked for a record from nothing; a tokenizer without one starts with its stop token.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    inside = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [start, *inside, *([tokenizer.eos_token_id] if whole else [])]


def first_behind(tokenizer: PreTrainedTokenizerBase, start: str, row: Sequence[int]) -> int:
    """Where in a text's tokens what follows its start begins; 1 or more, behind the start token.

    The text keeps the tokens that it has as a whole. A token across the border belongs to what follows.

    Args:
        tokenizer: of the model.
        start: the beginning of the text; may be empty.
        row: from `record_tokens` of the text.
    """
    given = record_tokens(tokenizer, start, whole=False)
    shared = (at for at, (one, other) in enumerate(zip(given, row, strict=False)) if one != other)
    return next(shared, len(given))


def stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The token ids at which generation ends."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None}


def _read(tokens: list[int], stops: set[int], tokenizer: PreTrainedTokenizerBase) -> Generated:
    length = next((at for at, token in enumerate(tokens) if token in stops), len(tokens))
    text = str(tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()
    return Generated(text, length, length < len(tokens))


def _keep_gradients(model: PreTrainedModel) -> None:
    """Stop bitsandbytes 0.50 from packing 4-bit weights on CPUs with AVX512-BF16.

    Packed by the first forward without gradients (an evaluation, a generate), a layer lets no gradient
    through ever after, with only a warning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _in_one_piece(_: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Stop torch from copying a frozen output layer once for each row.

    Before the first new token a model slices the last position out of each row. What is sliced so lies in pieces, and
    such an input is multiplied row by row, each with a copy of its own: 5 GB for 96 rows of SmolLM2-135M.
    """
    return inputs[0].contiguous()


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    if not (folder / "config.json").exists():
        building = folder.with_name(f"{folder.name}.{os.getpid()}")
        building.mkdir(parents=True, exist_ok=True)
        make(building)
        try:
            building.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(building)
    return folder


def _export_smollm2(folder: Path) -> None:
    gguf = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model read from GGUF refuses to be saved; the same weights in a fresh model do not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    tokenizer.chat_template = PLAIN_CHATML
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _make_tiny(folder: Path, tokenizer_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    base = AutoConfig.from_pretrained(tokenizer_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=base.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=2048,
        bos_token_id=base.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _token() -> str | None:
    return os.environ.get("HF_TOKEN") or None


def _fetch(load: Callable[[], Any], name: str) -> Any:
    """Load something, and turn the hub's failures into one sentence."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return load()
    except Exception as error:
        causes = [error, error.__cause__, error.__context__]
        kinds = tuple(type(cause) for cause in causes)
        if any(issubclass(kind, GatedRepoError) for kind in kinds) or "gated repo" in str(error):
            raise ModelError(
                f"{name} is a gated model: accept its licence on its hub page, then write HF_TOKEN=... into .env."
            ) from None
        if any(issubclass(kind, RepositoryNotFoundError | LocalEntryNotFoundError) for kind in kinds):
            raise ModelError(
                f"{name} could not be fetched from the hub. Check the name and the network, or use an embedded model: "
                f"{', '.join(EMBEDDED)}."
            ) from None
        if importlib.util.find_spec("bitsandbytes") is None and "bitsandbytes" in str(error):
            raise ModelError("bitsandbytes is not installed. Run bash 00-set_up/install.sh.") from None
        if isinstance(error, OSError | ValueError):
            raise ModelError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from None
        raise
