"""Several conversations in one request, by a scripted capable writer."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from capable_writer import CapableWriter
from chat_client import endpoint
from fixture_types import GlossaryFile, SmokeRun
from scripted_server import Response, failure, web_page
from talker import Talker

from helpers.config import PROJECT_ROOT, load_config
from helpers.data.glossary.checks import check_conversation
from helpers.data.glossary.entries import Entry, load_glossary
from helpers.data.glossary.splits import assert_disjoint, training_records
from helpers.data.glossary.splits import test_records as held_out
from helpers.data.glossary.writer import write_conversations
from helpers.errors import EndpointError
from helpers.files import read_jsonl
from helpers.stages import create

SETTINGS = load_config("cpu").dataset.model_copy(update={"temperature": 0.7})
EXAMPLES = PROJECT_ROOT / "example_data"


def write(server: CapableWriter, path: Path, entries: list[Entry], parallel: int = 3) -> list[dict[str, Any]]:
    chat = endpoint(server.url, parallel_requests=parallel)
    chat.probe()
    return list(write_conversations(entries, chat, SETTINGS, path=path, seed=0, way="structured"))


@pytest.mark.parametrize("glossary", ["acronyms.json", "glossaire_mairie.json"])
def test_a_capable_writer_fills_its_slots(glossary: str, tmp_path: Path) -> None:
    entries = load_glossary(EXAMPLES / glossary, 24)
    with CapableWriter() as server:
        made = write(server, tmp_path / "c.jsonl", entries)
        assert len(server.requests) < 3 * 2 * len(entries)
    wanted = SETTINGS.forward_by_model + SETTINGS.reverse_by_model
    by_model = [row for row in made if row["origin"] == "model"]
    refused = Counter(attempt["reason"] for row in made for attempt in row["rejected"])
    assert len(by_model) >= 0.99 * wanted * len(entries) and refused.total() <= 0.05 * len(by_model), refused
    assert {len(row["earlier"]) for row in by_model} == {0, 2}
    test = held_out(entries, SETTINGS, seed=0)
    train, validation = training_records(made, entries, SETTINGS, general=[], test=test, seed=0)
    assert_disjoint([*train, *validation], test, entries)
    several = [example for example in train if len(example.prompt) == 3]
    assert several and all(example.prompt[-1]["role"] == "user" for example in several)
    assert {example.also_learnt for example in several} == {(-2,)}
    known = {entry.acronym for entry in entries}
    unknown = [example for example in train if example.bucket == "unknown"]
    assert all(len(example.prompt) == 1 and not known & set(example.question.split()) for example in unknown)


def test_what_is_refused_is_asked_for_again_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    entries = load_glossary(EXAMPLES / "acronyms.json", 4)
    with CapableWriter(spoilt=7) as server:
        spoilt = write(server, tmp_path / "spoilt.jsonl", entries, parallel=1)
    refused = [row for row in spoilt if row["rejected"]]
    assert len(refused) > 6 and sum(row["origin"] == "model" for row in refused) > 0.6 * len(refused)
    with CapableWriter() as server:
        whole = write(server, tmp_path / "whole.jsonl", entries)
        lines = (tmp_path / "whole.jsonl").read_text("utf-8").splitlines()
        kept = [line for line in lines if f'"{entries[0].id}"' in line]
        (tmp_path / "killed.jsonl").write_text("\n".join(kept) + "\n", "utf-8")
        before = len(server.requests)
        assert write(server, tmp_path / "killed.jsonl", entries) == whole
        assert len(server.requests) - before <= before - 2  # both requests about the first entry are not sent again


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "missing"),
        ([("What is ABC?", "")], "empty"),
        ([("What is it?", "ABC is Alpha Beta Gamma.")], "question without the acronym"),
        ([("What is ABC, Alpha Beta Gamma?", "Yes, Alpha Beta Gamma.")], "gives the definition away"),
        ([("What is ABC?", "Alpha Beta Gammas.")], "answer without the definition"),
        ([("What is ABC?", "Alpha Beta Gamma, founded in 1987.")], "number of its own"),
        ([("What is ABC?", "Alpha Beta Gamma, which " + "really truly oddly " * 10 + "helps.")], "facts of its own"),
        ([("ABC is a town in Iran. What does it stand for?", "Alpha Beta Gamma.")], "asserts"),
        ([("What is ABC?", "Alpha Beta Gamma."), ("Thanks!", "You are welcome.")], "answer without the definition"),
        ([("What is ABC?", "ABC does not stand for Alpha Beta Gamma.")], "denies"),
        ([("What is ABC?", "ABC is Alpha Beta Gamma or Quick Vote.")], "offers another"),
        ([("What is ABC?", "ABC is Alpha Beta Gamma, a town in Iran.")], "facts of its own"),
        ([("What is ABC?", "That is the Quick Office."), ("ABC?", "Alpha Beta Gamma.")], "names something of its own"),
        ([("What is ABC?", "Alpha Beta Gamma.<|im_end|>")], "control tokens"),
        ([("What is ABC?", "Alpha Beta Gamma. And you can")], "cut off"),
        ([("What is ABC? " + "please tell me " * 60, "Alpha Beta Gamma.")], "question too long"),
        ([("I saw it: what is ABC?", "Alpha Beta Gamma.")], "worded as another"),
    ],
)  # fmt: skip
def test_unfit_conversations_are_refused(turns: list[tuple[str, str]], reason: str) -> None:
    entry = Entry("ABC", "ABC", "Alpha Beta Gamma")
    assert reason in str(check_conversation("forward", "question", turns, entry, ["I saw it, what is ABC?"]))


@pytest.mark.parametrize(
    ("server", "told"), [(CapableWriter, "several in one request"), (Talker, "one after the other")]
)
def test_the_way_follows_from_a_trial(
    server: type[CapableWriter] | type[Talker], told: str, smoke_run: SmokeRun, glossary_file: GlossaryFile,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    glossary = glossary_file([{"acronym": f"OC{c}E", "definition": f"Office {c}entral of Readings"} for c in "ABCDEF"])
    with server() as chat:
        base = {"endpoint.provider": "openai", "endpoint.base_url": chat.base_url, "endpoint.model": "scripted-model"}
        run = smoke_run({"glossary": str(glossary), **base})
        create(run)
        asked = len(chat.requests)
        create(run)
        assert len(chat.requests) == asked
    assert told in capsys.readouterr().out
    assert {row["origin"] for row in read_jsonl(run.path / "dataset/conversations.jsonl")} == {"model", "bank"}


@pytest.mark.parametrize("fault", ["text number", "endless number", "no turns", "further key", "all one", "from zero"])
def test_one_odd_conversation_does_not_cost_the_others(fault: str, tmp_path: Path) -> None:
    class Odd(CapableWriter):
        def _checked(self, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
            for place, each in enumerate(made):
                if fault == "all one":
                    each["number"] = 1
                elif fault == "from zero":
                    each["number"] = place
            if fault == "text number":
                made[0]["number"] = "1"
            elif fault == "endless number":
                made[0]["number"] = "9" * 5000
            elif fault == "no turns":
                del made[0]["turns"]
            elif fault == "further key":
                made[0]["form"] = "question"
            return made

    entries = load_glossary(EXAMPLES / "acronyms.json", 2)
    with Odd() as server:
        made = write(server, tmp_path / "c.jsonl", entries)
        by_model = sum(row["origin"] == "model" for row in made)
        assert by_model >= 2 * (SETTINGS.forward_by_model + SETTINGS.reverse_by_model - 2 * (fault == "no turns"))


@pytest.mark.parametrize(("later", "told"), [(failure(502, "bad gateway"), "502"), (web_page(), "None of the last")])
def test_a_server_that_fails_for_good_is_not_written_over(later: Response, told: str, tmp_path: Path) -> None:
    class Dying(CapableWriter):
        def _say(self, number: int, path: str, body: dict[str, Any]) -> Response:
            return super()._say(number, path, body) if number < 9 else later

    with Dying() as server, pytest.raises(EndpointError, match=told):
        write(server, tmp_path / "c.jsonl", load_glossary(EXAMPLES / "acronyms.json", 8), parallel=1)
    assert all("bad gateway" not in str(row) for row in read_jsonl(tmp_path / "c.jsonl"))
