"""Run folders: which configuration they belong to, what they remember, and where they start from."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fixture_types import GlossaryFile, SmokeRun

from helpers import run as run_module
from helpers.config import load_config
from helpers.errors import RunError
from helpers.provenance import surroundings
from helpers.run import _usual_folder, open_run, reopen_run

ENTRY = {"acronym": "ABC", "definition": "Alpha Beta Gamma"}


def test_the_same_configuration_opens_the_same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    glossary = tmp_path / "example_data" / "acronyms.json"
    glossary.parent.mkdir()
    glossary.write_text(json.dumps([ENTRY]))
    monkeypatch.setattr(run_module, "PROJECT_ROOT", tmp_path)
    first = open_run("smoke", overrides={"glossary": str(glossary)})
    assert first.path.name == f"smoke-{first.config.fingerprint()}"
    again = open_run("smoke", overrides={"glossary": str(glossary), "endpoint.timeout_s": 3})
    other = open_run("smoke", overrides={"glossary": str(glossary), "seed": 1})
    assert again.path == first.path != other.path
    assert not (tmp_path / "runs").exists()  # nothing was made


def test_latest_leads_to_the_run_that_last_made_something(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_module, "PROJECT_ROOT", tmp_path)
    latest, first, other = tmp_path / "runs" / "latest", open_run("smoke"), open_run("smoke", overrides={"seed": 1})
    for run in (first, other):
        with run.stage("s", [], [run.path / "out.txt"]):
            (run.path / "out.txt").write_text("x")
        assert latest.resolve() == run.path
    open_run("smoke", overrides={"seed": 2})
    with pytest.raises(ValueError, match="x"), open_run("smoke", overrides={"seed": 3}).stage("s", [], []):
        raise ValueError("x")
    assert latest.resolve() == other.path
    open_run("smoke")
    assert latest.resolve() == first.path


def test_a_folder_of_another_configuration_is_refused(smoke_run: SmokeRun) -> None:
    assert reopen_run(smoke_run().path, unchanged=True).config.seed == 0
    with pytest.raises(RunError, match=r"seed was 0, is 4; threads was None, is 1"):
        smoke_run({"seed": 4, "threads": 1})
    assert smoke_run({"endpoint.max_attempts": 1}).config.endpoint.max_attempts == 1


def test_of_two_configurations_in_one_folder_the_first_to_begin_has_it(tmp_path: Path) -> None:
    first, second = (open_run("smoke", tmp_path / "run", {"seed": seed}) for seed in (1, 2))
    with pytest.raises(RunError, match="seed was 1, is 2"), first.stage("one"), second.stage("one"):
        pass
    assert open_run("smoke", tmp_path / "run", {"seed": 1}).config.seed == 1


@pytest.mark.parametrize(
    ("made", "free"), [(None, True), ("dataset/.part/rows.txt", True), ("dataset/rows.txt", False)]
)
def test_a_stage_that_fails_before_it_made_anything_leaves_the_folder_to_another_configuration(
    smoke_run: SmokeRun, made: str | None, free: bool
) -> None:
    run = smoke_run()
    with pytest.raises(ZeroDivisionError), run.stage("one"):
        if made:
            (run.path / made).parent.mkdir(parents=True)
            (run.path / made).touch()
        raise ZeroDivisionError
    if free:
        assert smoke_run({"seed": 5}).config.seed == 5
    else:
        with pytest.raises(RunError, match="seed was 0, is 5"):
            smoke_run({"seed": 5})


def test_a_stage_that_fails_beside_another_leaves_the_folder_as_it_is(smoke_run: SmokeRun) -> None:
    run = smoke_run()
    with run.stage("one"), pytest.raises(ZeroDivisionError), run.stage("two"):
        raise ZeroDivisionError
    assert smoke_run().finished("one")


def test_a_changed_glossary_is_refused(smoke_run: SmokeRun, glossary_file: GlossaryFile) -> None:
    path = glossary_file([ENTRY])
    smoke_run({"glossary": str(path)})
    glossary_file([ENTRY, {"acronym": "X", "definition": "Ypsilon"}])
    with pytest.raises(RunError, match=r"not the same contents: glossary.json"):
        smoke_run({"glossary": str(path)})


def test_a_run_folder_that_is_a_file(smoke_run: SmokeRun, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError, match="run is a file"):
        smoke_run()
    assert (tmp_path / "run").read_text() == "x"


def test_a_folder_of_something_else_is_left_as_it_is(smoke_run: SmokeRun, tmp_path: Path) -> None:
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("model: mine\n")
    with pytest.raises(RunError, match=r"config\.yaml is not, or no longer, what a run writes"):
        smoke_run()
    assert (tmp_path / "run" / "config.yaml").read_text() == "model: mine\n"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"fingerprint": "a", "stages": {"prepare": {}}}', '{"stages": {"a": 5}}']
)
def test_a_damaged_manifest(content: str, smoke_run: SmokeRun) -> None:
    run = smoke_run()
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged\. Delete it"):
        smoke_run()


def test_finished_follows_inputs_and_outputs(smoke_run: SmokeRun, tmp_path: Path) -> None:
    run = smoke_run()
    source, target = tmp_path / "in.txt", run.path / "out.txt"
    source.write_text("1")
    assert not run.finished("copy", [source])
    with run.stage("copy", [source], [target]):
        target.write_text("1")
    assert run.finished("copy", [source])
    assert smoke_run().finished("copy", [source])
    target.write_text("changed")
    assert not run.finished("copy", [source])
    target.unlink()
    assert not run.finished("copy", [source])
    target.write_text("1")
    assert run.finished("copy", [source])
    source.write_text("2")
    assert not run.finished("copy", [source])


def test_a_stage_says_whether_it_may_go_on_with_what_is_there(
    smoke_run: SmokeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = smoke_run()
    source = tmp_path / "in.txt"

    def killed(code: tuple[str, ...] = ("models",), asked: str = "") -> bool:
        with pytest.raises(KeyboardInterrupt), run.stage("copy", [source], code=code, asked=asked) as own:
            (run.path / "part.txt").touch()
            raise KeyboardInterrupt
        return bool(own)

    source.write_text("1")
    assert [killed(), killed()] == [True, True]  # the first finds what a reader put there
    source.write_text("2")
    assert [killed(), killed()] == [False, True]
    assert [killed(("models", "training")), killed(("models", "training"))] == [False, True]
    with run.stage("copy", [source], code=("models",)):
        pass
    assert run.finished("copy", [source], ("models",)) and not run.finished("copy", [source], ("training",))
    assert killed() and not killed(asked="a server")
    assert "made anew" not in capsys.readouterr().out
    assert not killed(("training",))
    assert "copy: made anew, because the code of the course changed." in capsys.readouterr().out
    source.write_text("3")
    assert not killed()
    assert "copy: made anew, because in.txt changed." in capsys.readouterr().out


def test_answers_of_example_data_are_not_taken_for_a_runs_own(smoke_run: SmokeRun) -> None:
    run = smoke_run()
    run.ensure("predictions", sample="base.jsonl", made_by="it")
    path = run.path / "predictions" / "base.jsonl"
    owns = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), run.stage("answer base", outputs=[path]) as own:
            owns.append(own)
            raise KeyboardInterrupt
    assert owns == [False, True]


def test_two_of_one_stage_may_end_at_once(smoke_run: SmokeRun) -> None:
    run = smoke_run()
    with run.stage("one"), run.stage("one"):
        pass
    assert run.finished("one")


def test_another_chat_server_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("smoke")
    folders = [_usual_folder(config).name]
    for model in ("m", "n"):
        monkeypatch.setenv("OPENAI_BASE_URL", "http://user:word@host:1/v1")
        monkeypatch.setenv("OPENAI_MODEL", model)
        folders.append(_usual_folder(config).name)
    assert len({*folders}) == 3 and folders[0] == f"smoke-{config.fingerprint()}"


def test_a_stage_that_fails_is_not_finished(smoke_run: SmokeRun) -> None:
    run = smoke_run()
    with pytest.raises(ZeroDivisionError), run.stage("bad"):
        raise ZeroDivisionError
    assert not run.finished("bad")


def test_ensure_starts_from_example_data(
    smoke_run: SmokeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    examples = tmp_path / "examples"
    (examples / "dataset").mkdir(parents=True)
    (examples / "dataset" / "test.jsonl").write_text('{"id": "x"}\n')
    monkeypatch.setattr(run_module, "EXAMPLES", examples)
    run = smoke_run()
    folder = run.ensure("dataset", sample="test.jsonl", made_by="a notebook")
    assert (folder / "test.jsonl").read_text() == '{"id": "x"}\n'
    assert run.manifest["from_example_data"] == ["dataset"]
    assert "example_data/dataset" in capsys.readouterr().out
    (folder / "test.jsonl").write_text("own")
    assert (run.ensure("dataset", sample="test.jsonl", made_by="it") / "test.jsonl").read_text() == "own"
    with pytest.raises(RunError, match=r"base\.jsonl is missing. Run a notebook"):
        run.ensure("predictions", sample="base.jsonl", made_by="a notebook")


@pytest.mark.parametrize("key", ["data.source", "glossary"])
def test_nobodys_own_data_are_replaced_by_examples(smoke_run: SmokeRun, tmp_path: Path, key: str) -> None:
    own = tmp_path / "own.csv"
    own.write_text("acronym,definition\nAB,A Bee\n" if key == "glossary" else "question,answer\nWho?,Me.\n")
    run = smoke_run({key: str(own)})
    with pytest.raises(RunError, match=r"train\.jsonl is missing\. Run 02"):
        run.ensure("dataset", sample="train.jsonl", made_by="02")
    assert not (run.path / "dataset").exists()


def test_ensure_does_not_mix_own_files_with_examples(smoke_run: SmokeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = smoke_run()
    (run.path / "dataset").mkdir()
    (run.path / "dataset" / "conversations.jsonl").write_text("{}\n")
    examples = run.path.parent / "examples" / "dataset"
    examples.mkdir(parents=True)
    (examples / "test.jsonl").write_text("{}\n")
    monkeypatch.setattr(run_module, "EXAMPLES", examples.parent)
    with pytest.raises(RunError, match=r"is missing\. Run 02"):
        run.ensure("dataset", sample="test.jsonl", made_by="02")


def test_manifest_says_what_was_run(smoke_run: SmokeRun) -> None:
    manifest = smoke_run().manifest
    assert manifest["fingerprint"] and manifest["versions"]["torch"]
    assert str(Path.home()) not in json.dumps({**manifest, "stages": {}})


def test_the_revision_is_that_of_the_package_and_reads_no_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "helpers"
    monkeypatch.setattr("helpers.provenance.HELPERS", package)
    package.mkdir()
    assert surroundings()["code_revision"] is None
    code, notebook, filtered = package / "a.py", tmp_path / "a.ipynb", tmp_path / "filtered"
    code.write_text("1")
    notebook.write_text("1")
    (tmp_path / ".gitattributes").write_text("*.ipynb filter=slow\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (
        ["init"],
        ["add", "."],
        ["commit", "-m", "1"],
        ["config", "filter.slow.clean", f"touch {filtered}"],
    ):
        subprocess.run([*git, *command], check=True, capture_output=True)
    notebook.write_text("a reader's outputs")
    revision = surroundings()["code_revision"]
    assert revision and not revision.endswith("-dirty") and not filtered.exists()
    code.write_text("2")
    assert surroundings()["code_revision"] == f"{revision}-dirty"


MEASURE = """
from helpers.provenance import measured
with measured() as small:
    pass
with measured() as cost:
    block = bytearray(b"x") * (200 * 2**20)
assert cost["peak_memory_mb"] > small["peak_memory_mb"] + 100, (small, cost)
assert cost["seconds"] > 0
"""


def test_measured_sees_memory_and_time() -> None:
    # In a process of its own: this one may hold freed memory that it would fill without growing.
    subprocess.run([sys.executable, "-c", MEASURE], check=True)


def test_stages_that_end_at_once_are_all_in_the_manifest(smoke_run: SmokeRun) -> None:
    run = smoke_run()

    def end(number: int) -> None:
        with run.stage(f"stage {number}"):
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(40)))
    assert len(run.manifest["stages"]) == 40
