"""The pictures of docs/pictures: drawn by the committed code, true, and described wherever they are shown."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import matplotlib
import nbformat
import pytest
import torch
from PIL import ImageFont

from helpers.config import load_config
from helpers.data.example import Example, asked
from helpers.data.glossary.entries import load_glossary
from helpers.data.languages.pack import load_pack
from helpers.evaluation.answers import glossary_messages
from helpers.models.find import load_tokenizer, resolve_model
from helpers.models.tokens import tokenise

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "pictures"
SHOWING = [*ROOT.glob("0*/*.ipynb"), *ROOT.glob("*.md"), *ROOT.glob("0*/*.md"), *ROOT.glob("docs/**/*.md")]
LARGEST = 25_000


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import draw

    return draw


@pytest.fixture
def of_models(drawing: ModuleType) -> ModuleType:
    import of_models

    return of_models


@pytest.fixture
def of_data(drawing: ModuleType) -> ModuleType:
    import of_data

    return of_data


def images(path: Path) -> Iterator[tuple[str, str]]:
    """Alternative text and address of each image of a notebook's or a page's markdown."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    yield from re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", text)
    for tag in re.findall(r"<img\b[^>]*>", text):
        told: dict[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        yield told.get("alt", ""), told.get("src", "")


def test_the_committed_files_are_what_the_code_draws(drawing: ModuleType) -> None:
    drawn = dict(drawing.drawn())
    assert {*FOLDER.rglob("*.svg")} == {*drawn}
    for path, text in drawn.items():
        assert path.read_text("utf-8") == text, f"{path} is not what the code draws: python docs/pictures/draw.py"
        assert len(text.encode()) < LARGEST
        picture = ElementTree.fromstring(text)
        assert picture[0].tag.endswith("title") and len(str(picture[0].text)) > 20


def test_no_text_leaves_its_card(drawing: ModuleType) -> None:
    """Measured in DejaVu Sans, which is wider than what most browsers take."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for path, text in drawing.drawn():
        picture = ElementTree.fromstring(text)
        for words in picture.iter("{http://www.w3.org/2000/svg}text"):
            kind = "Mono" if "mono" in words.get("font-family", "") else ""
            file = folder / f"DejaVuSans{kind}{'-Bold' if words.get('font-weight') else ''}.ttf"
            width = ImageFont.truetype(file, float(words.get("font-size", 14))).getlength(str(words.text))
            left = (
                float(words.get("x", 0))
                - {"start": 0, "middle": 0.5, "end": 1}[words.get("text-anchor", "start")] * width
            )
            assert left >= 8 and left + width <= drawing.WIDTH - 8, f"{path.name}: {words.text}"
            assert float(words.get("y", 0)) <= float(picture.get("height", 0)) - 6, f"{path.name}: {words.text}"


def test_every_image_exists_and_is_described_and_every_picture_is_shown(drawing: ModuleType) -> None:
    shown: set[Path] = set()
    for path in SHOWING:
        for told, address in images(path):
            assert len(told) > 10, f"{path.relative_to(ROOT)}: {address} has no description"
            if not address.startswith("http"):
                target = (path.parent / address).resolve()
                assert target.is_file(), f"{path.relative_to(ROOT)}: no file {address}"
                shown.add(target)
    assert {FOLDER / f"{name}.svg" for name in drawing.PICTURES} <= shown


def test_the_map_shows_every_notebook(of_data: ModuleType) -> None:
    there = {f"{path.parent.name}/{path.stem}" for path in ROOT.glob("0*/*.ipynb")}
    assert there <= {"00-set_up/check_environment", *of_data.NOTEBOOKS}


def test_the_split_asks_as_the_packs_do(of_data: ModuleType) -> None:
    pack = load_pack()
    facts = [fact.question for facts in pack.general.test.values() for fact in facts]
    of = {
        "train": [*pack.train.forward, *pack.train.reverse, *(fact.question for fact in pack.general.train)],
        "test": [*pack.test.forward, *pack.test.reverse, *facts],
    }
    learnt, tested = ([text.replace("{where}", "") for text in texts] for texts in of.values())
    for first, second in of_data.PHRASINGS.values():
        assert first in learnt and first not in tested
        assert second in tested and second not in learnt
    entries = load_glossary(load_config("cpu").glossary, 24, "en")
    assert of_data.ENTRY in [{"acronym": each.acronym, "definition": each.definition} for each in entries]
    assert not {*of_data.UNKNOWN} & {each.acronym for each in entries}


def test_the_loss_mask_is_that_of_the_tokenizer(of_models: ModuleType) -> None:
    question, answer = "What does DHAB stand for?", "DHAB stands for Drug Handling Advisory Board."
    tokenizer = load_tokenizer("smollm2-135m-instruct")
    row = tokenise([Example("a", "forward", asked(question), answer)], tokenizer)[0]
    read = [*of_models.READ, *of_models.OPENING]
    assert row["labels"] == [-100] * len(read) + [number for _, number in of_models.LEARNT]
    pieces = [tokenizer.decode([token]) for token in row["input_ids"]]
    assert pieces == [*read, *(token for token, _ in of_models.LEARNT)]


def test_the_layer_has_the_shapes_of_the_model(of_models: ModuleType) -> None:
    told: dict[str, Any] = json.loads((Path(resolve_model("smollm2-135m-instruct")) / "config.json").read_text("utf-8"))
    heads = told["num_attention_heads"]
    assert told["hidden_size"] == of_models.WIDE == heads * (told.get("head_dim") or told["hidden_size"] // heads)
    assert load_config("cpu").lora.rank == of_models.RANK


def test_the_levels_and_scales_are_those_of_bitsandbytes(of_models: ModuleType) -> None:
    from bitsandbytes.functional import get_4bit_type, quantize_4bit

    assert torch.allclose(get_4bit_type("nf4", device="cpu"), torch.tensor(of_models.NF4), atol=1e-6)
    assert all(below < above for below, above in pairwise(of_models.NF4))
    weights = torch.randn(of_models.SCALES, of_models.BLOCK, generator=torch.Generator().manual_seed(0))
    packed, once = quantize_4bit(weights, blocksize=of_models.BLOCK, quant_type="nf4")
    assert 8 * (packed.nbytes + once.absmax.nbytes) / weights.numel() == 4.5
    packed, twice = quantize_4bit(weights, blocksize=of_models.BLOCK, quant_type="nf4", compress_statistics=True)
    stored = packed.nbytes + twice.absmax.nbytes + twice.state2.absmax.nbytes
    assert round(8 * stored / weights.numel(), 2) == 4.13


def test_retrieval_shows_the_nearest_lines(of_models: ModuleType) -> None:
    settings = load_config("cpu")
    entries = load_glossary(settings.glossary, settings.dataset.max_entries, "en")
    question = Example("a", "new_phrasing", asked(of_models.ASKED), "")
    [[message]] = glossary_messages([question], entries, settings.answer.in_context_entries)
    assert message["content"].splitlines()[1:4] == list(of_models.SHOWN)
