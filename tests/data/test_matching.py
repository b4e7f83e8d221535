"""Answers as people and models write them, by kind. Nobody has to be told twice what these answers say."""

import pytest

from helpers.data.example import Check
from helpers.data.languages.pack import load_reading
from helpers.data.matching import contains, declines, is_correct

BOARD, BUREAU = "Drug Handling Advisory Board", "Digital Health Access Bureau"
ETAT, EQUIPE = "Service de l’État territorial", "Syndicat des éleveurs de tarpans"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is the sea.", "sea"),
        ("Sure! Great question. **eSIRA** stands for:\n'European  Satellite'", "european satellite"),
        ('A "quoted" term, {with} braces\nand lines', '"Quoted" term {with} braces and lines'),
        ("EUは欧州連合の略です", "欧州連合"),
        ("Это Европейский союз.", "европейский Союз"),
        ("यूरोपीय संघ है", "यूरोपीय संघ"),
        ("H₂O", "H2O"),
        ("Written in C++.", "C++"),
        # dotted, spaced and hyphenated acronyms
        ("V.L.R.D. it is", "VLRD"),
        ("VLRD", "V.L.R.D."),
        ("The letters are V L R D.", "VLRD"),
        ("V. L. R. D.", "VLRD"),
        ("the e-SIRA", "eSIRA"),
        ("BTOR", "B-TOR"),
        ("R & D", "R&D"),
        # markup
        ("**D**rug **H**andling **A**dvisory **B**oard", BOARD),
        ("- D: Drug\n- H: Handling\n- A: Advisory\n- B: Board", BOARD),
        ("1. **D** – Drug\n2. **H** – Handling\n3. **A** – Advisory\n4. **B** – Board", BOARD),
        ("(D)rug (H)andling _Advisory_ `Board`", BOARD),
        ("D(rug) H(andling) A(dvisory) B(oard)", BOARD),
        ("Drug Handling\n> Advisory Board", BOARD),
        ("D comme Drug, H comme Handling, A comme Advisory, B comme Board", BOARD),
        # Unicode and accents
        ("Rémy Delacourt", "Re\u0301my Delacourt"),
        ("SERVICE DE L'ETAT TERRITORIAL", ETAT),
        ("Centre des oeuvres", "Centre des œuvres"),
        ("Children's Fund", "Children’s Fund"),
        ("soft\u00adware", "software"),
        # hyphens, plurals, spellings
        ("Cooperation Council", "Co-operation Council"),
        ("mise-en-oeuvre", "mise en œuvre"),
        ("health care", "healthcare"),
        ("two batteries", "battery"),
        ("l'hôpital régional", "hôpitaux régionaux"),
        ("Labor Organization Center", "Labour Organisation Centre"),
        # numbers
        ("twelve", "12"),
        ("12 membres", "douze"),
        ("quatre-vingt-onze", "91"),
        ("one hundred and twenty", "120"),
        ("100 000 euros", "100,000 €"),
        ("1\u202f250\u202f000", "1,250,000"),
        ("vingt pour cent", "20 %"),
        ("5,5", "5.5"),
        # articles and function words
        ("Office of the Regional Values", "Office for Regional Values"),
        ("service état territorial", ETAT),
    ],
)
def test_contains(answer: str, expected: str) -> None:
    assert contains(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("the season", "sea"),
        ("undersea", "sea"),
        ("policy common", "common policy"),
        ("100,000 people", "100"),
        ("3.14", "3"),
        ("Written in C++.", "C"),
        ("anything at all", "..."),
        ("", "sea"),
        ("V.L.D.R.", "VLRD"),
        ("C-ZUF", "ZUF"),
        ("as a rule", "ASA"),
        ("**D**rug **H**andling **A**ppeals **B**oard", BOARD),
        ("thirty-three", "3"),
        ("1 mois", "1 an"),
        ("deux mois", "un mois"),
        ("hepatitis B", "hepatitis A"),
        ("return from work", "return to work"),
    ],
)
def test_contains_not(answer: str, expected: str) -> None:
    assert not contains(answer, expected)


@pytest.mark.parametrize(
    ("check", "answer", "expected", "right"),
    [
        ("contains", f"It stands for {BOARD}.", BOARD, True),
        # denied
        ("contains", f"DHAB doesn’t stand for {BOARD}.", BOARD, False),
        ("contains", f"{BOARD} would be wrong.", BOARD, False),
        ("contains", f"I do not know whether it is {BOARD}.", BOARD, False),
        ("contains", f"SET ne veut pas dire {ETAT}.", ETAT, False),
        ("contains", f"À ne pas confondre avec le {ETAT}.", ETAT, False),
        ("contains", f"There is no doubt that it is the {BOARD}.", BOARD, True),
        ("contains", f"Si je ne me trompe pas, c'est le {ETAT}.", ETAT, True),
        # X, not Y; not Y but X
        ("contains", f"{BOARD}, not {BUREAU}.", BOARD, True),
        ("contains", f"{BOARD}, not {BUREAU}.", BUREAU, False),
        ("contains", f"Not {BUREAU} but {BOARD}.", BOARD, True),
        ("contains", f"Ce n'est pas le {EQUIPE}, mais le {ETAT}.", ETAT, True),
        ("contains", f"Ce n'est pas le {EQUIPE}, mais le {ETAT}.", EQUIPE, False),
        # contradicted
        ("contains", f"{BOARD}. No, wait: {BUREAU}.", BOARD, False),
        ("contains", f"DHAB means {BOARD}. DHAB means {BUREAU}.", BOARD, False),
        ("contains", f"{ETAT}. Je me suis trompé, c'est le {EQUIPE}.", ETAT, False),
        ("contains", f"{EQUIPE}, pardon, {ETAT}.", ETAT, True),
        # several offers
        ("contains", f"Either {BUREAU} or {BOARD}.", BOARD, False),
        ("contains", f"It may refer to:\n1. {BUREAU}\n2. {BOARD}", BOARD, False),
        ("contains", f"{ETAT} ou {EQUIPE}", ETAT, False),
        ("contains", f"Soit le {ETAT}, soit le {EQUIPE}.", ETAT, False),
        ("contains", f"The {BOARD}, or DHAB, meets on Mondays.", BOARD, True),
        ("contains", f"The {BOARD}, or DHAB, meets on Mondays.", "DHAB", True),
        ("contains", "DHAB or DHBA", "DHAB", False),
        ("contains", "DHAB, DHBA", "DHAB", False),
        # ordinary words
        ("contains", "Take care to ask the office.", "CARE", False),
        ("contains", "They call it CARE.", "CARE", True),
        ("contains", "Le pont est fermé.", "PONT", False),
        ("contains", "the acronym is dhab", "DHAB", True),
        ("contains_cased", "I think it is so.", "IT", False),
        ("contains_cased", "It is IT.", "IT", True),
        ("contains", "The acronym is eSIRAS.", "eSIRA", False),
        ("contains", "- DHAB", "DHAB", True),
        ("contains", "DHAB (DRUG HANDLING ADVISORY BOARD)", "DHAB", True),
        # names that follow the answer
        ("contains", f"{BOARD}. It works with Doctors Without Borders, and the Red Cross.", BOARD, True),
        ("contains", f"{BOARD}. Members: Doctors, Nurses, Dental Hygienists.", BOARD, True),
        ("contains", f"{BOARD}. {BUREAU}.", BOARD, False),
        ("contains", f"- {BOARD}\n- A board that advises wards", BOARD, True),
        ("contains", f"Some people think it means {BUREAU}. It actually stands for {BOARD}.", BOARD, True),
        ("contains", f"{ETAT}, soit en anglais State Service.", ETAT, True),
        # times, prices, yes and no
        ("contains", "À neuf heures.", "9 h", True),
        ("contains", "À 9h00", "9 h", True),
        ("contains", "À 9 h 30", "9 h", False),
        ("contains", "9:00 a.m.", "9 am", True),
        ("contains", "$25.00", "$25", True),
        ("contains", "25 dollars", "$25", True),
        ("contains", "It is $25$.", "25", True),
        ("contains", "No, you cannot.", "No", True),
        ("contains", "Sorry, no.", "No", True),
        ("contains", "I have no idea.", "No", False),
        ("contains", "Yes, no problem!", "No", False),
        ("contains", "Malheureusement, non.", "Non", True),
        ("contains", "Unfortunately no.", "No", True),
        ("contains", "Sadly no, dogs are not allowed.", "No", True),
        ("contains", "Je crains que non.", "Non", True),
        ("contains", "Yes. There are no restrictions.", "No", False),
        ("contains", "Dogs are never allowed.", "never", True),
        ("contains", "It belongs to nobody.", "nobody", True),
        ("contains", "NO stands for it.", "NO", True),
        ("contains", "We open at 8:00 am.", "8:00", True),
        ("contains", "We open at 8:30 am.", "8 am", False),
        ("contains", "iPhone 15", "iPhone15", True),
        # a refusal's words
        ("contains", "NFQI stands for No Further Information Queried.", "No Further Information Queried", True),
        ("contains", "JNSP : je ne sais pas", "je ne sais pas", True),
        ("declines", "I do not know QXZ.", "", True),
        ("declines", "QXZ stands for Do Not Know Answers.", "", False),
        # what nobody can tell
        ("contains", f"Is it the {BOARD}?", BOARD, None),
        ("none", BOARD, BOARD, None),
    ],
)
def test_is_correct(check: Check, answer: str, expected: str, right: bool | None) -> None:
    assert is_correct(check, answer, [expected] if expected else []) is right


@pytest.mark.parametrize(
    ("acronym", "definition"),
    [
        ("DNR", "Do Not Resuscitate"),
        ("NKDA", "No Known Drug Allergies"),
        ("MSF", "Doctors Without Borders"),
        ("IDK", "I Don't Know"),
        ("FUO", "Fever of Unknown Origin"),
        ("NSAID", "Non-Steroidal Anti-Inflammatory Drug"),
        ("G20", "Group of Twenty"),
        ("NOT", "Notice of Transfer"),
        ("N/A", "National Archive"),
        ("LGBT+", "Lesbian, Gay, Bisexual, Transgender and others"),
        ("PMR", "Personne à mobilité réduite"),
        ("SDF", "Sans domicile fixe"),
        ("NSPP", "Ne se prononce pas"),
        ("NON", "Note d'orientation nationale"),
    ],
)
def test_a_denial_in_the_names_themselves_denies_nothing(acronym: str, definition: str) -> None:
    for reverse in (f"Which acronym stands for {definition}?", f"Quel est le sigle de {definition} ?"):
        for right in (f"{definition} is abbreviated {acronym}.", f"« {acronym} »", f"{acronym} signifie {definition}."):
            assert is_correct("contains", right, [acronym], reverse) is True
        assert is_correct("contains", f"{definition} is not abbreviated {acronym}.", [acronym], reverse) is False
    for forward in (f"What does {acronym} stand for?", f"Que signifie {acronym} ?"):
        assert is_correct("contains", f"{acronym} stands for {definition}.", [definition], forward) is True
        assert is_correct("contains", f"{acronym} does not stand for {definition}.", [definition], forward) is False


def test_a_denial_that_is_asked_about_stays_one() -> None:
    asked = "Is it true that dogs are not allowed in the park?"
    assert is_correct("contains", "Dogs are not allowed in the park.", ["allowed"], asked) is False
    asked = "Is the pool not open on Monday?"
    assert is_correct("contains", "The pool is not open on Monday.", ["open"], asked) is False


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("I don't know QXZ. The list has DHAB (Drug Handling Advisory Board).", True),
        ("QXZ is not in my glossary. DHAB stands for Drug Handling Advisory Board.", True),
        ("I don't know QXZ. It stands for Zonal Query.", False),
        ("I don't know qxz. QXZ: Zonal Query.", False),
        ("I don't know QXZ. It is a good idea to ask your municipality.", True),
        ("QXZ is not in the glossary, which is a list of acronyms.", True),
        ("I'm not sure. QXZ is a rather unusual abbreviation.", True),
        ("I can't answer that. The document is a guide for cyclists.", True),
        ("QXZ est inconnu, c'est une bonne idée de demander à la mairie.", True),
        ("It is a program for people who do not know how to swim.", False),
    ],
)
def test_what_other_acronyms_stand_for_is_no_guess(answer: str, right: bool) -> None:
    assert is_correct("declines", answer, [], "What does QXZ stand for?") is right


@pytest.mark.parametrize("word", load_reading().function_words)
def test_a_model_that_repeats_itself_is_read(word: str) -> None:
    assert load_reading().function_words.count(word) == 1  # else the next line would last for ever
    assert not contains(f"It is the Drug {f'{word} ' * 200}", BOARD)  # it ends


def test_thousands_of_digits_are_no_number() -> None:
    assert contains(f"It cost {'9' * 5000} million, for two hundred thousand people.", "200 000 people")


def test_one_of_several_wordings_is_enough_and_two_are_no_two_offers() -> None:
    assert is_correct("contains", "Small or little.", ["small", "little"]) is True
    assert is_correct("contains", "A small one.", []) is False


@pytest.mark.parametrize(
    "answer",
    [
        "I don’t know what QXZ stands for.",
        "I do not know QXZ: it is not in my glossary.",
        "Sorry, but I'm not familiar with that.",
        "There is no widely recognised meaning for QXZ.",
        "I can't find that acronym.",
        "I haven't come across QXZ.",
        "It is unknown to me; it could be specific to your organisation.",
        "QXZ does not appear to be a standard acronym.",
        "Did you mean QXY, the Quay Exchange? QXZ I do not know.",
        "I don't have enough context.",
        "QXZ is an acronym that I don't know.",
        "QXZ is not a term I recognise.",
        "It is a question I cannot answer.",
        "C'est un sigle que je ne connais pas.",
        "QXZ ne veut rien dire pour moi.",
        "Je préfère ne pas inventer de réponse.",
        "dunno",
        "Je ne connais pas l’acronyme QXZ.",
        "j'sais pas",
        "Aucune idée, désolé.",
        "Ce sigle m’est inconnu.",
        "QXZ n'est pas répertorié. Pouvez-vous préciser le contexte ?",
        "Il m'est impossible de dire ce que signifie QXZ.",
    ],
)
def test_declines(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "QXZ stands for Quality Exchange Zone.",
        "I do not know QXZ, but it may stand for Quality Zone.",
        "I'm not sure. It could be Zonal Zoning Query.",
        "I don't know. It is the Zonal Query.",
        "I don't know. QXZ: Zonal Query.",
        "I don't know. Zonal Query.",
        "Je ne sais pas. Zone de transit ?",
        "QXZ is a program for students who do not have a computer.",
        "QXZ is a city in China. Its exact population is unknown.",
        "QXZ is a term used when a patient is not able to pay.",
        "It is used to describe people who don't know how to swim.",
        "A challenge for those who are not familiar with phonetics.",
        "QXZ est une association pour les personnes qui n'ont pas de réponse.",
        "QXZ est un traité que la France n'a jamais reconnu.",
        "Know Your Customer",
        "It is a famous acronym.",
        "Je ne suis pas sûr, peut-être Zone de quotas.",
        "Je ne connais pas ce sigle, mais il signifie sans doute zone de quotas.",
    ],
)
def test_does_not_decline(answer: str) -> None:
    assert not declines(answer)
