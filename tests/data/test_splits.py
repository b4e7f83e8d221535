"""Training and test sets: disjoint, reproducible, and made from any glossary."""

import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from chat_client import endpoint
from fixture_types import GlossaryFile

from helpers.config import load_config
from helpers.data.example import Example, asked, read_examples, write_examples
from helpers.data.glossary.entries import Entry, load_glossary
from helpers.data.glossary.invented import Maker, held_out_makers, invent_acronyms, training_makers
from helpers.data.glossary.phrasings import fill, fill_entry
from helpers.data.glossary.splits import assert_disjoint, shortfall, test_records, training_records
from helpers.data.glossary.writer import write_conversations
from helpers.data.languages.pack import load_pack
from helpers.errors import RunError

test_records.__test__ = False  # type: ignore[attr-defined]  # the name of a function, not of a test
BANK, BANK_FR = load_pack(), load_pack("fr")
GENERAL = [Example("general/0", "general", asked("How many days has a week?"), "Seven.")]
GLOSSARIES: dict[str, list[dict[str, str]]] = {
    "latin": [{"acronym": f"AB{letter}", "definition": f"Alpha Beta {letter}."} for letter in "CDEF"],
    "greek": [{"acronym": "ΔΕΗ", "definition": "Δημόσια Επιχείρηση Ηλεκτρισμού", "field": "ενέργεια"}],
    "arabic": [{"acronym": "م.ت.ف", "definition": "منظمة التحرير"}, {"acronym": "أوبك", "definition": "منظمة الدول"}],
    "chinese": [{"acronym": "央行", "definition": "中国人民银行"}, {"acronym": "北大", "definition": "北京大学"}],
    "one": [{"acronym": "A", "definition": "a"}],
    "two fields": [
        {"acronym": "MS", "definition": "Multiple Sclerosis", "field": "health"},
        {"acronym": "MS", "definition": "Member State", "field": "law"},
    ],
    "french": [
        {"acronym": "DOVÉ", "definition": "Délégation aux objets volés et égarés"},
        {"acronym": "OCLET", "definition": "Office communal des lectures et du théâtre", "field": "culture"},
        {"acronym": "OCLET", "definition": "Observatoire des chantiers de l’État", "field": "urbanisme"},
    ],
    "odd signs": [
        {"acronym": "C++", "definition": 'C "plus" {plus}\nor {acronym}'},
        {"acronym": "A/B-7", "definition": "a \\1 backslash's (end"},
    ],
}  # fmt: skip


BY_BANK = load_config("smoke").dataset.model_copy(
    update={"forward_by_model": 0, "forward_by_bank": 12, "reverse_by_model": 0, "reverse_by_bank": 6}
    | {"unknown_train": 9, "validation_share": 0.1}
    | {"test_new_phrasings": 3, "test_reverse": 2, "test_unknown": 10, "test_general": 5}
)


def make(entries: list[Entry], path: Path, seed: int = 0) -> tuple[list[Any], list[Any], list[Any]]:
    nobody = endpoint("http://127.0.0.1:9")  # the bank words everything
    conversations = [*write_conversations(entries, nobody, BY_BANK, path=path, seed=seed)]
    test = test_records(entries, BY_BANK, seed=seed)
    train, validation = training_records(conversations, entries, BY_BANK, general=GENERAL, test=test, seed=seed)
    return train, validation, test


@pytest.mark.parametrize("name", GLOSSARIES)
def test_any_glossary_makes_disjoint_sets(name: str, glossary_file: GlossaryFile, tmp_path: Path) -> None:
    entries = load_glossary(glossary_file(GLOSSARIES[name]))
    train, validation, test = make(entries, tmp_path / "c.jsonl")
    everything = [*train, *validation]
    assert len(everything) == (18 + 9) * len(entries) + 1
    assert len(validation) == round(0.1 * len(everything))
    assert len({record.id for record in everything}) == len(everything)
    general = 5 if entries[0].pack.name == "en" else 10
    assert len({item.id for item in test}) == len(test) == 5 * len(entries) + 10 + general
    assert assert_disjoint(everything, test, entries)["highest_overlap"] < 80
    by_id = {entry.id: entry for entry in entries}
    for record in everything:
        question, answer = record.question, record.answer
        if record.bucket == "forward":
            acronym = by_id[record.subject].acronym
            assert acronym in question or (acronym.lower() in question and len(acronym) > 3)
            assert by_id[record.subject].definition in answer
        elif record.bucket == "reverse":
            assert by_id[record.subject].definition in question and by_id[record.subject].acronym in answer
        elif record.bucket == "unknown":
            assert record.subject in question or record.subject.lower() in question
    for item in test:
        if item.bucket == "new_phrasing":
            assert item.expected == (by_id[item.subject].definition,) and item.check == "contains"
            assert by_id[item.subject].definition in item.answer
        elif item.bucket == "reverse":
            assert (item.check == "contains_cased") is (len(item.expected[0]) <= 3)
    assert make(entries, tmp_path / "again.jsonl") == (train, validation, test)


def test_declines_are_worded_like_the_questions_about_every_entry(tmp_path: Path) -> None:
    entries = [Entry(a, a, f"{a} defined") for a in ("ABCD", "EFGH", "IJKL", "MNOP")]
    conversations = [
        {"id": f"{e.id}/{n}", "kind": "forward", "entry": e.id, "origin": "bank", "question": f"{e.id}{n} {e.id}"}
        | {"answer": ""}
        for e in entries
        for n in range(10)
    ]
    settings = BY_BANK.model_copy(update={"unknown_train": 3, "validation_share": 0})
    train, _ = training_records(conversations, entries, settings, general=[], test=[], seed=0)
    declined = [record.question for record in train if record.bucket == "unknown"]
    assert len(declined) == 12
    assert len({next(e.id for e in entries if e.id in question) for question in declined}) >= 3


def test_some_questions_type_acronyms_in_lower_case(tmp_path: Path) -> None:
    entries = [Entry(a, a, f"{a[::-1]} defined") for a in ("ABCD", "EFGH", "IJKLM", "NOP", "VADÉ", "QR-ST")]
    everything: list[Any] = []
    for number in range(3):
        train, validation, test = make(entries, tmp_path / f"{number}.jsonl", seed=number)
        everything += [*train, *validation]
        assert all(item.subject in item.question for item in test if item.bucket == "new_phrasing")
    lower = [r for r in everything if r.bucket in ("forward", "unknown") and r.subject not in r.question]
    assert all(record.subject.lower() in record.question for record in lower)
    known = Counter(record.subject for record in lower if record.bucket == "forward")
    assert known.keys() == {entry.id for entry in entries} - {"NOP"}
    assert 20 <= known.total() <= 45  # of 180
    assert all(record.subject in record.answer for record in lower if record.bucket == "forward")
    assert BANK.invented
    declined = [record for record in lower if record.bucket == "unknown"]
    assert declined and not {*BANK.invented.train} & {record.subject for record in declined}
    assert all(record.subject.lower() in record.answer for record in declined)


def test_acronyms_that_differ_in_case_alone_keep_it(tmp_path: Path) -> None:
    entries = [Entry(a, a, f"{number} defined") for number, a in enumerate(("COCO", "CoCo", "coco", "İSTB"))]
    train, validation, _ = make(entries, tmp_path / "c.jsonl")
    forward = [record for record in (*train, *validation) if record.bucket == "forward"]
    assert all(record.subject in record.question for record in forward)


@pytest.mark.parametrize("makers", [training_makers, held_out_makers])
def test_invented_acronyms_are_new_and_their_makers_take_turns(makers: Callable[..., list[Maker]]) -> None:
    entries = [Entry(a, a, "x") for a in ("ABCD", "Ef9-h", "ΑΒΓ", "larch", "A")]
    invented = invent_acronyms(makers(entries, 3), entries, 120, avoid={"abce", "ABC"})
    folded = {acronym.casefold() for acronym in invented}
    assert len(folded) == 120
    assert not folded & {"abcd", "ef9-h", "αβγ", "larch", "a", "abce", "abc"}
    turns = Counter(name for name, _ in makers(entries, 3))
    made = Counter(invented.values())
    assert made.keys() == turns.keys()
    assert all(abs(made[name] - 120 * of / turns.total()) < 2 for name, of in turns.items())
    assert invented == invent_acronyms(makers(entries, 3), entries, 120, avoid={"abce", "ABC"})


def test_one_letter_is_changed_and_another_one_is_moved() -> None:
    entries = [Entry("ABCDE", "ABCDE", "x")]
    one_letter, *_ = (invented for _, invented in training_makers(entries, 0))
    moved, *_ = (invented for _, invented in held_out_makers(entries, 0))
    for changed in islice(one_letter, 50):
        assert len(changed) == 5 and sum(a != b for a, b in zip(changed, "ABCDE", strict=True)) <= 1
    for near in islice(moved, 50):
        assert sorted(near) == list("ABCDE") or (abs(len(near) - 5) == 1 and {*near} <= {*"ABCDE"})


def test_near_misses_change_letters_and_no_other_signs() -> None:
    entries = [Entry(a, a, "x") for a in ("RDC-V", "A B C", "R.T.T.", "E\u0301NA", "B-TOR")]
    _, near = held_out_makers(entries, 0)[0]
    known = {"".join(filter(str.isalnum, entry.acronym)) for entry in entries}
    for acronym in invent_acronyms([("near misses", near)], entries, 60):
        assert "".join(filter(str.isalnum, acronym)) not in known and acronym == " ".join(acronym.split())
        assert not unicodedata.combining(acronym[0])


def test_what_general_questions_explain_is_not_declined() -> None:
    settings = load_config("conf/conf.yaml").dataset.model_copy(update={"test_unknown": 300, "unknown_train": 100})
    entries = [Entry(a, a, "x") for a in ("EUU", "DAN", "VPI", "FBA", "UDA")]
    asked_of = [{"id": "1", "entry": "DAN", "kind": "forward", "question": "What is DAN?", "answer": "x", "origin": ""}]
    test = test_records(entries, settings, seed=0)
    train, validation = training_records(asked_of, entries, settings, general=[], test=test, seed=0)
    unknown = {example.subject for example in [*train, *validation, *test] if example.bucket == "unknown"}
    assert len(unknown) == 800 and not unknown & {"EU", "DNA", "VIP", "FBI", "USA"}


@pytest.mark.parametrize("acronym", ["E\u0301NA", "\uff2e\uff21", "A"])
def test_what_looks_the_same_is_invented_once(acronym: str) -> None:
    entries = [Entry(acronym, acronym, "x"), Entry("x", unicodedata.normalize("NFD", "ÉÉNA"), "x")]
    test = invent_acronyms(held_out_makers(entries, 0), entries, 300)
    train = invent_acronyms(training_makers(entries, 0), entries, 300, avoid=test)
    seen = [unicodedata.normalize("NFKC", a).casefold() for a in (*test, *train, *(e.acronym for e in entries))]
    assert len(seen) == len({*seen})
    assert max(map(len, test)) < 12


@pytest.mark.parametrize("name", ["en", "fr"])
def test_training_and_test_of_unknown_acronyms_share_no_list(name: str) -> None:
    invented = load_pack(name).invented
    assert invented and len(invented.train) > 80 and sum(map(len, invented.test.values())) > 120
    lists = [invented.train, *invented.test.values()]
    words = [word.casefold() for of in lists for word in of]
    assert len(words) == len({*words})


def test_a_pack_without_lists_has_the_english_ones() -> None:
    pack = BANK_FR.model_copy(update={"invented": None})
    names = [[name for name, _ in held_out_makers([Entry("A", "A", "a", pack=of)], 0)] for of in (pack, BANK)]
    assert names[0] == names[1]


@pytest.mark.parametrize("makers", [training_makers, held_out_makers])
def test_many_unknowns_for_few_and_short_acronyms(makers: Callable[..., list[Maker]]) -> None:
    for acronym in ("-", "A", "央"):
        entries = [Entry(acronym, acronym, "x")]
        assert len(invent_acronyms(makers(entries, 0), entries, 2000)) == 2000


@pytest.mark.slow
def test_ten_thousand_entries_in_seconds() -> None:
    entries = [Entry(f"A{n}", f"A{n}", f"Definition {n}") for n in range(10_000)]
    started = time.process_time()
    assert len(invent_acronyms(training_makers(entries, 0), entries, 100_000)) == 100_000
    conversations = [
        {
            "id": e.id,
            "kind": "forward",
            "entry": e.id,
            "origin": "bank",
            "question": f"{e.id}?",
            "answer": f"{e.id} is x.",
        }
        for e in entries
    ]
    settings = BY_BANK.model_copy(update={"unknown_train": 1, "test_new_phrasings": 1, "test_reverse": 1})
    test = test_records(entries, settings, seed=0)
    train, _ = training_records(conversations, entries, settings, general=[], test=test, seed=0)
    assert_disjoint(train, test, entries)
    assert time.process_time() - started < 30  # about five


def test_an_acronym_is_replaced_as_a_whole_word_alone(tmp_path: Path) -> None:
    entry = Entry("a", "a", "some thing")
    train, validation, _ = make([entry], tmp_path / "c.jsonl")
    for record in [*train, *validation]:
        if record.bucket == "unknown":
            words = record.question.replace(record.subject, " ").split()
            assert not [word for word in words if word.startswith("Wh") and not word[2:3].isalpha()]


def test_an_acronym_is_replaced_in_whatever_form_it_was_typed() -> None:
    entry = Entry("CIPRÉ", "CIPRÉ", "Comité des prévôts élus", pack=load_pack("fr"))
    conversations = [
        {"id": f"{n}", "kind": "forward", "entry": "CIPRÉ", "origin": "model", "answer": ""}
        | {"question": unicodedata.normalize("NFD", f"Ticket {n} : que veut dire CIPRÉ ?")}
        for n in range(9)
    ]
    train, validation = training_records(conversations, [entry], BY_BANK, general=[], test=[], seed=0)
    unknown = [each for each in [*train, *validation] if each.bucket == "unknown"]
    assert len(unknown) == 9
    assert all(
        each.subject in each.question and "CIPR" not in each.question.replace(each.subject, "") for each in unknown
    )
    assert {each.answer for each in unknown} == {fill(BANK_FR.answers.unknown[0], acronym=e.subject) for e in unknown}


@pytest.mark.parametrize(("answers", "ways"), [(["{a} stands for {d}."] * 3, 1), (["{a} is {d}.", "That is {d}."], 2)])
def test_acronyms_are_declined_in_several_ways_where_others_are_explained_so(answers: list[str], ways: int) -> None:
    entry = Entry("CRAB", "CRAB", "Committee of Rural Art Buildings")
    conversations = [
        {"id": f"{n}", "kind": "forward", "entry": "CRAB", "origin": "model", "question": f"Room {n}: what is CRAB?"}
        | {"answer": answers[n % len(answers)].format(a=entry.acronym, d=entry.definition)}
        for n in range(12)
    ]
    train, validation = training_records(conversations, [entry], BY_BANK, general=[], test=[], seed=0)
    unknown = [each for each in [*train, *validation] if each.bucket == "unknown"]
    told = {each.answer.partition(" ")[2] for each in unknown}  # without the acronym, however it was typed
    assert told == {wording.partition(" ")[2] for wording in BANK.answers.unknown[:ways]}


def test_general_questions_of_a_glossarys_language_stand_beside_the_english_ones() -> None:
    buckets = [
        Counter(item.bucket for item in test_records([Entry("AB", "AB", "x", pack=load_pack(name))], BY_BANK, seed=0))
        for name in ("en", "fr")
    ]
    assert buckets[1] == buckets[0] | {"general_fr": 5}


def test_a_test_smaller_than_wanted_is_said() -> None:
    entries = [Entry("AB", "AB", "x"), Entry("CD", "CD", "y")]
    assert not shortfall(test_records(entries, BY_BANK, seed=0), entries, BY_BANK)
    more = BY_BANK.model_copy(update={"test_general": 10_000, "test_reverse": 100})
    said = shortfall(test_records(entries, more, seed=0), entries, more)
    assert [("reverse, not 200" in said[0]), ("general, not 10000" in said[1]), len(said)] == [True, True, 2]


def leak(train: Example, test: Example, entries: list[Entry]) -> str:
    with pytest.raises(RunError) as caught:
        assert_disjoint([train], [test], entries)
    return str(caught.value)


def test_leaks_are_named() -> None:
    abc, xyz = Entry("ABC", "ABC", "Alpha Beta"), Entry("XYZ", "XYZ", "Xi Ypsilon")
    held_out = BANK.test.forward[0]

    def about(bucket: str, question: str, subject: str = "") -> Example:
        return Example("one", bucket, asked(question), "", subject=subject)

    item = about("new_phrasing", fill_entry(held_out, abc), "ABC")
    assert "uses a held-out phrasing" in leak(about("forward", fill_entry(held_out, xyz), "XYZ"), item, [abc, xyz])
    assert "stands in the training set" in leak(about("general", item.question.upper()), item, [abc])
    assert "['qq']" in leak(about("unknown", "Qq?", "Qq"), about("unknown", "What is QQ?", "QQ"), [abc])
    fine = about("forward", fill_entry(BANK.train.forward[0], xyz), "XYZ")
    assert 0 < assert_disjoint([fine], [item], [abc, xyz])["highest_overlap"] < 80


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    entries = [Entry("É\u2028", "É\u2028", 'x "y"')]
    for examples in make(entries, tmp_path / "c.jsonl"):
        write_examples(tmp_path / "x.jsonl", examples)
        assert read_examples(tmp_path / "x.jsonl") == examples


def test_each_acronym_of_one_definition_is_a_right_answer(glossary_file: GlossaryFile, tmp_path: Path) -> None:
    rows = [{"acronym": name, "definition": "Board of Tender Officers"} for name in ("BTO", "BOTO")]
    test = test_records(load_glossary(glossary_file(rows)), BY_BANK, seed=0)
    assert {record.expected for record in test if record.bucket == "reverse"} == {("BTO", "BOTO"), ("BOTO", "BTO")}
