"""The command line on a table of one's own, and its own mistakes."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import arguments, refused
from fixture_types import SmokeRun
from scripted_server import failure
from talker import Talker

from helpers.course import _overrides, main
from helpers.errors import ConfigError, RunError
from helpers.files import held, read_jsonl
from helpers.installed import minilm_folder
from helpers.stages import fine_tune
from helpers.stages.results import _command

FINISHED = """
import sys
from pathlib import Path

from helpers import stages
from helpers.run import reopen_run
for stage in (stages.prepare, stages.fine_tune, stages.answer, stages.score):
    stage(reopen_run(Path(sys.argv[1])))
print({"torch", "transformers", "peft", "trl", "sentence_transformers"} & {*sys.modules})
"""


def test_a_table_becomes_a_tested_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["pool", "library", "bus", "market", "garden", "hall", "museum", "tram", "ferry", "sauna", "court", "rink"]
    rows = [
        {
            "Question": f"What does {name} cost?",
            "Réponse": f"{n} euros" if n % 2 else f"The {name} costs {n} a day.",
        }
        for n, name in enumerate(names)
    ]
    table, run = tmp_path / "prices.json", tmp_path / "run"
    table.write_text(json.dumps([*rows, rows[0], {"Question": "", "Réponse": ""}]), "utf-8")
    own = ["--conf", "smoke", "--run", str(run), "--data", str(table), "--set", "score.judge_items=0"]
    more = [*own, "--set", "data.most_empty=0.1", "--set", "training.adapters={lora: none}"]
    for command in ("prepare", "fine-tune", "answer", "score", "report"):
        assert main([command, *more]) == 0
    card, results = (json.loads((run / path).read_text("utf-8")) for path in ("dataset/card.json", "results.json"))
    assert card["left_out"] == {"the same as another row": 1, "empty question or answer": 1}
    assert card["rows_read"] == 14 == card["rows_kept"] + 2
    assert card["columns"] == {"question": "Question", "answer": "Réponse"} and card["unused_columns"] == []
    assert results["run"]["data"] == "prices.json" and "glossary" not in results["run"]
    command = shlex.split(results["run"]["command"])
    assert command[2:4] == ["CONF=smoke", f"DATA={table}"] and command[-1] == f"RUN={run}"
    sets = shlex.split(command[4].removeprefix("OPTIONS="))[1::2]
    assert sets == ["data.most_empty=0.1", 'training.adapters={"lora": "none"}', "score.judge_items=0"]
    likeness = results["models"]["lora"]["likeness"]["test"]
    assert likeness["n"] == card["test"]["test"] and likeness["rouge_l"] is not None
    page = (run / "report.html").read_text("utf-8")
    assert "Likeness to the reference" in page and "only 2 items" in page
    assert f'python -m helpers.course ask {run} "Your question"' in page
    ended = subprocess.run([sys.executable, "-c", FINISHED, str(run)], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"  # what is finished does not wait for libraries
    for name in ("base", "in_context"):  # answers to other questions are not taken for new ones
        assert len(read_jsonl(run / "predictions" / f"{name}.jsonl")) == len(read_jsonl(run / "dataset" / "test.jsonl"))
    test = run / "dataset" / "test.jsonl"
    test.write_text(test.read_text("utf-8").replace("What does", "Tell me what does"), "utf-8")
    before = (run / "predictions" / "base.jsonl").stat().st_mtime_ns
    assert main(["answer", *more]) == 0
    assert (run / "predictions" / "base.jsonl").stat().st_mtime_ns > before
    assert [row["id"] for row in read_jsonl(run / "predictions" / "lora.jsonl")] == [r["id"] for r in read_jsonl(test)]
    capsys.readouterr()
    assert main(["ask", str(run), "What does pool cost?"]) == 0
    assert capsys.readouterr().out.startswith("lora: ")
    assert "has the models lora, and base" in refused(capsys, ["ask", str(run), "What?", "--model", "other"])
    assert "is no run folder" in refused(capsys, ["ask", str(tmp_path), "What?"])
    table.write_text(json.dumps(rows[:3]), "utf-8")
    message = refused(capsys, ["run", *own[:2], "--data", str(table), "--run", str(tmp_path / "other")])
    assert "3 rows can be used" in message


def test_a_dataset_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, run = tmp_path / "faq.csv", tmp_path / "run"
    table.write_text("question,answer\n" + "".join(f"What is in box {n}?,{n} apples\n" for n in range(30)), "utf-8")
    command = ["--conf", "smoke", "--data", str(table), "--run", str(run)]
    assert "has no dataset yet" in refused(capsys, ["export", *command])
    assert main(["prepare", *command]) == 0 and main(["export", *command]) == 0
    page = (run / "dataset/export/README.md").read_text("utf-8")
    assert "30 rows read, 30 kept" in page and "apples" in page and (run / "dataset/export/lengths.png").exists()
    whole = [row for part in ("train", "validation", "test") for row in read_jsonl(run / f"dataset/{part}.jsonl")]
    exported = [row for path in (run / "dataset/export/messages").iterdir() for row in read_jsonl(path)]
    assert len(exported) == len(whole)
    assert main(["export", "--run", str(run)]) == 0  # with the configuration that the folder was made with
    assert (run / "dataset/export/README.md").read_text("utf-8") == page
    assert "was made with another configuration" in refused(capsys, ["export", "--run", str(run), "--set", "seed=4"])
    assert "whose examples are used as they are" in refused(capsys, ["create", *command])
    table.write_text("question,answer\nother,rows\n" * 20, "utf-8")
    assert "not the same contents" in refused(capsys, ["prepare", "--run", str(run)])
    dead = ["--set", "endpoint.provider=openai", "--set", "endpoint.base_url=http://127.0.0.1:9"]
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    for command in (
        ["export"],
        ["create", "--glossary", str(table)],
        ["create", *dead],
        ["prepare", "--data", str(tmp_path / "bad.csv")],
    ):
        refused(capsys, [*command, "--run", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_rewordings_go_into_training_and_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question": f"What does {n} {name} weigh?", "answer": f"{n} kg"} for n, name in enumerate("abcdefghijklmnop")
    ]
    table, run = tmp_path / "weights.json", tmp_path / "run"
    table.write_text(json.dumps(rows), "utf-8")
    more = ["--data", str(table), "--set", "data.rewordings=2", "--set", "data.tested_rewordings=5"]
    message = refused(capsys, ["prepare", "--conf", "smoke", "--run", str(run), *more])
    assert "needs a larger language model than the embedded one" in message
    with Talker() as talker:
        talker.fail_from, talker.fails_with = 12, failure(401)
        more += ["--set", "endpoint.parallel_requests=1"]
        assert "401" in refused(capsys, arguments("prepare", run, talker, *more))
        talker.fail_from, kept = None, len(read_jsonl(run / "dataset" / "rewordings.jsonl"))
        assert kept
        assert main(arguments("prepare", run, talker, *more)) == 0
    card = json.loads((run / "dataset" / "card.json").read_text("utf-8"))
    assert card["test"]["reworded"] == 5 and card["train"]["reworded"] >= 1
    assert card["rejected_rewordings"]["worded as before"] >= 1
    asked = [row for row in read_jsonl(run / "dataset" / "test.jsonl") if row["bucket"] == "reworded"]
    learnt = {row["prompt"][0]["content"] for row in read_jsonl(run / "dataset" / "train.jsonl")}
    for row in asked:
        assert row["prompt"][0]["content"] not in learnt
        assert row["prompt"][0]["content"].removeprefix("Please tell me by letter: ") in learnt
        assert row["expected"] == [row["completion"][0]["content"]]


def test_a_changed_writer_or_judge_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    rows = [{"acronym": name, "definition": f"{name} of the town"} for name in ("ABC", "DEF", "GHI")]
    (tmp_path / "words.json").write_text(json.dumps(rows), "utf-8")
    more = ["--conf", "smoke", "--run", str(run), "--glossary", str(tmp_path / "words.json")]
    few = ["--set", "training.adapters={}", "--set", "score.judge_items=4"]
    few += ["--set", f"score.cross_encoder={minilm_folder()}"]  # none is trained

    def through(*stages: str) -> None:
        assert all(main([stage, *more, *few]) == 0 for stage in stages)

    with Talker() as first, Talker() as second:
        monkeypatch.setenv("OPENAI_BASE_URL", first.base_url)
        through("create", "create", "prepare", "answer", "score", "score")
        asked = len(first.requests)
        name = f"scripted-model at {first.base_url}"
        assert json.loads((run / "dataset" / "card.json").read_text("utf-8"))["writers"] == [name]
        assert name in (run / "dataset" / "card.md").read_text("utf-8")
        monkeypatch.setenv("OPENAI_BASE_URL", second.base_url)
        message = refused(capsys, ["create", *more, *few])
        assert f"was made by {name}" in message and second.base_url in message
        assert not second.requests and read_jsonl(run / "dataset" / "conversations.jsonl")
        through("score", "report")
        assert f"judged by {name}" in capsys.readouterr().out
        assert len(second.requests) > 4 and len(first.requests) == asked
    results = json.loads((run / "results.json").read_text("utf-8"))
    assert results["run"]["judge"] == f"scripted-model at {second.base_url}"
    page = (run / "report.html").read_text("utf-8")
    assert page.count(second.base_url) == 2 and first.base_url in page


def test_a_configuration_is_found_from_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("data: {source: nowhere.csv, split: {test: 2}}\n")
    monkeypatch.chdir(tmp_path)
    assert "data.split.test" in refused(capsys, ["prepare", "--conf", "my.yaml"])


def test_a_glossary_given_as_a_table_is_taken_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "words.json"
    path.write_text('[{"acronym": "A", "definition": "b"}, {"acronym": "A", "definition": "c"}]')
    assert "'A' means 'c' here but 'b'" in refused(capsys, ["run", "--conf", "smoke", "--data", str(path)])


@pytest.mark.parametrize(
    ("command", "says"),
    [([], "Usage"), (["prepare", "--glosary", "x"], "No such option"), (["fly"], "No such command 'fly'")],
)
def test_a_command_line_with_mistakes(capsys: pytest.CaptureFixture[str], command: list[str], says: str) -> None:
    assert main(command) == 2
    told = capsys.readouterr()
    assert says in told.out + told.err


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ({"load_dataset": {"path": "owner/name"}}, {"load_dataset": {"path": "owner/name"}}),
        ("s3://bucket/faq.csv?version=7", "s3://bucket/faq.csv"),
    ],
)
def test_the_reports_command_names_a_source_that_is_no_file(smoke_run: SmokeRun, source: object, shown: object) -> None:
    words = shlex.split(_command(smoke_run({"data.source": source})))
    [options] = [word.removeprefix("OPTIONS=") for word in words if word.startswith("OPTIONS=")]
    assert json.loads(shlex.split(options)[1].removeprefix("data.source=")) == shown


def test_a_judge_that_does_not_answer_stops_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = tmp_path / "faq.json", tmp_path / "run"
    table.write_text(json.dumps([{"question": f"What is {n}?", "answer": f"Number {n}."} for n in range(12)]), "utf-8")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    own = ["--conf", "smoke", "--run", str(run), "--data", str(table), "--set", "endpoint.max_attempts=1"]
    assert "127.0.0.1:9/v1 cannot be reached" in refused(capsys, ["run", *own])
    assert (run / "dataset" / "card.json").exists() and not (run / "models").exists()
    assert "has no trained model yet" in refused(capsys, ["ask", str(run), "What?"])


def test_a_value_of_the_command_line_may_hold_a_hash() -> None:
    assert _overrides(["data.separator=#", "data.prompt.system=Be brief. # or not", "seed=3", "data.sheet='#1'"]) == {
        "data.separator": "#", "data.prompt.system": "Be brief. # or not", "seed": 3, "data.sheet": "#1"
    }  # fmt: skip


@pytest.mark.parametrize("other", [{"data": "faq.csv"}, {"pairs": ["data.source=faq.csv"]}])
def test_a_glossary_beside_a_table_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"one source: give the glossary g\.json or the table faq\.csv"):
        _overrides(other.get("pairs"), "g.json", other.get("data"))


def test_two_trainings_do_not_share_a_folder(smoke_run: SmokeRun) -> None:
    run = smoke_run({"training.adapters": {"lora": "none"}})
    run.ensure("dataset", sample="train.jsonl", made_by="nobody")
    with held(run.path / "models" / "lora", "training"), pytest.raises(RunError, match="Another process is training"):
        fine_tune(run)
    assert not (run.path / "models" / "lora").exists()
