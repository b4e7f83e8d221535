"""The committed records of the fictitious holders come from the committed script, and their ground truth fits."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from helpers.data.holders.pipeline import load_pipeline
from helpers.data.holders.tables import read_holder
from helpers.files import read_jsonl
from helpers.run import EXAMPLES

FOLDER = EXAMPLES / "providers"
FILES = ("hospital.jsonl", "pharmacy.csv", "insurer.csv", "planted.jsonl")


def test_the_script_makes_the_same_bytes(tmp_path: Path) -> None:
    script = FOLDER.parent / "make_providers.py"
    subprocess.run([sys.executable, str(script), "--folder", str(tmp_path)], check=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_the_planted_spans_stand_where_they_are_said_to() -> None:
    pipeline = load_pipeline(FOLDER / "pipeline.yaml")
    tables = {h.name: read_holder(h, FOLDER).get_secret_value() for h in pipeline.holders}
    kinds: Counter[str] = Counter()
    for line in read_jsonl(FOLDER / "planted.jsonl"):
        text = tables[line["holder"]].at[line["row"], line["column"]]
        for start, end, kind in line["spans"]:
            words = text[start:end]
            assert words == words.strip(" ,;:") and words
            # whole words on both sides
            assert not (text[start - 1 : start] + text[start : start + 1]).isalnum() or start == 0
            assert not text[end - 1 : end + 1].isalnum() or end == len(text)
            assert (kind == "EMAIL_ADDRESS") == ("@" in words)
            assert (kind == "URL") == ("/" in words and "." in words and "example" in words)
            if kind == "PHONE_NUMBER":
                assert 10 <= sum(map(str.isdigit, words)) <= 13
            kinds[kind] += 1
    assert set(kinds) == {"PERSON", "DATE_TIME", "PHONE_NUMBER", "EMAIL_ADDRESS", "ID", "LOCATION", "URL"}
    assert min(kinds.values()) >= 20


def test_the_holders_differ_and_are_small() -> None:
    hospital = read_jsonl(FOLDER / "hospital.jsonl")
    visits = Counter(row["mobile"] for row in hospital)
    assert len(visits) >= 600
    assert set(visits.values()) == {1, 2, 3, 4, 6, 40}
    assert len({row["note"] for row in hospital}) > 0.98 * len(hospital)
    headers = [set(hospital[0])] + [set((FOLDER / n).open().readline().strip().split(",")) for n in FILES[1:3]]
    assert len(set.union(*headers)) == sum(map(len, headers))
    insurer = (FOLDER / "insurer.csv").read_text(encoding="utf-8")
    assert json.dumps("narrative")[1:-1] in insurer
    everything = "".join((FOLDER / name).read_text(encoding="utf-8") for name in FILES)
    assert "dupont" not in everything.lower()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1_200_000
