"""A capable writer that also makes packs, in Greek and Japanese, and always the same ones for the same seeds."""

import json
import random
import re
from typing import Any

from capable_writer import CapableWriter
from scripted_server import Response, completion

from helpers.data.languages.wanted import BETWEEN, WORDS

SPOKEN: dict[str, dict[str, Any]] = {
    "Greek": {
        "who": ["Ένας συνάδελφος", "Η διευθύντρια", "Ο λογιστής", "Μια φοιτήτρια", "Κάποιος πολίτης", "Ο θυρωρός"],
        "did": ["έγραψε", "διάβασε", "πρόσεξε", "ανέφερε", "υπογράμμισε", "άκουσε", "αντέγραψε", "μπέρδεψε"],
        "place": [
            "στο έντυπο",
            "σε ένα μήνυμα",
            "στην πινακίδα",
            "στα πρακτικά",
            "στον προϋπολογισμό",
            "χθες το βράδυ",
        ],
        "forward": "{who} {did} {place} {acronym}{where}. {ask};",
        "reverse": "{who} {did} {place} {definition}{where}. {ask};",
        "ask forward": ["Τι σημαίνει", "Ποιο είναι το πλήρες όνομα", "Μου το εξηγείς", "Ποιες λέξεις κρύβονται εκεί"],
        "ask reverse": ["Πώς συντομεύεται", "Ποιο είναι το αρκτικόλεξο", "Με ποια γράμματα γράφεται αυτό"],
        "answer forward": "{acronym} σημαίνει {definition}.",
        "answer reverse": "{definition} συντομεύεται σε {acronym}.",
        "unknown": "{acronym} δεν υπάρχει στο γλωσσάρι μου: δεν το γνωρίζω.",
        "where": "στον τομέα {field}",
        "request": "{entry}\n\nΓράψε αυτούς τους διαλόγους, τον καθέναν χωριστά:\n{conversations}",
        "question": "Ερώτηση: {question}",
        "words": "έργο νερό δήμος χάρτης γραφείο λιμάνι κήπος σχολείο δρόμος νησί ταμείο σταθμός αρχείο βουνό",
        "blank": " ",
        "acronym": "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ",
        "function_words": ["ο", "η", "το", "του", "της", "και", "να", "για", "με", "στο", "στην", "από", "των", "σε"],
        "refusals": ["δεν γνωρίζω", "δεν το γνωρίζω", "δεν ξέρω", "δεν υπάρχει στο γλωσσάρι"],
        "asks.forward": ["σημαίνει", "πλήρες όνομα", "εξηγείς", "ποιες λέξεις"],
        "asks.reverse": ["συντομεύεται", "αρκτικόλεξο", "ποια γράμματα"],
        "asserting.verbs": ["είναι", "ήταν", "σημαίνει"],
        "asserting.places": ["στο", "στη", "σε", "εδώ", "γραμμένο"],
        "asserting.pronouns": ["αυτό είναι", "αυτό σημαίνει"],
        "asserting.articles": ["ο", "η", "το", "ένα"],
        "asserting.asking": ["τι", "ποιο", "ποιες", "πώς", "εξηγείς"],
    },
    "Japanese": {
        "who": ["同僚", "部長", "経理の人", "学生", "市民の方", "守衛さん", "看護師", "新人"],
        "did": ["書きました", "読みました", "見つけました", "口にしました", "写しました", "聞きました"],
        "place": ["申込書で", "会議中に", "看板の上で", "議事録の中で", "予算案で", "昨日の夜"],
        "forward": "{who}が{place}{acronym}{where}と{did}。{ask}？",
        "reverse": "{who}が{place}{definition}{where}と{did}。{ask}？",
        "ask forward": ["意味は何ですか", "正式名称を教えてもらえますか", "略さずに言うとどうなりますか"],
        "ask reverse": ["略語は何ですか", "どう略しますか", "どの文字を使えばよいですか"],
        "answer forward": "{acronym}は{definition}の略です。",
        "answer reverse": "{definition}は{acronym}と略します。",
        "unknown": "{acronym}は私の用語集にないので、分かりません。",
        "where": "（{field}の分野）",
        "request": "{entry}\n\n次の会話を一つずつ書いてください。\n{conversations}",
        "question": "質問：{question}",
        "words": "計画 水道 市役所 地図 事務所 港湾 公園 学校 道路 離島 基金 駅舎 文書館 山林",
        "blank": "",
        "acronym": "BCDFGHJKLMNPQRSTVWXZ",
        "function_words": ["の", "は", "が", "を", "に", "で", "と", "も", "から", "まで"],
        "refusals": ["分かりません", "知りません", "用語集にない"],
        "asks.forward": ["意味", "正式名称", "略さず"],
        "asks.reverse": ["略語", "略しますか", "どの文字"],
        "asserting.verbs": ["です"],
        "asserting.places": ["ここ"],
        "asserting.pronouns": ["それは"],
        "asserting.articles": ["この"],
        "asserting.asking": ["何", "どう", "どの"],
    },
}
CODES = {"el": "Greek", "ja": "Japanese"}


def translated(text: str, spoken: dict[str, Any], seed: str) -> str:
    """Something of the same slots in that language."""
    chooser = random.Random(f"{seed}/{text}")
    slots = re.findall(r"\{(\w+)\}", text)

    def some(count: int) -> str:
        return str(spoken["blank"].join(chooser.sample(spoken["words"].split(), count)))

    def question(kind: str) -> str:
        told = {key: chooser.choice(spoken[key]) for key in ("who", "did", "place")}
        told["ask"] = chooser.choice(spoken[f"ask {kind}"])
        return re.sub(r"\{(who|did|place|ask)\}", lambda slot: told[slot[1]], spoken[kind])

    if BETWEEN in text:
        _, acronym, _, asked = text.split(BETWEEN)
        kind, new, long = (
            "forward" if acronym in asked else "reverse",
            "".join(chooser.sample(spoken["acronym"], 5)),
            some(3),
        )
        filled = question(kind).replace("{acronym}", new).replace("{definition}", long).replace("{where}", "")
        return BETWEEN.join([some(1), new, long, filled])
    if slots in (["acronym"], ["field"], ["question"]):
        return str(spoken[{"acronym": "unknown", "field": "where", "question": "question"}[slots[0]]])
    if "entry" in slots:
        return str(spoken["request"])
    if {*slots} == {"acronym", "definition"}:
        return str(spoken["answer forward" if slots[0] == "acronym" else "answer reverse"])
    if slots:
        return question("forward" if "acronym" in slots else "reverse")
    return some(5)


class PackMaker(CapableWriter):
    """Makes packs well, unless `spoil` changes what it says: it receives the user's message and its texts."""

    def spoil(self, asked: str, texts: list[str]) -> list[str]:
        return texts

    def _say(self, number: int, path: str, body: dict[str, Any]) -> Response:
        task, asked = body["messages"][0]["content"], body["messages"][-1]["content"]
        if not (found := re.search(r"into the language (\w+),", task)):
            return super()._say(number, path, body)
        name = CODES.get(found[1], found[1])
        spoken = SPOKEN[name]
        lines = [json.loads(line) for line in asked.splitlines() if line.startswith('{"number"')]
        if key := next((key for key, wanted in WORDS.items() if wanted in asked), None):
            texts, numbers = spoken[key], list(range(1, len(spoken[key]) + 1))
        elif "English name" in asked:
            texts, numbers = [name], [1]
        else:
            texts = [translated(line["english"], spoken, f"{body['seed']}") for line in lines]
            numbers = [line["number"] for line in lines]
        pairs = zip(numbers, self.spoil(asked, texts), strict=True)
        told = {"texts": [{"number": number, "text": text} for number, text in pairs]}
        return completion(json.dumps(told, ensure_ascii=False))
