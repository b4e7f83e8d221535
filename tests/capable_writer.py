"""A chat server that writes several good conversations about an entry in one request, in four languages."""

import json
import random
import re
from collections import Counter
from typing import Any

from scripted_server import Response, ScriptedServer
from talker import reply

from helpers.data.languages.pack import Pack, load_pack

ASKED = {
    "en": {
        "forward": [
            "{who} here, ticket {n}: what is the full name of {a}{w}?",
            "I read {a}{w} in note {n}. Its meaning, please?",
            "for file {n}, could you spell out {a}{w} for me?",
            "Good morning, whatever is {a}{w}? It stands on my form {n}.",
            "{a}{w}: long form? Needed for {n}.",
            "Somebody wrote {a}{w} to me about {n} and left, so what did they mean?",
            "Dear service, kindly give me every word behind {a}{w} (ref. {n}).",
            "hey!! {a}{w}?? need it 4 room {n}",
            "My boss signs {n} tomorrow and it mentions {a}{w}: how is that read aloud?",
            "Silly question, desk {n}: what on earth does {a}{w} mean?",
        ],
        "reverse": [
            "What is the short form of {d}{w}? It is for table {n}.",
            "Label {n} is small: how do you abbreviate {d}{w}?",
            "{d}{w} is too much to type on line {n}; which letters will do?",
            "{who} again, about page {n}: our acronym for {d}{w}, please?",
            "We file {d}{w} on shelf {n}. What do I put on its back, in a few capitals?",
            "pls abbreviate {d}{w}, sms {n}",
            "Dear service, in our letter {n} we would rather not spell out {d}{w}. What is the usual acronym?",
            "What do you write here for {d}{w}? My form {n} has six boxes.",
            "In minute {n} somebody said {d}{w}, and everybody else used initials. Which ones?",
            "So {d}{w} has an acronym, says note {n}. Namely?",
            "I look for {d}{w} in index {n}, under which capitals?",
            "The slide holds {n} characters, not {d}{w}. Its acronym?",
        ],
        "hello": ("Hello, do you know our acronyms ({n})?", "Yes, ask me about any of them."),
        "again": [
            "Sorry, line {n} was bad. What does {a}{w} stand for, once more?",
            "I am writing it down: {a}{w} was ...?",
        ],
        "guess": [
            "Is {a}{w} the Agency {n} of Nothing?",
            "They say in hall {n} that it means Old Ducks. Right, {a}{w}?",
        ],
        "told": ["{a} stands for {d}.", "That is {d}.", "In full, {a} is {d}."],
        "no": "No, {a} stands for {d}.",
        "short": ["{d} is abbreviated {a}.", "The acronym for {d} is {a}."],
    },
    "fr": {
        "forward": [
            "Ici {who}, dossier {n} : quel est le nom complet de {a}{w} ?",
            "J'ai lu {a}{w} dans la note {n}. Son sens ?",
            "pour la fiche {n}, peux-tu développer {a}{w} ?",
            "Bonjour, c'est quoi au juste, {a}{w} ? On me le demande au guichet {n}.",
            "{a}{w} : forme longue ? Pour {n}.",
            "On m'a écrit {a}{w} au sujet de {n}, puis plus rien, alors que voulait-on me dire ?",
            "Madame, Monsieur, merci d'indiquer chaque mot derrière {a}{w} (réf. {n}).",
            "slt, {a}{w} ??? vite, salle {n}",
            "Mon chef signe {n} demain et {a}{w} y figure : à lire comment, en toutes lettres ?",
            "Question bête, mais {a}{w}, ça veut dire quoi en vrai ? (bureau {n})",
            "L'en-tête du courrier {n} porte {a}{w}. Quelle expression a-t-on raccourcie ?",
            "Au téléphone, on m'a dit {a}{w} puis raccroché ; rappelez-moi au {n} avec l'intitulé.",
        ],
        "reverse": [
            "Quelle est la forme courte de {d}{w} ? C'est pour le tableau {n}.",
            "Étiquette {n} : comment abréger {d}{w} ?",
            "{d}{w}, c'est trop long pour la ligne {n} ; quelles lettres suffisent ?",
            "Encore {who}, page {n} : notre sigle pour {d}{w}, s'il vous plaît ?",
            "On range {d}{w} au rayon {n}. Que mettre sur le dos, en quelques capitales ?",
            "abrège {d}{w} stp, sms {n}",
            "Qu'écrivez-vous ici pour {d}{w} ? Mon formulaire {n} a six cases.",
            "Au point {n}, quelqu'un a dit {d}{w}, et les autres des initiales. Lesquelles ?",
        ],
        "hello": ("Bonjour, tu connais nos sigles ({n}) ?", "Oui, demande-moi n'importe lequel."),
        "again": [
            "Pardon, la ligne {n} est mauvaise. Que signifie {a}{w}, encore une fois ?",
            "Je note : {a}{w}, donc ...?",
        ],
        "guess": [
            "{a}{w}, c'est l'Agence {n} du Néant ?",
            "On dit salle {n} que ce sont de vieux canards. Juste, {a}{w} ?",
        ],
        "told": ["{a} signifie {d}.", "C'est {d}.", "En toutes lettres, {a} veut dire {d}."],
        "no": "Non, {a} signifie {d}.",
        "short": ["{d} s'abrège {a}.", "Le sigle de {d} est {a}."],
    },
    "el": {
        "forward": [
            "{who}, φάκελος {n}: ποιο είναι το πλήρες όνομα για {a}{w};",
            "Διάβασα {a}{w} στο σημείωμα {n}. Τι θα πει;",
            "για το έντυπο {n}, γράψε μου με όλες τις λέξεις το {a}{w}",
            "Καλημέρα, τι είναι επιτέλους το {a}{w}; Με ρωτούν στη θυρίδα {n}.",
            "{a}{w}: η μακριά μορφή; Για {n}.",
            "Μου έστειλαν {a}{w} για την υπόθεση {n} και έφυγαν, τι εννοούσαν;",
        ],
        "reverse": [
            "Ποια είναι η σύντομη μορφή για {d}{w}; Για τον πίνακα {n}.",
            "Η ετικέτα {n} είναι μικρή: πώς συντομεύεται {d}{w};",
            "{d}{w} δεν χωρά στη γραμμή {n}· ποια γράμματα αρκούν;",
        ],
        "hello": ("Γεια σας, ξέρετε τα αρκτικόλεξά μας ({n});", "Ναι, ρωτήστε με για όποιο θέλετε."),
        "again": ["Συγγνώμη, η γραμμή {n} ήταν κακή. Τι σημαίνει {a}{w}, ξανά;", "Το γράφω: {a}{w} είναι ...;"],
        "guess": ["Μήπως {a}{w} είναι το Γραφείο {n} του Τίποτα;", "Λένε στην αίθουσα {n} για πάπιες. Σωστά, {a}{w};"],
        "told": ["{a} σημαίνει {d}.", "Αυτό είναι {d}.", "Ολογράφως, {a} θα πει {d}."],
        "no": "Όχι, {a} σημαίνει {d}.",
        "short": ["{d} συντομεύεται σε {a}.", "Το αρκτικόλεξο για {d} είναι {a}."],
    },
    "ja": {
        "forward": [
            "{who}です。書類{n}の{a}{w}の正式名称は何ですか？",
            "メモ{n}で{a}{w}を読みました。意味を教えてください。",
            "{n}番の用紙のため、{a}{w}を略さずに書いてください。",
            "おはようございます、{a}{w}とは一体何でしょう？窓口{n}で聞かれました。",
            "{a}{w}の長い形は？{n}用です。",
        ],
        "reverse": [
            "{d}{w}の短い形は何ですか？表{n}に使います。",
            "ラベル{n}は小さいです。{d}{w}はどう略しますか？",
            "行{n}には{d}{w}が入りません。どの文字で足りますか？",
        ],
        "hello": ("こんにちは、当社の略語（{n}）をご存じですか？", "はい、何でもお尋ねください。"),
        "again": ["すみません、回線{n}が悪くて。{a}{w}は何の略ですか？", "書き留めます。{a}{w}は…？"],
        "guess": ["{a}{w}は無の{n}局のことですか？", "部屋{n}では古い鴨のことだと。{a}{w}は正しいですか？"],
        "told": ["{a}は{d}の略です。", "それは{d}です。", "略さずに言うと{a}は{d}です。"],
        "no": "いいえ、{a}は{d}の略です。",
        "short": ["{d}は{a}と略します。", "{d}の略語は{a}です。"],
    },
}


def conversations(body: dict[str, Any], pack: Pack) -> list[dict[str, Any]]:
    """Good ones, all different, and the same for the same request."""
    asked = body["messages"][-1]["content"]
    acronym, definition, field = re.match(r"(.*?) = (.*?)(?: \((.*)\))?\n", asked).groups()  # type: ignore[union-attr]
    words: dict[str, Any] = ASKED[pack.name]
    chooser, made = random.Random(f"{body['seed']}/{asked}"), []
    used = Counter(dict.fromkeys(words, chooser.randrange(99)))
    for number, who, form in re.findall(r"^(\d+)\. (.*?); .*?\. (.*)$", asked, re.MULTILINE):
        kind = "reverse" if form in pack.structured.forms.reverse.values() else "forward"
        name = next(key for key, text in pack.structured.forms[kind].items() if text == form)
        where = pack.where.replace("{field}", field or "")

        def fill(text: str, who: str = who, where: str = where) -> str:
            slots = {
                "a": acronym,
                "d": definition,
                "w": where if field else "",
                "who": who,
                "n": chooser.randrange(10**6),
            }
            return text.format(**slots)

        def next_of(key: str) -> str:
            used[key] += 1
            return fill(words[key][used[key] % len(words[key])])

        if name == "again":
            turns = [(fill(words["forward"][0]), fill(words["told"][0])), (next_of("again"), next_of("told"))]
        elif name == "wrong_guess":
            turns = [(next_of("guess"), fill(words["no"]))]
        else:
            turns = [(next_of(kind), next_of("told" if kind == "forward" else "short"))]
            if name == "follow_up":
                turns.insert(0, (fill(words["hello"][0]), words["hello"][1]))
        made.append({"number": int(number), "turns": [{"user": user, "assistant": told} for user, told in turns]})
    return made


class CapableWriter(ScriptedServer):
    """Writes structured conversations well but for each `spoilt`-th, which says nothing; else like the talker."""

    def __init__(self, spoilt: int = 0) -> None:
        self.spoilt, self.written, self.packs = spoilt, 0, ["en", "fr"]
        super().__init__(self._say)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def _say(self, number: int, path: str, body: dict[str, Any]) -> Response:
        task = body["messages"][0]["content"]
        pack = next((pack for pack in map(load_pack, self.packs) if pack.structured.task == task), None)
        text = reply(body) if pack is None else json.dumps({"conversations": self._checked(conversations(body, pack))})
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return Response(body=json.dumps({"choices": [choice]}))

    def _checked(self, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for each in made:
            self.written += 1
            if self.spoilt and self.written % self.spoilt == 0:
                each["turns"] = [{"user": "Hm?", "assistant": "I do not know."}]
        return made
