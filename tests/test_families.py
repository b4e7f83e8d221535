"""Chat families in small: their layers, templates and special tokens, with random weights and a tokenizer made here."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from helpers.config import Lora, Training, load_config
from helpers.data.example import Example, asked
from helpers.models.find import chat_tokens, load_tokenizer
from helpers.models.generate import generate_answers
from helpers.models.load import attach_adapters, load_base
from helpers.training.sft import train_adapter

SMALL = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "pad_token_id": 0,
    "initializer_range": 0.2,
}  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKER = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m['role'] + '<|/header|>\n\n' + m['content'] }}"
    "{{ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] "
    "+ '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
DATED = "{{ '<|im_start|>system\nNow: ' + strftime_now('%d %b %H:%M:%S') + '<|im_end|>\n' }}" + CHATML
FAMILIES: dict[str, tuple[Any, str | None, str, str]] = {
    # configuration, template, start token, stop token
    "llama": (transformers.LlamaConfig(**SMALL), LLAMA, "<s>", "<|eot|>"),
    "qwen2": (transformers.Qwen2Config(**SMALL), CHATML, "<s>", "<|im_end|>"),
    "qwen3": (transformers.Qwen3Config(**SMALL), THINKER, "<s>", "<|im_end|>"),
    "gemma3": (transformers.Gemma3TextConfig(**SMALL), GEMMA, "<s>", "<end>"),
    "phi3": (transformers.Phi3Config(**SMALL), PHI, "<s>", "<|end|>"),
    "mistral": (transformers.MistralConfig(**SMALL), MISTRAL, "<s>", "</s>"),
    "smollm3": (transformers.SmolLM3Config(**SMALL), THINKER, "<s>", "<|im_end|>"),
    "gpt2": (
        transformers.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2),
        None, "</s>", "</s>",
    ),
    "no cache": (transformers.LlamaConfig(**SMALL, use_cache=False), CHATML, "<s>", "<|im_end|>"),
    "pad is stop": (transformers.LlamaConfig(**SMALL), CHATML, "<s>", "<|im_end|>"),
    "normalises": (transformers.LlamaConfig(**SMALL), CHATML, "<s>", "<|im_end|>"),
    "dated": (transformers.LlamaConfig(**SMALL), DATED, "<s>", "<|im_end|>"),
    "samples": (transformers.LlamaConfig(**SMALL), CHATML, "<s>", "<|im_end|>"),
}  # fmt: skip
SETTINGS = Training(
    adapters={}, epochs=30, learning_rate=1e-2, batch_size=4, max_length_tokens=128, evaluations=1, checkpoints=1
)
LEARNT = [Example(f"{n}", "any", asked(f"Où est le café {n} ?"), f"À gauche {n}.") for n in range(8)]


def save_family(folder: Path, name: str) -> str:
    config, template, start, stop = FAMILIES[name]
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if name == "normalises":
        words.normalizer = normalizers.NFC()
    special = list(dict.fromkeys(["<pad>", start, "</s>", stop, "<|im_start|>", "<|im_end|>", "<turn>", "<|header|>"]))
    words.train_from_iterator(
        [example.question + example.answer for example in LEARNT],
        trainers.BpeTrainer(
            vocab_size=390, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=start, eos_token=stop, pad_token=stop if name == "pad is stop" else "<pad>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if name == "samples":
        model.generation_config = transformers.GenerationConfig(do_sample=True, temperature=0.7, repetition_penalty=1.9)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_stops_and_reloads(name: str, tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", name)
    shape = Lora(rank=16, alpha=32, dropout=0.0, target_modules="all-linear")
    own = {"lora": shape, "training": SETTINGS, "training_arguments": {"bf16": False}, "threads": None}
    config = load_config("smoke", {"base_model": base, "seed": 0}).model_copy(update=own)
    found = train_adapter(tmp_path / "a", config, "none", train=LEARNT, validation=[])["audit"]
    assert found["adapter_tensors"] == found["gradient_tensors"] > 0  # targets resolve, and training equals serving
    tokenizer = load_tokenizer(base)
    tuned = attach_adapters(load_base(base, dtype=torch.float32), {"a": tmp_path / "a"}, base)
    layers = [module for module in tuned.modules() if isinstance(module, LoraLayer)]
    assert len(layers) * 2 == found["adapter_tensors"]
    answers = generate_answers(
        tuned, tokenizer, [list(each.prompt) for each in LEARNT], max_new_tokens=24, batch_size=3
    )  # fmt: skip
    assert all(answer.stopped for answer in answers)
    assert sum(answer.text.startswith("À gauche") for answer in answers) >= 6
    assert all(chat_tokens(tokenizer, each.messages) < 128 for each in LEARNT)
    assert "think" not in "".join(answer.text for answer in answers)
    # The tokenizer beside the adapter writes the same prompt, and what was saved is what was loaded.
    beside = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    both = [each.apply_chat_template(LEARNT[0].messages, tokenize=False) for each in (tokenizer, beside)]
    assert both[0] == both[1]
    saved = load_file(str(tmp_path / "a" / "adapter_model.safetensors"))
    held = {key.replace(".a.", "."): value for key, value in tuned.state_dict().items() if "lora_" in key}
    assert saved.keys() == held.keys() and all(torch.equal(saved[key], held[key]) for key in saved)
