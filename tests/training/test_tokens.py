"""Conversations as tokens: the same as TRL's, whole, and packed without seeing each other."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from test_families import FAMILIES, save_family
from test_sft import SETTINGS, config_of
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from helpers.data.example import Example, asked
from helpers.files import read_jsonl
from helpers.models.find import NO_THINKING, chat_text, load_tokenizer
from helpers.models.losses import IGNORED, row_losses
from helpers.models.tokens import tokenise
from helpers.training.sft import train_adapter

TURNS = (*asked("Où est le café ?"), {"role": "assistant", "content": "À gauche."}, *asked("Et la mairie ?"))
EXAMPLES = [
    Example("1", "any", asked("Où est le café 1 ?"), "À gauche 1."),
    Example("2", "any", TURNS, " À droite,  \n tout droit. "),
    *(Example(f"n{n}", "any", asked(f"Où est le café {n} ?"), "À gauche, " * n + "là.") for n in range(3, 9)),
]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "gpt2", "normalises"])
def test_tokens_are_those_that_trl_makes(family: str, tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", family)
    tokenizer = load_tokenizer(base)
    ours = tokenise(EXAMPLES, tokenizer)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=SFTConfig(output_dir=str(tmp_path), max_length=None, use_cpu=True, report_to="none", bf16=False),
        train_dataset=Dataset.from_list([{key: e.row()[key] for key in ("prompt", "completion")} for e in EXAMPLES]),
        processing_class=tokenizer,
    )
    theirs = trainer.train_dataset
    assert list(ours["input_ids"]) == list(theirs["input_ids"])
    assert list(ours["labels"]) == list(theirs["labels"])
    for row in ours:
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert tokenizer(row["full_text"], add_special_tokens=False)["input_ids"] == row["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_earlier_answers_are_learnt_as_they_are_asked_for(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, family))
    turns = (*TURNS, {"role": "assistant", "content": "Au bout de la rue."}, *asked("Merci. Et la gare ?"))
    last, all_of_them, one = (
        tokenise([Example("1", "any", turns, "Derrière.", also_learnt=learnt)], tokenizer)[0]
        for learnt in ((), (-4, -2), (-2,))
    )
    assert last["input_ids"] == all_of_them["input_ids"]
    answers = ["À gauche.", "Au bout de la rue.", "Derrière."]
    for row, wanted in ((last, answers[2:]), (one, answers[1:]), (all_of_them, answers)):
        learnt = [label for label in row["labels"] if label != IGNORED]
        assert sum(label == tokenizer.eos_token_id for label in learnt) >= len(wanted)
        words = tokenizer.decode(learnt, skip_special_tokens=True)
        assert [told for told in answers if told in words] == wanted and "?" not in words
        assert all(label in (IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    # Each is learnt with the tokens before it that the model is asked with.
    served = [chat_text(tokenizer, turns[:place], asks=True) for place in (1, 3)]
    for text in served:
        before = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert all_of_them["labels"][before - 1] == IGNORED != all_of_them["labels"][before]


def test_an_answer_that_is_written_otherwise_than_asked_for_is_not_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "qwen3"))
    qwen3 = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"  # drops the thoughts of earlier answers
    tokenizer.chat_template = NO_THINKING + qwen3.read_text(encoding="utf-8")
    rows = tokenise([Example("1", "any", TURNS, "Derrière.", also_learnt=learnt) for learnt in ((), (-2,))], tokenizer)
    assert rows[0] == rows[1]
    assert "Some earlier answers are not learnt" in capsys.readouterr().out


@pytest.mark.parametrize("template", ["qwen2_5", "phi3", "gemma"])
def test_the_answers_learnt_are_those_that_trl_learns(template: str, tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", "qwen2")
    tokenizer = load_tokenizer(base)
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (folder / f"{template}.jinja").read_text(encoding="utf-8")
    examples = [*EXAMPLES[:1], Example("2", "any", TURNS, "À droite.", also_learnt=(-2,))]
    ours = tokenise(examples, tokenizer)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_length=None,
            use_cpu=True,
            report_to="none",
            bf16=False,
            assistant_only_loss=True,
        ),
        train_dataset=Dataset.from_list([{"messages": each.messages} for each in examples]),
        processing_class=tokenizer,
    )
    theirs = trainer.train_dataset
    assert list(ours["input_ids"]) == list(theirs["input_ids"])
    for one, other in zip(ours["labels"], theirs["labels"], strict=True):
        differ = [max(labels) for labels in zip(one, other, strict=True) if labels[0] != labels[1]]
        assert not tokenizer.decode(differ).strip()  # the new line behind a stop token, which TRL learns of the last
        assert sum(label != IGNORED for label in other) > 3


def test_tokens_that_merge_across_the_end_of_a_prompt_stay_apart(tiny: str) -> None:
    tokenizer = load_tokenizer("tiny-random")  # it has a token of two new lines, but not before a letter
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n' }}{% endif", "assistant\n\n' }}{% endif")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "+ '\n' + message['content']", "+ ('\n\n' if message['role'] == 'assistant' else '\n') + message['content']"
    )
    example = Example("1", "any", asked("Where is it?"), "To the left.")
    [row] = tokenise([example], tokenizer)
    served = tokenizer(chat_text(tokenizer, example.prompt, asks=True), add_special_tokens=False)["input_ids"]
    assert row["input_ids"][: len(served)] == served and row["labels"][: len(served)] == [IGNORED] * len(served)
    assert tokenizer.decode(row["input_ids"]) == row["full_text"]
    assert tokenizer(row["full_text"], add_special_tokens=False)["input_ids"] != row["input_ids"]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "phi3"])
def test_packed_neighbours_do_not_see_each_other(family: str, tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", family)
    tokenizer = load_tokenizer(base)
    rows = tokenise(EXAMPLES, tokenizer)
    lengths = [len(ids) for ids in rows["input_ids"]]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    together: dict[str, Any] = {name: [*chain(*rows[name])] for name in ("input_ids", "labels")}
    together["seq_lengths"] = lengths
    packed = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([together])
    alone = DataCollatorForLanguageModeling(pad_token_id=0)([*rows])
    with torch.no_grad():
        apart, one = row_losses(model, alone), row_losses(model, packed)
        changed = {**packed, "input_ids": packed["input_ids"].clone()}
        changed["input_ids"][0, : lengths[0]] = 7  # other words in the first conversation
        changed["labels"] = packed["labels"].clone()
        changed["labels"][0, : lengths[0]] = IGNORED
        others = row_losses(model, changed)
    assert one.item() == pytest.approx(apart.sum().item(), rel=1e-5)
    assert others.item() == pytest.approx(apart[1:].sum().item(), rel=1e-5)


def test_a_packed_training_learns_every_token(tiny: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"packing": True, "max_length_tokens": 160, "batch_size": 2, "epochs": 6})
    folder = tmp_path / "run" / "models" / "a"
    found = train_adapter(folder, config_of(settings), "none", train=EXAMPLES, validation=EXAMPLES[:2])
    rows = tokenise(EXAMPLES, load_tokenizer("tiny-random"))
    assert found["audit"]["learnt_tokens"] == sum(label != IGNORED for labels in rows["labels"] for label in labels)
    assert found["steps"] < 6 * len(EXAMPLES) / 2  # several conversations in a row
    log = read_jsonl(folder / "training_log.jsonl")
    assert found["train_loss"] < next(row["loss"] for row in log if "loss" in row) - 0.5
