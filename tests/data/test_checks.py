"""Each reason for refusing a conversation, and conversations that must pass."""

import unicodedata

import pytest

from helpers.data.glossary.checks import as_in_glossary, asserts, check_answer, check_question
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import fill_entry
from helpers.data.languages.pack import load_pack, shipped

ABC = Entry("ABC", "ABC", "Alpha Beta Gamma", verbose_def="A board that counts letters.")
TWO = Entry("ABC (law)", "ABC", "Alpha Beta Gamma", field="law", ambiguous=True)
ODD = Entry("Γ+", "Γ+", 'Ελληνική "{Ένωση}" (καλή)')


@pytest.mark.parametrize(
    ("kind", "question", "reason"),
    [
        ("forward", "On the form it says ABC: what does that mean?", None),
        ("forward", "", "question empty"),
        ("forward", "What does ABC mean? " + "very " * 40, "question too long"),
        ("forward", "What does ABC", "question cut off"),
        ("forward", "What does ABCD mean?", "question without the acronym"),
        ("forward", "What does abc mean?", "question without the acronym"),
        ("forward", "Does ABC mean alpha  beta gamma?", "question gives the definition away"),
        ("forward", "What does ABC-D mean?", "question without the acronym"),
        ("forward", "Who invented ABC?", "question asks something else"),
        ("forward", "Explain it: ABC stands for Always Be Careful.", "question asserts a meaning"),
        ("reverse", "For my letter, what is the acronym of Alpha Beta Gamma?", None),
        ("reverse", "What is the acronym of Alpha Beta?", "question without the definition"),
        ("reverse", "What is the acronym of Alpha Beta Gammas?", "question without the definition"),
        ("reverse", "Is ABC the acronym of Alpha Beta Gamma?", "question gives the acronym away"),
        ("reverse", "Who runs Alpha Beta Gamma?", "question asks something else"),
    ],
)
def test_questions(kind: str, question: str, reason: str | None) -> None:
    assert check_question(kind, question, ABC) == reason


def test_an_ambiguous_acronym_needs_its_field() -> None:
    assert check_question("forward", "On this form, what does ABC mean?", TWO) == "question does not name the field"
    assert check_question("forward", "On this form, what does ABC mean in Law?", TWO) is None


@pytest.mark.parametrize("language", shipped())
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_every_held_out_phrasing_is_refused(kind: str, language: str) -> None:
    entry = Entry("ABC", "ABC", "Alpha Beta Gamma", pack=load_pack(language))
    for phrasing in entry.pack.test[kind]:
        assert check_question(kind, fill_entry(phrasing, entry), entry) is not None, phrasing


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [
        ("forward", "ABC stands for alpha beta gamma.", None),
        ("forward", "ABC is Alpha Beta Gamma, a board that counts letters.", None),
        ("forward", "", "answer empty"),
        ("forward", "Alpha Beta Gamma.\nNext question", "answer has several lines"),
        ("forward", "ABC stands for Alpha Beta Gamma", "answer cut off"),
        ("forward", "ABC stands for Alpha Beta.", "answer without the definition"),
        ("forward", "ABC stands for Alpha Beta Gammas.", "answer without the definition"),
        ("forward", "ABC stands for Alpha Beta Gamma-rays.", "answer without the definition"),
        ("forward", "abc stands for Alpha Beta Gamma.", "answer does not begin by reading back what was asked"),
        ("forward", "ABC, once XYZ, is Alpha Beta Gamma.", "answer names another acronym"),
        (
            "forward",
            "ABC is Alpha Beta Gamma, founded by some monks in the year of our lord.",
            "answer adds facts of its own",
        ),
        ("forward", "It stands for Alpha Beta Gamma.", "answer does not begin by reading back what was asked"),
        ("forward", "ABC = Alpha Beta Gamma. A board that counts letters.", "answer is a formula, not a sentence"),
        ("reverse", "Alpha Beta Gamma: ABC.", "answer is a formula, not a sentence"),
        ("reverse", "Alpha Beta Gamma is abbreviated ABC.", None),
        ("reverse", "Alpha Beta Gamma is abbreviated ABCD.", "answer without the acronym"),
        ("reverse", "The acronym is ABC.", "answer does not begin by reading back what was asked"),
    ],
)
def test_answers(kind: str, answer: str, reason: str | None) -> None:
    assert check_answer(kind, answer, ABC) == reason


def test_other_scripts_and_odd_signs_pass() -> None:
    assert check_question("forward", "In this report, what does Γ+ stand for?", ODD) is None
    assert check_answer("forward", f"Γ+ stands for {ODD.definition}.", ODD) is None
    assert check_answer("reverse", f"{ODD.definition} is abbreviated Γ+.", ODD) is None


FORMS = ["NFC", "NFD"]


@pytest.mark.parametrize(("of_glossary", "of_model"), [(one, other) for one in FORMS for other in FORMS])
@pytest.mark.parametrize("apostrophes", ["''", "’’", "'’", "’'"])
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_unicode_forms_are_the_same_text(kind: str, of_glossary: str, of_model: str, apostrophes: str) -> None:
    def spelt(text: str, form: str, apostrophe: str) -> str:
        return unicodedata.normalize(form, text.replace("'", apostrophe))

    acronym, definition = "CIPRÉ", "Comité d'intérêt des prévôts élus de l'Évêché"
    entry = Entry(
        "c", *(spelt(text, of_glossary, apostrophes[0]) for text in (acronym, definition)), pack=load_pack("fr")
    )
    asked, told = (acronym, definition) if kind == "forward" else (definition, acronym)
    verb = "signifie" if kind == "forward" else "s'abrège en"
    question = f"Pour mon courrier, quel est le sens ou le sigle : {asked} ?"
    assert check_question(kind, spelt(question, of_model, apostrophes[1]), entry) is None
    answer = spelt(f"{asked} {verb} {told}.", of_model, apostrophes[1])
    assert check_answer(kind, answer, entry) is None
    kept = as_in_glossary(answer, entry)
    assert entry.acronym in kept and entry.definition in kept


def test_a_definition_stands_in_an_answer_as_whole_words_and_as_in_the_glossary() -> None:
    entry = Entry("VAE", "VAE", "validation des acquis", pack=load_pack("fr"))
    assert check_answer("forward", "VAE signifie validation des acquises.", entry) == "answer without the definition"
    assert check_answer("forward", "VAE signifie Validation  des Acquis.", entry) is None
    assert as_in_glossary("VAE signifie Validation  des Acquis.", entry) == "VAE signifie validation des acquis."
    chinese = Entry("央行", "央行", "中国人民银行")
    assert check_answer("forward", "央行是中国人民银行的简称.", chinese) is None


@pytest.mark.parametrize(
    "question",
    [
        "What is ABC, the French railway company?",
        "ABC is a town in Iran, what does it stand for?",
        "The sign says ABC. It's a kind of pizza. What does it mean?",
        "They discussed ABC, which means Digital Telecommunications. What does it mean?",
        "I read about ABC (a committee) yesterday. What does it stand for?",
        "ABC stands for Abacus. What does that mean?",
        "ABC stands on the slide and is a type of fish. What is it?",
        "The contract is ABC: what is it?",
        "Our meeting is called ABC. What does ABC mean?",
        "What does ABC - our new canteen - stand for?",
    ],
)
def test_what_asserts(question: str) -> None:
    assert asserts(question, ABC)
    assert check_question("forward", question, ABC) == "question asserts a meaning"


@pytest.mark.parametrize(
    "question",
    [
        "ABC is on the form: what does it mean?",
        "ABC is mentioned in the minutes. What does it stand for?",
        "ABC stands on page two without any explanation. What is it short for?",
        "They talked about ABC all the time. What does ABC mean?",
        "I would like to know what ABC means in this report.",
        "There is a box called ABC: what does that mean?",
        "The footnote says ABC, and I wonder which words are meant?",
        "ABC is an acronym. What does it stand for?",
        "This is ABC: what does it mean?",
        "Is ABC an abbreviation?",
    ],
)
def test_what_only_says_where_it_was_seen(question: str) -> None:
    assert not asserts(question, ABC)
    assert check_question("forward", question, ABC) is None


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Que signifie ABC, la société de transport ?", True),
        ("ABC est une ville d'Iran, que signifie ce sigle ?", True),
        ("Le panneau dit ABC. C'est une ville. Que veut dire ce sigle ?", True),
        ("ABC, qui est un club de sport, signifie quoi ?", True),
        ("On m'a dit que ABC désigne une taxe. Quel est le sens du sigle ?", True),
        ("ABC signifie quoi ?", False),
        ("C'est quoi, ABC ?", False),
        ("ABC est écrit sur la porte. Que veut dire ce sigle ?", False),
        ("Je voudrais savoir ce que ABC signifie dans ce rapport.", False),
        ("Ils ont parlé du sigle ABC sans arrêt. Que veut dire ABC ?", False),
    ],
)
def test_what_asserts_in_french(question: str, said: bool) -> None:
    entry = Entry("ABC", "ABC", "Amis des bonnes choses", pack=load_pack("fr"))
    assert check_question("forward", question, entry) == ("question asserts a meaning" if said else None)


def test_an_acronym_that_is_a_word_is_told_from_the_word() -> None:
    entry = Entry("IS", "IS", "Inspection of Sluices")
    assert check_question("forward", "What is meant by IS here?", entry) is None
    assert check_question("forward", "What is this form?", entry) == "question without the acronym"
