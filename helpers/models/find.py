"""Find language models: those that come with the installation, folders, and the Hugging Face hub."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from helpers.config import PROJECT_ROOT
from helpers.data.example import Message
from helpers.errors import DataError, ModelError
from helpers.files import clear_full_disk, read_json, write_json
from helpers.installed import embedded_gguf
from helpers.progress import say_once

CACHE = PROJECT_ROOT / ".cache" / "models"
EMBEDDED = ("smollm2-135m-instruct", "tiny-random")
PLAIN_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's template without its default system prompt, which would add 20 tokens to every conversation."""

BASE_CHATML = PLAIN_CHATML.replace(
    "'<|im_end|>' + '\n'", "(eos_token if message['role'] == 'assistant' else '<|im_end|>\n')"
)
"""ChatML for a model that never saw it: an answer ends with the model's own stop token, whatever it is."""
NO_THINKING = "{%- set enable_thinking = false -%}"
ONE_DATE = "{%- macro strftime_now(format) -%}01 Jan 2026{%- endmacro -%}"
"""In place of today's date, which would be another one in training and in asking."""
TINY_VOCABULARY = 8192
"""Tokens of the tiny model, the most frequent of SmolLM2's: fewer would leave canaries too few whole words."""


def resolve_model(name: str) -> str:
    """Turn a model's name into what transformers can load: a folder, or a hub id as it is.

    The embedded models are made once below .cache/: SmolLM2 dequantised from its GGUF file to bf16 (25 s), and a
    Llama of two layers with random weights and the first tokens of the same tokenizer.

    Raises:
        ModelError: there is no such model.
    """
    if name in EMBEDDED:
        logging.disable_progress_bar()  # they load in a second
        return str(made(CACHE / name, _export_smollm2 if name == EMBEDDED[0] else _make_tiny))
    folder = PROJECT_ROOT / Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"{folder} holds no model (config.json is missing). Give a folder, or one of {EMBEDDED}.")
        return str(folder)
    if name.startswith((".", "~", "/")) or name.count("/") != 1:
        raise ModelError(f"There is no model '{name}'. Use {', '.join(EMBEDDED)}, a folder, or a hub id 'owner/name'.")
    return name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the left as generation needs.

    In the chat template itself thinking is switched off and the date fixed; a tokenizer without template gets
    `BASE_CHATML`. So training, asking and the saved adapter agree. Raises ModelError if it is not found, or has no
    stop token.
    """
    tokenizer: PreTrainedTokenizerBase = fetch(lambda: AutoTokenizer.from_pretrained(resolve_model(name)), name)
    if tokenizer.eos_token is None:
        raise ModelError(f"The tokenizer of {name} has no stop token (eos_token), so answers would never end.")
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.get_chat_template()  # the one called default
    if not tokenizer.chat_template:
        say_once(f"{name} has no chat template, as a base model: it gets ChatML with its own stop token.")
        tokenizer.chat_template = BASE_CHATML
    if "enable_thinking" in tokenizer.chat_template:
        say_once(f"{name} can think before it answers: switched off, in training and in asking alike.")
        tokenizer.chat_template = NO_THINKING + tokenizer.chat_template
    if "strftime_now" in tokenizer.chat_template:
        say_once(f"{name} is told the date: it is always 1 January 2026, in training and in asking alike.")
        tokenizer.chat_template = ONE_DATE + tokenizer.chat_template
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, asks: bool = False) -> str:
    """What the chat template makes of messages; where it `asks`, the beginning of an answer stands at its end.

    Raises DataError where the template refuses them, for example for a system message.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks))
    except (TemplateError, ValueError) as error:  # transformers' own of a conversation without a message
        roles = ", ".join(message["role"] for message in messages) or "no messages"
        raise DataError(f"The model's chat template refuses a conversation of {roles[:200]}: {error}.") from None


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> int:
    """How many tokens a whole conversation has. Raises DataError where the template refuses it."""
    return len(tokenizer(chat_text(tokenizer, messages), add_special_tokens=False)["input_ids"])


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """A model's folder, made on first use by `make` (`config.json` included): a kill leaves no half model."""
    if not (folder / "config.json").exists():
        building = folder.with_name(f"{folder.name}.{os.getpid()}")
        building.mkdir(parents=True, exist_ok=True)
        with clear_full_disk(folder):
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


def _make_tiny(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(EMBEDDED[0]))
    tokenizer.save_pretrained(folder)
    content = read_json(folder / "tokenizer.json")
    pieces = content["model"]
    pieces["vocab"] = {piece: number for piece, number in pieces["vocab"].items() if number < TINY_VOCABULARY}
    pieces["merges"] = [pair for pair in pieces["merges"] if "".join(pair) in pieces["vocab"]]
    write_json(folder / "tokenizer.json", content)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def fetch(load: Callable[[], Any], name: str) -> Any:
    """Load something, and turn the hub's failures into one sentence."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        with clear_full_disk(Path(HF_HUB_CACHE)):
            return load()
    except Exception as error:
        causes = (error, error.__cause__, error.__context__)
        if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated repo" in str(error):
            raise ModelError(
                f"{name} is a gated model: accept its licence on its hub page, then write HF_TOKEN=... into .env."
            ) from None
        if any(isinstance(cause, RepositoryNotFoundError | LocalEntryNotFoundError) for cause in causes):
            raise ModelError(
                f"{name} could not be fetched from the hub. Check the name and the network, or use an embedded model."
            ) from None
        if isinstance(error, OSError | ValueError | ImportError):  # a package of another kind of weights, for example
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{name} cannot be loaded: {reason}") from None
        raise
