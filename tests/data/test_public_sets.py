"""Public sets load through the same code: the shipped declarations, on small local copies of the sets' shapes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_providers import KEY, words

from helpers.data.holders.join import join_providers
from helpers.data.holders.pipeline import Pipeline, load_pipeline
from helpers.run import EXAMPLES

PUBLIC = EXAMPLES / "providers" / "public"
SHAPES: dict[str, list[dict[str, Any]]] = {
    "phee": [
        {"id": f"{8908300 + n // 2}_{n % 2}", "context": f"CASE {n}: a rash after zelmorin 20 mg.\n", "split": "train"}
        for n in range(40)
    ],
    "medquad": [
        {"qtype": "treatment", "Question": f"How is zelmoritis {n} treated ?", "Answer": f"By rest {n}."}
        for n in range(40)
    ],
    "chatdoctor": [
        {
            "instruction": "If you are a doctor, please answer.",
            "input": f"Hi, my knee {n} aches",
            "output": f"Rest {n}.",
        }
        for n in range(40)
    ],
    "medqa": [
        {
            "question": f"A {20 + n}-year-old man has a sore toe. Which drug helps?",
            "answer": "Zelmorin",
            "options": {"A": "Zelmorin", "B": "Vexol", "C": "Rest", "D": "None"},
            "meta_info": "step1",
            "answer_idx": "A",
        }
        for n in range(40)
    ],
}
TEXTS = {
    "phee": "CASE 7: a rash after zelmorin 20 mg.",
    "medquad": "How is zelmoritis 7 treated ? By rest 7.",
    "chatdoctor": "Hi, my knee 7 aches Rest 7.",
    "medqa": "A 27-year-old man has a sore toe. Which drug helps? Zelmorin, Vexol, Rest or None? Zelmorin",
}


def local(name: str, folder: Path) -> Pipeline:
    """The shipped declaration, reading a local copy of the set's shape in place of the hub."""
    (folder / "copy.json").write_text("".join(json.dumps(row) + "\n" for row in SHAPES[name]), encoding="utf-8")
    text = (PUBLIC / f"{name}.yaml").read_text(encoding="utf-8")
    text, found = re.subn(r"load_dataset: \{.*\}", "load_dataset: {path: json, data_files: copy.json}", text)
    assert found == 1
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return load_pipeline(folder / f"{name}.yaml")


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_set(tmp_path: Path, name: str) -> None:
    joined = join_providers(local(name, tmp_path), KEY, seed=1)
    made = [record for part in joined.records.get_secret_value().values() for record in part]
    assert joined.card["joined"] == {"given": 40, "kept": 40, "left_out": {}}
    units = len({record.unit for record in made})
    assert units == (20 if name == "phee" else 40)  # two sentences of each report; elsewhere each row its own unit
    assert TEXTS[name] in {words(record) for record in made}
    for record in made:
        assert words(record).startswith(record.question)
        assert bool(record.question) == (name != "phee")


def test_the_declarations_cover_the_shapes() -> None:
    assert {path.stem for path in PUBLIC.glob("*.yaml")} == set(SHAPES)
