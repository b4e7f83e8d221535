"""Pictures of the course and its data: the map of the notebooks, the split, and who may see what."""

from __future__ import annotations

from svg import PAPER, Picture, Point, Words, tint

from helpers.config import load_config
from helpers.report.figures import INK, MODEL_COLOURS, MUTED, RIGHT, WRONG

AMBER, GREEN, GREY = MODEL_COLOURS["in_context"], MODEL_COLOURS["qlora"], MODEL_COLOURS["base"]
COLUMNS = ((18, 116), (188, 156), (404, 156), (622, 156))
"""Left edge and width of the boxes of each folder on the map."""
ROWS = (106, 172, 238, 304, 384, 450)
"""The middle of each row of notebooks on the map."""
NOTEBOOKS = {
    "01-create_dataset/01-write_conversations": (1, 0),
    "01-create_dataset/02-prepare_dataset": (1, 1),
    "01-create_dataset/04-prepare_your_table": (1, 3),
    "01-create_dataset/03-join_private_records": (1, 4),
    "02-fine_tune/01-look_inside": (2, 0),
    "02-fine_tune/02-train_adapters": (2, 1),
    "02-fine_tune/03-train_privately": (2, 4),
    "02-fine_tune/04-break_privacy": (2, 5),
    "03-test/01-answer": (3, 0),
    "03-test/02-score": (3, 1),
    "03-test/03-compare_models": (3, 2),
    "03-test/05-use_it": (3, 3),
    "03-test/04-audit_privacy": (3, 4),
}
"""Column and row of each notebook on the map; 00-set_up/check_environment stands before all rows."""
PHRASINGS = {
    "new_phrasing": ("What does {acronym} stand for?", "Unpack {acronym} for a newcomer."),
    "reverse": ("Abbreviate {definition}.", "Compress {definition} into its usual tag."),
    "unknown": ("Decode {acronym}.", "Translate {acronym} into ordinary language."),
    "general": ("What is the capital of India?", "What is the plural of child?"),
}
"""A phrasing of training and one of the test, for each bucket of the test."""
ENTRY = {"acronym": "QV", "definition": "Quarterly Vetting"}
UNKNOWN = "ORVF", "YAWN"


def counts() -> dict[str, int]:
    """How many there are with `cpu`: for each entry, and the last two in all."""
    settings = load_config("cpu").dataset
    return {
        "forward": settings.forward_by_model + settings.forward_by_bank,
        "reverse": settings.reverse_by_model + settings.reverse_by_bank,
        "unknown": settings.unknown_train,
        "new_phrasing": settings.test_new_phrasings,
        "test_reverse": settings.test_reverse,
        "test_unknown": settings.test_unknown,
        "test_general": settings.test_general,
    }


def course_map(say: Words) -> Picture:
    """The notebooks in their four folders, and three routes through them."""
    picture = Picture(590, *say("title"))
    for name, (x, width) in zip(say("folders"), COLUMNS, strict=True):
        picture.box(x - 10, 40, width + 20, 444, fill=tint(GREY, 0.1), edge="none", radius=10)
        picture.text(x + width / 2, 28, name, bold=True, anchor="middle")
    zero, one, two, three = (x + width / 2 for x, width in COLUMNS)
    first, second, third, fourth, private, broken = ROWS
    picture.line((zero, 62), (two, 62), (two, first), colour=AMBER, width=6, radius=12)
    hour: list[Point] = [(two, first - 9), (578, first - 9), (578, third - 9), (three, third - 9)]
    picture.line(*hour, colour=AMBER, width=6, radius=9)
    picture.line((three + 12, third), (three + 12, fourth - 22), colour=AMBER, width=6, head=13)
    day: list[Point] = [(zero, first), (one, first), (one, second), (374, second), (374, first), (two, first)]
    day += [(two, second), (595, second), (595, first), (three, first), (three, third + 7), (one, third + 7)]
    day += [(one, fourth), (622, fourth)]
    picture.line(*day, colour=RIGHT, width=6, radius=12, head=13)
    half: list[Point] = [(zero, private), (two, private), (two, broken), (591, broken), (591, private), (622, private)]
    picture.line(*half, colour=GREEN, width=6, radius=12, head=13)
    x, width = COLUMNS[0]
    picture.box(x, 52, width, private - 28, edge=INK, line=1.5)
    picture.text(x + width / 2, 190, *say("check"), size=13.5, bold=True, anchor="middle")
    picture.text(x + width / 2, 236, *say("first"), size=13, colour=MUTED, anchor="middle")
    for (path, (column, row)), name in zip(NOTEBOOKS.items(), say("names"), strict=True):
        x, width = COLUMNS[column]
        folder, _, stem = path.partition("/")
        picture.box(x, ROWS[row] - 22, width, 44, edge=INK, line=1.5)
        picture.text(x + width / 2, ROWS[row] - 4, f"{folder[:2]}/{stem[:2]}", size=12, colour=MUTED, anchor="middle")
        picture.text(x + width / 2, ROWS[row] + 14, name, size=13.5, anchor="middle")
    for number, colour in enumerate((AMBER, RIGHT, GREEN)):
        y = 514 + 28 * number
        picture.line((24, y - 5), (62, y - 5), colour=colour, width=6)
        picture.text(74, y, say("routes")[number], bold=True)
        picture.text(190, y, say("told")[number], size=13)
    return picture


def split(say: Words) -> Picture:
    """Rows apart against phrasings apart, and what each bucket asks."""
    picture = Picture(560, *say("title"))
    learnt, tested = tint(RIGHT, 0.75), tint(WRONG, 0.75)
    at_random = {(0, 2), (0, 5), (1, 0), (1, 7), (2, 3), (2, 6), (3, 1), (3, 4)}
    held_out = {(row, column) for row in range(4) for column in (6, 7)}
    for x, heading, told, test in ((84, "rows", "leak", at_random), (532, "phrasings", "apart", held_out)):
        picture.text(x, 34, *say(heading), bold=True, size=15)
        picture.text(x, 58, *say("column"), size=13, colour=MUTED)
        for row, acronym in enumerate(("QV", "DHAB", "LUMEK", "ZUF")):
            picture.text(x - 8, 81 + 24 * row, acronym, size=13, anchor="end")
            for column in range(8):
                fill = tested if (row, column) in test else learnt
                picture.box(x + 30 * column, 66 + 24 * row, 27, 20, fill=fill, edge="none", radius=3)
        picture.text(x, 184, *say(told), size=13)
    for y, name, fill in ((66, "training", learnt), (92, "test", tested)):
        picture.box(354, y, 18, 18, fill=fill, edge="none", radius=3)
        picture.text(378, y + 14, *say(name), size=13)
    sides, many_of = ((24, 344, RIGHT), (392, 384, WRONG)), counts()
    kinds = zip(("forward", "reverse", "unknown", "general"), PHRASINGS.items(), strict=True)
    for number, (kind, (bucket, phrasings)) in enumerate(kinds):
        y = 238 + 78 * number
        counted = kind, bucket if bucket == "new_phrasing" else f"test_{bucket}"
        names = (kind, bucket)
        for side, (x, width, colour) in enumerate(sides):
            about = {"acronym": UNKNOWN[side]} if kind == "unknown" else ENTRY
            picture.box(x, y, width, 62, fill=tint(colour, 0.1), edge=tint(colour, 0.5))
            picture.text(x + 12, y + 24, names[side], bold=True, mono=True)
            many = say(counted[side], count=many_of.get(counted[side]))
            picture.text(x + width - 12, y + 24, *many, size=13, colour=MUTED, anchor="end")
            picture.text(x + 12, y + 48, phrasings[side].format(**about), size=13)
        picture.line((370, y + 31), (390, y + 31), colour=MUTED, head=9)
    return picture


def who_sees(say: Words) -> Picture:
    """Holders, the machine that joins and trains, who runs the notebook, and who gets the model."""
    picture = Picture(500, *say("title"))
    zones = ((18, 206, RIGHT), (262, 296, GREY), (602, 180, GREEN))
    for (x, width, colour), name in zip(zones, say("zones"), strict=True):
        picture.box(x, 44, width, 438, fill=tint(colour, 0.1), edge=tint(colour, 0.6), radius=10)
        picture.text(x + width / 2, 32, name, bold=True, anchor="middle")
    for number, (name, told) in enumerate(zip(say("holders"), say("parts"), strict=True)):
        y = 60 + 76 * number
        picture.box(32, y, 178, 60)
        picture.text(44, y + 25, name, bold=True)
        picture.text(44, y + 46, told, size=13)
        picture.line((210, y + 30), (274, 82 + 8 * number), colour=MUTED, head=10)
    for number, lines in enumerate(("masked", "joined", "trained")):
        y = 60 + 84 * number
        picture.box(276, y, 268, 58)
        picture.text(410, y + 25, *say(lines), anchor="middle")
        if number:
            folder = "private/dataset/" if number == 1 else "models/private/"
            picture.text(410, y + 45, folder, anchor="middle", size=13, mono=True)
            picture.line((410, y - 26), (410, y), colour=MUTED, head=10)
    picture.text(692, 120, *say("arrow"), size=13, colour=MUTED, anchor="middle")
    picture.line((544, 257), (616, 257), colour=GREEN, width=6, head=16)
    picture.box(616, 212, 152, 90, fill=PAPER)
    picture.text(692, 242, *say("model"), anchor="middle")
    picture.text(692, 286, *say("promise"), size=13, colour=MUTED, anchor="middle")
    for x, who in ((32, "holder"), (276, "machine"), (618, "reader")):
        picture.text(x, 324, *say(who), size=13)
        picture.text(x, 410, *say(f"{who}_not"), size=13, bold=True)
    return picture
