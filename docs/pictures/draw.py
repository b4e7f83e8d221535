"""Draw the pictures of the course: `python docs/pictures/draw.py`.

English ones lie in this folder, those of another language of `words/` in a folder of its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from of_data import course_map, split, who_sees
from of_models import lora, loss_mask, nf4, private_step, retrieval
from svg import WIDTH, Words

__all__ = ["PICTURES", "WIDTH", "drawn"]
HERE = Path(__file__).parent
PICTURES = {
    "map": course_map,
    "split": split,
    "who_sees": who_sees,
    "loss_mask": loss_mask,
    "lora": lora,
    "nf4": nf4,
    "private_step": private_step,
    "retrieval": retrieval,
}


def drawn() -> Iterator[tuple[Path, str]]:
    """The file of each picture in each language, and what belongs into it."""
    for language in sorted(path.stem for path in (HERE / "words").glob("*.yaml")):
        folder = HERE if language == "en" else HERE / language
        for name, draw in PICTURES.items():
            yield folder / f"{name}.svg", draw(Words(language, name)).svg()


if __name__ == "__main__":
    for path, text in drawn():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
