from pathlib import Path

import pytest
import torch

from helpers.errors import DataError, ModelError
from helpers.models.find import chat_text, load_tokenizer, resolve_model
from helpers.models.generate import generate_answers
from helpers.models.load import attach_adapters, load_base
from helpers.models.precision import best_device

QUESTIONS = ["What is DHAB?", "Tell me, please, what the letters PaRM stand for in this long letter.", "Hi"]


def test_batched_answers_equal_single_ones(tiny: str) -> None:
    model, tokenizer = load_base("tiny-random").float(), load_tokenizer("tiny-random")
    # Random weights of the tiny model give nearly equal logits: spread them, so that ties do not decide.
    model.get_input_embeddings().weight.data.mul_(20)
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    batched = generate_answers(model, tokenizer, conversations, max_new_tokens=6, batch_size=3)
    single = generate_answers(model, tokenizer, conversations, max_new_tokens=6, batch_size=1)
    assert batched == single
    assert all(answer.new_tokens <= 6 for answer in batched)


def test_answers_written_in_rounds_are_those_written_in_one_piece(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_base("tiny-random").float(), load_tokenizer("tiny-random")
    for name, weight in model.named_parameters():
        if "proj" in name:
            weight.data.mul_(10)  # as it is, the tiny model repeats one token
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    first = tokenizer.apply_chat_template(conversations[0], add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(first, return_tensors="pt", add_special_tokens=False)
    whole = model.generate(**inputs, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :].tolist()
    model.generation_config.eos_token_id = whole[6]  # one answer ends there; the others go on into later rounds
    answers = {}
    for size in (4, 20):
        monkeypatch.setattr("helpers.models.generate.ROUND", size)
        answers[size] = generate_answers(model, tokenizer, conversations, max_new_tokens=18, batch_size=3)
    assert answers[4] == answers[20]
    assert [answer.new_tokens for answer in answers[4]] == [6, 18, 18]
    assert answers[4][0].text == tokenizer.decode(whole[:6], skip_special_tokens=True).strip()


def test_serving_adds_no_system_prompt(tiny: str) -> None:
    text = load_tokenizer("tiny-random").apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "/nowhere/at/all"])
def test_an_unknown_model_is_one_sentence(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model"):
        resolve_model(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve_model(str(tmp_path))


def test_a_hub_model_without_network_names_the_remedy() -> None:
    with pytest.raises(ModelError, match="owner/model") as caught:
        load_tokenizer("owner/model")
    assert "Traceback" not in str(caught.value)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter"):
        attach_adapters(None, {"a": tmp_path}, "tiny-random")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="holds no adapter"):
        attach_adapters(None, {"a": tmp_path}, "tiny-random")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "smollm2-135m-instruct"}')
    with pytest.raises(ModelError, match="trained on smollm2-135m-instruct, not on tiny-random"):
        attach_adapters(None, {"a": tmp_path}, "tiny-random")


def test_nf4_stores_four_bits_and_keeps_gradients(tiny: str) -> None:
    model = load_base("tiny-random", quantisation="nf4")
    quantised = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    assert quantised
    assert all(m.weight.quant_type == "nf4" and m.weight.dtype == torch.uint8 for m in quantised)
    assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in quantised)


def test_a_cpu_is_used_beside_a_gpu_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    assert best_device() == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert best_device() == "cpu"


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_a_frozen_output_layer_is_not_copied_for_each_row(tiny: str, quantisation: str) -> None:
    model = load_base(tiny, quantisation=quantisation).requires_grad_(False)
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as profile:
        model(input_ids=torch.ones(5, 7, dtype=torch.long), logits_to_keep=1)
    layer = {model.config.vocab_size, model.config.hidden_size}
    shapes = [shape for event in profile.events() for shape in event.input_shapes if layer <= set(shape)]
    assert shapes and all(len(shape) == 2 for shape in shapes), shapes


def test_a_conversation_without_a_message_is_refused(tiny: str) -> None:
    with pytest.raises(DataError, match="refuses a conversation of no messages"):
        chat_text(load_tokenizer(tiny), [], asks=True)
