"""Make the records of three fictitious holders, and the spans of what identifies someone in them.

Run `python example_data/make_providers.py` from the project's root; the same seed makes the same bytes.
"""

from __future__ import annotations

import argparse
import calendar
import csv
import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent / "providers"
SYMBOL = re.compile(r"\{([\w.]+)\}")
EPISODES = {1: 85, 2: 9, 3: 3, 4: 2, 6: 0.5, 40: 0.5}
"""How many in a hundred patients have how many episodes: most few, and some, long ill, more than any cap allows."""
N_SERVICES, N_DRUGS, N_EFFECTS = 48, 10, 14
"""Hospital services, each with drugs and effects of its own, so that a held-out service has unseen values."""

Words = dict[str, list[str]]
Facts = dict[str, str]


def expand(pattern: str, words: Words, facts: Facts, chooser: random.Random) -> tuple[str, list[list[Any]]]:
    """Fill a pattern; returns the text and `[start, end, kind]` for each symbol in capitals."""
    text, spans, position = "", [], 0
    for symbol in SYMBOL.finditer(pattern):
        text += pattern[position : symbol.start()]
        name, position = symbol[1], symbol.end()
        inner, inside = expand(facts[name] if name in facts else chooser.choice(words[name]), words, facts, chooser)
        kind = name.split(".")[0]
        if kind.isupper() and name not in facts:
            spans.append([len(text), len(text) + len(inner), kind])
        spans += [[len(text) + start, len(text) + end, kind] for start, end, kind in inside]
        text += inner
    return text + pattern[position:], spans


def sentence(symbol: str, words: Words, facts: Facts, chooser: random.Random) -> tuple[str, list[list[Any]]]:
    """One sentence, its first letter a capital unless a planted word stands there."""
    text, spans = expand(chooser.choice(words[symbol]), words, facts, chooser)
    if not spans or spans[0][0] > 0:
        text = text[0].upper() + text[1:]
    return text, spans


def plain(text: str) -> str:
    """Without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def make_person(words: Words, chooser: random.Random) -> Facts:
    """Names of one patient in the spellings that notes use."""
    given = chooser.choice(words["given"])
    surname = chooser.choice(words["surname_starts"]) + chooser.choice(words["surname_ends"])
    draw = chooser.random()
    if draw < 0.06:
        surname = chooser.choice(words["surname_particles"]) + surname
    elif draw < 0.12:
        surname += "-" + chooser.choice(words["surname_starts"]) + chooser.choice(words["surname_ends"])
    elif draw < 0.15:
        surname = chooser.choice(words["surname_short"])
    letters = re.sub(r"[^a-z]", "", plain(surname).lower())
    mail = re.sub(r"[^a-z]", "", plain(given).lower())
    return {
        "given": given,
        "given_plain": plain(given),
        "given_lower": given.lower(),
        "surname": surname,
        "surname_plain": plain(surname).replace("-", " "),
        "surname_lower": surname.lower(),
        "SURNAME_UPPER": surname.upper(),
        "initials": "-".join(part[0] + "." for part in given.split("-")),
        "mail_given": mail,
        "mail_surname": letters,
        "mail_initial": mail[0],
    }


def make_moment(words: Words, chooser: random.Random) -> Facts:
    """A date, and the digits of phone numbers (the regulator's range for fiction), file numbers and places."""
    day, month, year = chooser.randint(1, 28), chooser.randint(1, 12), chooser.randint(2021, 2024)
    prefix = chooser.choice(("06 39 98", "01 99 00", "04 65 71"))
    digits = {f"n{n}": str(chooser.randrange(10 ** (n - 1), 10**n)) for n in (2, 3, 4, 5, 6, 8)}
    return digits | {
        "d": str(day),
        "dd": f"{day:02d}",
        "m": str(month),
        "mm": f"{month:02d}",
        "yyyy": str(year),
        "yy": f"{year % 100:02d}",
        "month": calendar.month_name[month],
        "mon": calendar.month_abbr[month],
        "mois": words["mois"][month - 1],
        "weekday": calendar.day_name[calendar.weekday(year, month, day)],
        "th": {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th"),
        "p1": prefix[:2],
        "q": prefix[1],
        "p2": prefix[3:5],
        "p3": prefix[6:],
        "p4": f"{chooser.randrange(100):02d}",
        "p5": f"{chooser.randrange(100):02d}",
        "n2b": str(chooser.randrange(10, 98)),
        "n3b": str(chooser.randrange(100, 1000)),
        "sex": chooser.choice("12"),
        "letter": chooser.choice("ABCDEF"),
        "house": str(chooser.randrange(1, 180)),
        "postcode": f"{chooser.randrange(1, 96):02d}{chooser.randrange(10, 99)}0",
    }


def make_measures(chooser: random.Random) -> Facts:
    """Ages, doses and laboratory values, which de-identification must leave alone."""
    return {
        "age": str(chooser.randint(18, 88)),
        "n": str(chooser.randint(2, 12)),
        "weeks": str(chooser.randint(2, 9)),
        "days": str(chooser.randint(2, 30)),
        "euros": str(chooser.randint(15, 900)),
        "systolic": str(chooser.randint(95, 178)),
        "diastolic": str(chooser.randint(55, 99)),
        "temperature": f"{chooser.uniform(36, 40):.1f}",
        "pulse": str(chooser.randint(48, 130)),
        "inr": f"{chooser.uniform(1, 4):.1f}",
        "hba": f"{chooser.uniform(5, 11):.1f}",
        "platelets": str(chooser.randrange(90, 420) * 1000),
        "weight": str(chooser.randint(48, 121)),
        "creatinine": str(chooser.randint(50, 240)),
        "oxygen": str(chooser.randint(84, 99)),
        "potassium": f"{chooser.uniform(3, 6):.1f}",
    }


def make_services(words: Words, chooser: random.Random) -> list[dict[str, list[str]]]:
    """For each service its drugs and effects, none of them shared."""
    drugs = [start + end for start in words["drug_starts"] for end in words["drug_ends"]]
    effects = [f"{adjective} {part}" for adjective in words["effect_adjectives"] for part in words["effect_parts"]]
    chooser.shuffle(drugs)
    chooser.shuffle(effects)
    return [
        {
            "drugs": drugs[number * N_DRUGS :][:N_DRUGS],
            "effects": effects[number * N_EFFECTS :][:N_EFFECTS],
        }
        for number in range(N_SERVICES)
    ]


def make_rows(words: Words, patients: int, seed: int) -> tuple[dict[str, list[Facts]], list[dict[str, Any]]]:
    """Rows of the three holders in chance order, and the planted spans by holder and row."""
    chooser = random.Random(seed)
    services = make_services(words, chooser)
    numbers = chooser.sample(range(10_000), patients)
    rows: dict[str, list[tuple[Facts, list[list[Any]]]]] = {"hospital": [], "pharmacy": [], "insurer": []}
    for number in numbers:
        person, service = make_person(words, chooser), chooser.randrange(N_SERVICES)
        absent = chooser.choices([None, "hospital", "pharmacy", "insurer"], [91, 3, 3, 3])[0]
        policy = f"AX-{chooser.randrange(100, 1000)}-{chooser.randrange(1000, 10_000)}"
        a, b = f"{number // 100:02d}", f"{number % 100:02d}"
        for episode in range(1, chooser.choices(list(EPISODES), list(EPISODES.values()))[0] + 1):
            drug, other = chooser.sample(services[service]["drugs"], 2)
            effect, effect2 = chooser.sample(services[service]["effects"], 2)
            dose = f"{chooser.choice((5, 10, 20, 25, 40, 50, 75, 100, 150, 200, 250, 500))} mg"
            condition = chooser.choice(words["conditions"])
            facts = {"drug": drug, "other": other, "effect": effect, "effect2": effect2, "dose": dose}
            facts |= {"condition": condition} | {
                name: chooser.choice(words[plural])
                for name, plural in (("staff", "staff"), ("kin", "kin"), ("town", "towns"), ("street", "streets"))
            }
            facts |= {"lane": chooser.choice(words["lanes"])} | make_measures(chooser)
            note, note_spans = sentence("note", words, facts | person | make_moment(words, chooser), chooser)
            story, story_spans = sentence("narrative", words, facts | person | make_moment(words, chooser), chooser)
            lost = chooser.choices([None, "pharmacy", "insurer"], [94, 3, 3])[0]  # one holder misses the episode
            hospital = {
                "mobile": f"+33 6 39 98 {a} {b}",
                "visit": str(episode),
                "service": f"S{service + 1:02d}",
                "family_name": person["surname"],
                "given_name": person["given"],
                "effect": effect,
                "note": note,
            }
            pharmacy = {
                "customer": f"{person['SURNAME_UPPER']} {person['given']}",
                "telephone": chooser.choice((f"06 39 98 {a} {b}", f"06.39.98.{a}.{b}", f"063998{a}{b}")),
                "visit_no": str(episode),
                "product": drug,
                "strength": dose,
            }
            claim = {"claim": {"narrative": story, "condition": condition}, "paid_eur": int(facts["euros"])}
            insurer = {
                "policy": policy,
                "holder_name": f"{person['given']} {person['surname']}",
                "contact": f"0033-6-3998-{a}{b}",
                "episode": str(episode),
                "payload": json.dumps(claim, ensure_ascii=False),
            }
            for holder, row, spans in (
                ("hospital", hospital, note_spans),
                ("pharmacy", pharmacy, []),
                ("insurer", insurer, story_spans),
            ):
                if holder not in (absent, lost):
                    rows[holder].append((row, spans))
    planted: list[dict[str, Any]] = []
    for holder, column in (("hospital", "note"), ("pharmacy", ""), ("insurer", "narrative")):
        chooser.shuffle(rows[holder])
        for number, (_, spans) in enumerate(rows[holder]):
            if spans:
                planted.append({"holder": holder, "row": number, "column": column, "spans": spans})
    return {holder: [row for row, _ in pairs] for holder, pairs in rows.items()}, planted


def main() -> None:
    """Write hospital.jsonl, pharmacy.csv, insurer.csv and planted.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=HERE)
    arguments = parser.parse_args()
    words = yaml.safe_load((HERE / "words.yaml").read_text(encoding="utf-8"))
    rows, planted = make_rows(words, arguments.patients, arguments.seed)
    for name, lines in (("hospital", rows["hospital"]), ("planted", planted)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (arguments.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name in ("pharmacy", "insurer"):
        with (arguments.folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[name][0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name])


if __name__ == "__main__":
    main()
