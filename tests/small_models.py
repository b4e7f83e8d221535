"""A model of two layers with 128 words: with tiny-random's 49,152 its output layer would take most of the time."""

from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("fever", "cough", "rash", "drug", "dose", "mild", "after", "before", "patient", "took", "gave", "nausea")
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def save_small(folder: Path, config: transformers.PretrainedConfig | None = None) -> None:
    """Save a model with random weights, by default a Llama whose heads share keys, as SmolLM2's do."""
    config = config or transformers.LlamaConfig(**SHAPE)
    transformers.set_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)  # as published ones are
    known = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
