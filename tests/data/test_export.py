from pathlib import Path

from datasets import load_dataset

from helpers.data.example import Example, asked
from helpers.data.export import export, samples

TURNS = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}, *asked("What is “QV”?"))
SPLITS = {
    "train": [Example("a", "forward", TURNS, "QV is\na “thing”."), Example("b", "general", asked("2 + 2?"), "4")],
    "test": [Example("c", "reverse", asked("Which one?"), "QV", ("QV",), "contains")],
}


def test_every_shape_is_loaded_again_and_holds_all_rows(tmp_path: Path) -> None:
    export(SPLITS, tmp_path / "out", about="# About\n", languages=["en"])
    own = {"cache_dir": str(tmp_path / "cache")}  # that of the machine knows folders by their name alone
    rows = {name: load_dataset(str(tmp_path / "out"), name, **own) for name in ("messages", "prompt_completion")}
    files = {name: str(tmp_path / "out" / "parquet" / f"{name}.parquet") for name in SPLITS}
    rows["parquet"] = load_dataset("parquet", data_files=files, **own)
    for found in rows.values():
        assert {split: len(of) for split, of in found.items()} == {"train": 2, "test": 1}
    for shape in ("messages", "parquet"):
        turns = rows[shape]["train"][0]["messages"]
        assert [turn.pop("weight", None) for turn in turns] == [None, 0, None, None]  # an answer that is not learnt
        assert turns == SPLITS["train"][0].messages
    assert rows["prompt_completion"]["test"][0]["completion"] == [{"role": "assistant", "content": "QV"}]
    saturn = load_dataset(str(tmp_path / "out"), "input_response", split="train", **own)
    assert saturn["response"] == ["QV is\na “thing”.", "4"] and saturn["input"][1] == "2 + 2?"
    assert saturn["input"][0] == "user: Hello\nassistant: Yes?\nuser: What is “QV”?"


def test_samples_show_each_bucket_once() -> None:
    text = samples([*SPLITS["train"], *SPLITS["train"]])
    assert text.count("**forward**") == text.count("**general**") == 1 and "assistant: 4" in text
