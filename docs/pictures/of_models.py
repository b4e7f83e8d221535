"""Pictures of models and training: loss mask, LoRA, 4-bit blocks, a private step, retrieval against tuning."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import NormalDist

from svg import PAPER, Picture, Words, tint

from helpers.report.figures import GRID, INK, MODEL_COLOURS, MUTED, RIGHT, WRONG

AMBER, GREY = MODEL_COLOURS["in_context"], MODEL_COLOURS["base"]
READ = ["<|im_start|>", "user", "\n", "What", " does", " DH", "AB", " stand", " for", "?", "<|im_end|>", "\n"]
OPENING = ["<|im_start|>", "ass", "istant", "\n"]
LEARNT = [
    *(("DH", 38300), ("AB", 5431), (" stands", 6443), (" for", 327), (" Drug", 10174), (" Handling", 37177)),
    *((" Advisory", 23639), (" Board", 7829), (".", 30), ("<|im_end|>", 2), ("\n", 198)),
]
"""A conversation as SmolLM2's tokenizer cuts it; learnt tokens with their numbers in the vocabulary."""
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
BLOCK, SCALES = 64, 256
"""Weights that share a scale, and scales that share one of their own."""
WIDE, RANK = 576, 16
"""Rows and columns of SmolLM2's q_proj, and the rank with `cpu`."""
SHOWN = (
    "DHAB (health): Drug Handling Advisory Board",
    "DHEB (public finance): District Heating Equalisation Budget",
    "FRESV (transport): Fund for Rural Electric School Vehicles",
)
ASKED = "Unpack DHAB for a newcomer."
"""A question of the test, and the lines of the example's glossary that are nearest to it."""


def loss_mask(say: Words) -> Picture:
    """The tokens of a conversation: the question is read, the answer is read and learnt."""
    picture = Picture(360, *say("title"))
    picture.text(24, 26, *say("token"), bold=True, size=13)
    picture.text(120, 26, *say("label"), size=13, colour=MUTED)
    read = [(token, -100) for token in READ], [(token, -100) for token in OPENING]
    for y, name, tokens in ((56, "question", read[0]), (136, "opening", read[1]), (216, "answer", LEARNT)):
        colour, x = (RIGHT if tokens is LEARNT else GREY), 120.0
        picture.text(24, y + 8, *say(name), size=13, bold=tokens is LEARNT)
        for token, label in tokens:
            piece = token.replace("\n", "↵").replace(" ", "␣")
            width = max(8.5 * len(piece) + 9, 6.8 * len(str(label)))
            middle = x + width / 2
            picture.box(x, y - 10, width, 30, fill=tint(colour, 0.25), edge=colour, radius=3)
            picture.text(middle, y + 10, piece, mono=True, anchor="middle")
            picture.text(middle, y + 36, str(label), size=11, mono=True, anchor="middle")
            x += width + 4
    picture.box(24, 278, 752, 60, fill=tint(RIGHT, 0.1), edge="none")
    picture.text(40, 303, *say("loss", learnt=len(LEARNT)), size=13.5)
    picture.text(40, 325, *say("rest", read=len(READ) + len(OPENING)), size=13, colour=MUTED)
    return picture


def lora(say: Words) -> Picture:
    """One layer: the frozen matrix W beside the thin matrices A and B, and the sum."""
    picture = Picture(452, *say("title"))
    frozen, trained = tint(GREY, 0.45), tint(RIGHT, 0.6)
    top, low = 118, 316
    for x, y, height, letter in ((60, 300, 130, "k"), (668, 300, 130, "d"), (402, low + 28, 18, "r")):
        width = 8 if letter == "r" else 16
        picture.box(x, 214 - 65 if height == 130 else low - 9, width, height, edge=INK, line=1.5, radius=2)
        picture.text(x + width / 2, y, *say("numbers", letter=letter), size=13, colour=MUTED, anchor="middle")
    picture.text(68, 138, "x", bold=True, anchor="middle")
    picture.line((80, 200), (120, 200), (120, top), (206, top), radius=10, head=10)
    picture.line((80, 230), (120, 230), (120, low), (206, low), radius=10, head=10)
    picture.box(210, top - 75, 150, 150, fill=frozen, edge=GREY, radius=2)
    picture.text(285, top - 4, "W", bold=True, size=20, anchor="middle")
    picture.text(285, top + 18, *say("frozen"), size=13, anchor="middle")
    picture.line((364, top), (598, top), (598, 192), radius=10, head=10)
    picture.text(372, top - 10, "W·x", size=13)
    picture.box(210, low - 9, 150, 18, fill=trained, edge=RIGHT, radius=2)
    picture.text(285, low - 18, "A: r × k", bold=True, anchor="middle")
    picture.line((364, low), (398, low), head=10)
    picture.line((414, low), (448, low), head=10)
    picture.box(452, low - 75, 18, 150, fill=trained, edge=RIGHT, radius=2)
    picture.text(461, low - 84, "B: d × r", bold=True, anchor="middle")
    picture.line((474, low), (534, low), head=10)
    picture.circle(560, low, 24, fill=PAPER, edge=INK)
    picture.text(560, low + 5, "× α/r", size=13, anchor="middle")
    picture.line((584, low), (598, low), (598, 236), radius=10, head=10)
    picture.circle(598, 214, 20, fill=PAPER, edge=INK)
    picture.text(598, 221, "+", bold=True, size=20, anchor="middle")
    picture.line((620, 214), (664, 214), head=10)
    picture.text(692, 206, "W·x +", "(α/r)·B·(A·x)")
    picture.text(150, 376, *say("trained"), size=13)
    whole, few = WIDE**2, 2 * RANK * WIDE
    sizes = {"whole": say.number(whole), "few": say.number(few), "share": say.number(100 * few / whole, 1)}
    picture.box(24, 410, 752, 30, fill=tint(RIGHT, 0.1), edge="none")
    picture.text(400, 430, *say("sizes", rank=RANK, wide=WIDE, **sizes), size=13, anchor="middle")
    return picture


def nf4(say: Words) -> Picture:
    """64 weights with one scale, the 16 levels, and the scales of the scales."""
    picture = Picture(560, *say("title"))
    normal = NormalDist(0.002, 0.035)
    weights = [normal.inv_cdf((place + 0.5) / BLOCK) for place in range(BLOCK)]
    random.Random(4).shuffle(weights)
    scale = max(map(abs, weights))
    picture.text(24, 34, *say("block"), bold=True)
    for place, weight in enumerate(weights):
        colour = tint(RIGHT if weight > 0 else WRONG, 0.1 + 0.9 * abs(weight) / scale)
        picture.box(24 + 11.75 * place, 46, 10.25, 26, fill=colour, edge="none", radius=2)
    picture.text(24, 94, *say("scale", scale=say.number(scale, 3)), size=13)
    picture.text(24, 150, *say("levels"), bold=True)
    middle, unit, ground = 400.0, 348.0, 290.0
    density = [(x / 20, normal.pdf(scale * x / 20) / normal.pdf(normal.mean)) for x in range(-20, 21)]
    picture.line(*[(middle + unit * x, ground - 105 * y) for x, y in density], colour=GRID)
    nearest = [min(range(16), key=lambda level: abs(NF4[level] - weight / scale)) for weight in weights]
    for number, level in enumerate(NF4):
        x = middle + unit * level
        picture.line((x, ground + 8), (x, ground), width=1.5)
        for height in range(nearest.count(number)):
            picture.circle(x, ground - 7 - 10.5 * height, 4, fill=RIGHT if level > 0 else WRONG if level < 0 else GREY)
        told = say.number(level, 0 if level in (-1, 0, 1) else 2)
        picture.text(x, ground + (22 if number % 2 else 37), told, size=11, anchor="middle")
    picture.line((30, ground), (770, ground), colour=MUTED, width=1)
    gaps = [above - below for below, above in pairwise(NF4)]
    picture.text(24, 350, *say("dots", near=say.number(min(gaps), 2), far=say.number(max(gaps), 2)), size=13)
    picture.text(24, 408, *say("double"), bold=True)
    for x, width, name in ((24, 190, "before"), (268, 216, "after"), (538, 238, "more")):
        picture.box(x, 420, width, 54, fill=tint(AMBER, 0.2), edge=AMBER)
        picture.text(x + width / 2, 442, *say(name), size=13, anchor="middle")
    picture.line((218, 447), (264, 447), colour=MUTED, head=10)
    picture.text(511, 453, "+", bold=True, size=18, anchor="middle")
    once, twice = 4 + 32 / BLOCK, 4 + 8 / BLOCK + 32 / (BLOCK * SCALES)
    picture.box(24, 490, 752, 52, fill=tint(RIGHT, 0.1), edge="none")
    picture.text(40, 512, *say("bits", once=say.number(once, 2), twice=say.number(twice, 2)), size=13.5)
    return picture


def private_step(say: Words) -> Picture:
    """Draw, clip, add noise: arrows are the gradients of patients."""
    picture = Picture(446, *say("title"))
    lengths = (1.9, 0.55, 2.3, 1.2, 0.8, 1.6, 0.45, 2.1, 0.9, 1.4)
    angles = [math.radians(angle) for angle in (20, 62, 105, 135, 172, 214, 248, 283, 318, 345)]
    drawn, unit, y = {1, 2, 4, 9}, 48.0, 166.0
    for x, heading, told in zip((22, 280, 538), say("panels"), ("drawn", "clipped", "noisy"), strict=True):
        picture.box(x, 48, 240, 236)
        picture.text(x, 34, heading, bold=True, size=16)
        picture.text(x, 308, *say(told), size=13)
    picture.circle(400, y, unit, edge=RIGHT)
    picture.text(436, y + unit + 12, *say("length"), size=13, colour=RIGHT)
    total_x = total_y = 0.0
    for at, (length, angle) in enumerate(zip(lengths, angles, strict=True)):
        right, down = unit * math.cos(angle), -unit * math.sin(angle)
        end, colour = (142 + length * right, y + length * down), WRONG if at in drawn else tint(GREY, 0.6)
        picture.line((142, y), end, colour=colour, width=2.5, head=10)
        if at in drawn:
            kept = min(1, length)
            end = 400 + length * right, y + length * down
            picture.line((400, y), end, colour=tint(WRONG, 0.45), width=1.5, dash=True)
            picture.line((400, y), (400 + kept * right, y + kept * down), colour=WRONG, width=2.5, head=10)
            total_x, total_y = total_x + kept * right, total_y + kept * down
    chooser, small = random.Random(3), 32.0
    for _ in range(110):
        right, down = chooser.gauss(0, small), chooser.gauss(0, small)
        if max(abs(right), abs(down)) < 112:
            picture.circle(658 + right, y + down, 1.8, fill=tint(GREY, 0.8))
    picture.circle(658, y, small, edge=RIGHT)
    start = 658 - small / unit * total_x, y - small / unit * total_y
    picture.line(start, (658, y), colour=WRONG, width=2.5, head=10)
    picture.circle(696, 195, 5, fill=INK)
    picture.text(696, 215, *say("published"), size=13, bold=True, anchor="middle")
    picture.text(22, 394, *say("then"), size=13)
    return picture


def retrieval(say: Words) -> Picture:
    """What is in the prompt against what is in the weights."""
    picture = Picture(520, *say("title"))
    for x, name, colour, lines in ((24, "retrieval", AMBER, SHOWN), (408, "tuning", RIGHT, ())):
        picture.box(x, 44, 368, 256, fill=tint(colour, 0.08), edge=tint(colour, 0.6), radius=10)
        picture.text(x, 32, *say(name), bold=True, size=16)
        picture.text(x + 14, 68, *say("reads"), size=13, colour=MUTED)
        for number, line in enumerate(lines):
            picture.box(x + 14, 78 + 26 * number, 340, 22, fill=tint(colour, 0.3), edge="none", radius=3)
            picture.text(x + 20, 93 + 26 * number, line, size=11)
        picture.box(x + 14, 158, 340, 26)
        picture.text(x + 22, 176, ASKED, size=13)
        picture.line((x + 110, 186), (x + 110, 208), colour=MUTED, head=9)
        picture.box(x + 14, 210, 192, 42, fill=tint(GREY, 0.45), edge=GREY)
        picture.text(x + 110, 236, *say("model"), anchor="middle")
        if not lines:
            picture.text(x + 14, 128, *say("alone"), size=13, colour=MUTED)
            picture.box(x + 212, 210, 142, 42, fill=tint(colour, 0.55), edge=colour)
            picture.text(x + 283, 236, *say("adapter"), anchor="middle", bold=True)
        picture.line((x + 110, 254), (x + 110, 272), colour=MUTED, head=9)
        picture.text(x + 110, 290, *say("answer"), anchor="middle")
    for number, name in enumerate(("where", "change", "cost", "failure")):
        y = 330 + 46 * number
        what, shown, tuned = say(name)
        picture.text(24, y, what, size=13, colour=MUTED)
        picture.text(24, y + 19, shown, size=13.5)
        picture.text(408, y + 19, tuned, size=13.5)
        if number:
            picture.line((24, y - 18), (776, y - 18), colour=GRID, width=1)
    return picture
