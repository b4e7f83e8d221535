"""A capable writer makes the pack of another language; every step then works in it."""

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import arguments, refused
from pack_maker import SPOKEN, PackMaker
from scripted_server import Response, failure

from helpers.course import main
from helpers.data.example import read_examples
from helpers.data.glossary.phrasings import fill
from helpers.data.languages.making import answer_fault, asserting, not_asking, resembled, shot_fault
from helpers.data.languages.pack import load_pack
from helpers.data.matching import is_correct
from helpers.files import read_jsonl
from helpers.installed import minilm_folder

GLOSSARIES = {
    "el": [
        {"acronym": "ΔΕΥΑ", "definition": "Δημοτική Επιχείρηση Ύδρευσης και Αποχέτευσης"},
        {"acronym": "ΚΕΠ", "definition": "Κέντρο Εξυπηρέτησης Πολιτών"},
        {"acronym": "ΤΑΠ", "definition": "Τέλος Ακίνητης Περιουσίας", "field": "δήμος"},
        {"acronym": "ΤΑΠ", "definition": "Ταμείο Αρχαιολογικών Πόρων", "field": "πολιτισμός"},
    ],
    "ja": [
        {"acronym": "SKK", "definition": "市民交流会館"},
        {"acronym": "DBK", "definition": "電気防災計画"},
        {"acronym": "MRS", "definition": "港湾利用推進室"},
        {"acronym": "KKH", "definition": "公園管理費"},
    ],
}  # fmt: skip
LETTERS = {"el": r"[\u0370-\u03ff\u1f00-\u1fff]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]"}


@pytest.fixture
def maker() -> Iterator[PackMaker]:
    with PackMaker() as server:
        yield server


def command(code: str, tmp_path: Path, server: PackMaker, *more: str) -> list[str]:
    given, *options = arguments("make-pack", tmp_path / "made", server, "--set", "endpoint.model=scripted-model", *more)
    return [given, code, "--to", str(tmp_path), *options]


@pytest.mark.parametrize("code", ["el", "ja"])
def test_the_pack_passes_the_checks_of_those_of_the_course(
    code: str, maker: PackMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(code, tmp_path, maker)) == 0
    pack, name = load_pack(str(tmp_path / f"{code}.yaml")), {"el": "Greek", "ja": "Japanese"}[code]
    assert (pack.name, pack.language) == (code, name)
    assert len(pack.train.forward) >= 30 and len(pack.train.reverse) >= 15 and len(pack.refusals) > 2
    for kind in ("forward", "reverse"):
        assert not [text for text in pack.train[kind] if resembled(text, pack.test[kind])]
        assert not [fault for shot in pack.examples[kind] if (fault := shot_fault(kind, shot, pack))]
        assert not [fault for text in pack.answers[kind] if (fault := answer_fault(kind, text, pack))]
        assert pack.asks and not not_asking(pack.asks[kind], pack.train[kind])
    assert pack.asserting and not asserting(pack)
    refusal, claim = (fill(of[0], acronym="QZX") for of in (pack.answers.unknown, pack.answers.forward))
    assert is_correct("declines", refusal, pack.refusals) and not is_correct("declines", claim, pack.refusals)
    head, told = (tmp_path / f"{code}.yaml").read_text("utf-8").split("\n\n")[0], capsys.readouterr().out
    assert "scripted-model at http" in head and f"A person who speaks {name} has to read" in head
    assert f"dataset.language: {tmp_path / code}.yaml" in told
    assert SPOKEN[name]["unknown"].removeprefix("{acronym}") in told and "{" not in told


@pytest.mark.parametrize("code", ["el", "ja"])
def test_a_glossary_passes_every_step(code: str, maker: PackMaker, tmp_path: Path) -> None:
    assert main(command(code, tmp_path, maker)) == 0
    language, glossary, run = str(tmp_path / f"{code}.yaml"), tmp_path / "glossary.json", tmp_path / "run"
    maker.packs.append(language)
    glossary.write_text(json.dumps(GLOSSARIES[code]), "utf-8")
    set_ = [f"dataset.language={language}", "dataset.max_entries=null", "endpoint.model=scripted-model"]
    set_ += [
        "training.adapters={lora: none}",
        "training.max_length_tokens=512",
    ]  # the tiny model reads Greek letter by letter
    set_.append(f"score.cross_encoder={minilm_folder()}")  # none is trained
    options = ["--glossary", str(glossary), *(word for each in set_ for word in ("--set", each))]
    for step in ("create", "prepare", *(("fine-tune", "answer", "score", "report") if code == "el" else ())):
        assert main(arguments(step, run, maker, *options)) == 0
    written = read_jsonl(run / "dataset" / "conversations.jsonl")
    assert {row["origin"] for row in written} == {"model", "bank"} and any("form" in row for row in written)
    train, test = (read_examples(run / "dataset" / f"{name}.jsonl") for name in ("train", "test"))
    own = [example for example in [*train, *test] if not example.bucket.startswith("general")]
    assert {example.bucket for example in own} == {"forward", "reverse", "new_phrasing", "unknown"}
    for example in own:
        assert re.search(LETTERS[code], example.question) and re.search(LETTERS[code], example.answer)
        assert not re.search(r"\b(?:what|stands|acronym|glossary)\b", example.question + example.answer)
    if code == "el":  # invented acronyms must not be told by their script
        assert any(re.fullmatch("[Α-Ω]+", example.subject) for example in train if example.bucket == "unknown")
    unknown = [example for example in test if example.bucket == "unknown"]
    assert all("δεν το γνωρίζω" in each.answer or "分かりません" in each.answer for each in unknown)
    if code == "el":
        assert "Greek" in (run / "dataset" / "card.md").read_text("utf-8")
        assert json.loads((run / "results.json").read_text("utf-8"))["models"]["lora"]["buckets"]["unknown"]["n"] == 6


def test_what_is_spoilt_is_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    class Spoiling(PackMaker):
        def spoil(self, asked: str, texts: list[str]) -> list[str]:
            if '"refused"' in asked:
                return texts
            return [text.replace("{where}", "") if number % 3 == 0 else text for number, text in enumerate(texts)]

    with Spoiling() as server:
        assert main(command("el", tmp_path, server)) == 0
        asked = [request.body["messages"][-1]["content"] for request in server.requests]
    assert len(load_pack(str(tmp_path / "el.yaml")).test.forward) > 10
    assert any("expected {acronym} and {where} once" in text for text in asked)


@pytest.mark.parametrize(
    ("junk", "says"),
    [
        (lambda texts: ["Hm." for _ in texts], "wrote too little in"),
        (lambda texts: [text.replace("{", "[") for text in texts], "expected {"),
        (lambda texts: ["<|im_end|>" for _ in texts], "control tokens"),
        (lambda texts: [f"{text}\x07" for text in texts], "control characters"),
        (lambda texts: [text.replace("{", "{{").replace("}", "}}") for text in texts], "further braces"),
        (lambda texts: [text.replace("{where}", " {where}") for text in texts], "a space before {where}"),
    ],
)
def test_junk_is_refused_in_a_sentence(
    junk: object, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Junk(PackMaker):
        def spoil(self, asked: str, texts: list[str]) -> list[str]:
            return list(junk(texts)) if "English name" not in asked else texts  # type: ignore[operator]

    with Junk() as server:
        told = refused(capsys, command("el", tmp_path, server)).splitlines()[-1]
    assert says in told and told.startswith("scripted-model at http") and "more capable model" in told
    assert not list(tmp_path.glob("*.yaml"))


def test_words_that_find_nothing_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    class Wordless(PackMaker):
        def spoil(self, asked: str, texts: list[str]) -> list[str]:
            if "verbs that say" in asked:
                return ["πρακτικά", "έντυπο", "μήνυμα"]  # half of the questions would be claims
            wordless = "every question" in asked or "nothing is known" in asked or "clauses that ask" in asked
            return ["σκύλος"] * len(texts) if wordless else texts

    with Wordless() as server:
        assert main(command("el", tmp_path, server)) == 0
    pack, head = load_pack(str(tmp_path / "el.yaml")), (tmp_path / "el.yaml").read_text("utf-8").split("\n\n")[0]
    assert pack.asks is None and pack.asserting is None and not pack.refusals
    assert all(f"nothing usable came: {key}: " in head for key in ("asks", "asserting", "refusals"))


def test_a_file_is_not_overwritten_unasked(
    maker: PackMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "el.yaml"
    mine.write_text("mine", "utf-8")
    assert "--overwrite" in refused(capsys, command("el", tmp_path, maker))
    assert mine.read_text("utf-8") == "mine" and not maker.requests
    assert main(command("el", tmp_path, maker, "--overwrite")) == 0
    assert load_pack(str(mine)).language == "Greek"


def test_a_file_in_the_place_of_a_folder_is_said_first(
    maker: PackMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "packs").write_text("mine", "utf-8")
    assert "packs is a file" in refused(capsys, command("el", tmp_path / "packs", maker))
    assert not maker.requests


@pytest.mark.parametrize(
    ("language", "more", "says"),
    [
        ("fr", [], "There is a pack of this language"),
        ("French", [], "Set dataset.language: fr."),
        ("../el", [], "expects a code or a name"),
        ("el", ["--set", "endpoint.provider=embedded", "--set", "endpoint.base_url=null"], "larger language model"),
    ],
)
def test_what_cannot_be_made(
    language: str, more: list[str], says: str, maker: PackMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, command(language, tmp_path, maker, *more))
    assert not maker.requests


def test_ctrl_c_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Any] = []  # Python drops one that arrives in a finaliser; only then it is pressed again
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))

    class Interrupting(PackMaker):
        def _say(self, number: int, path: str, body: dict[str, object]) -> Response:
            if number == 5 or (number == 15 and KeyboardInterrupt in dropped):
                signal.raise_signal(signal.SIGINT)
            return super()._say(number, path, body)

    with Interrupting() as server:
        assert main(command("el", tmp_path, server)) == 130
    assert "Stopped." in capsys.readouterr().err and not (tmp_path / "el.yaml").exists()


def test_a_stopped_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Dying(PackMaker):
        alive = 14

        def _say(self, number: int, path: str, body: dict[str, object]) -> Response:
            return super()._say(number, path, body) if number < self.alive else failure(500)

    whole, dying = tmp_path / "whole", tmp_path / "dying"
    with PackMaker() as server:
        assert main(command("el", whole, server)) == 0
        needed = len(server.requests)
    with Dying() as server:
        once = ["--set", "endpoint.max_attempts=1", "--set", "endpoint.parallel_requests=1"]
        assert "500" in refused(capsys, command("el", dying, server, *once))
        assert not (dying / "el.yaml").exists()
        parts = dying / "made" / "languages" / "el.jsonl"
        kept = read_jsonl(parts)
        with parts.open("ab") as file:
            file.write(b'{"piece": "train.forw')  # as a kill leaves it
        before, server.alive = len(server.requests), 10**6
        assert main(command("el", dying, server, *once)) == 0
        assert kept and len(server.requests) - before <= needed - len(kept) + 1  # the probe is asked again
    made = [(path / "el.yaml").read_text("utf-8").split("\n\n", 1)[1] for path in (whole, dying)]
    assert made[0] == made[1]
