"""Two invented holders of a few rows, for tests that change one thing about them."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from helpers.data.example import Example
from helpers.data.holders.join import Joined, join_providers
from helpers.data.holders.pipeline import Pipeline, load_pipeline

KEY = SecretStr("0123456789abcdef" * 4)

CLINIC = [
    {
        "phone": f"+33 6 39 98 00 {n:02d}",
        "visit": 1,
        "name": f"Zorbel{'abcdefghijkl'[n]}",
        "note": f"Seen, has gout {n}.",
    }
    for n in range(12)
]
SHOP = [{"tel": f"06.39.98.00.{n:02d}", "no": "1", "article": f"Drug{n}"} for n in range(12)]
SETTINGS: dict[str, Any] = {
    "holders": [
        {
            "name": "clinic",
            "fictitious": True,
            "file": "clinic.jsonl",
            "format": "jsonl",
            "key": {"column": "phone", "kind": "phone", "region": "FR"},
            "columns": {"episode": "visit", "note": "note"},
            "coded": ["episode"],
            "roster": ["name"],
        },
        {
            "name": "shop",
            "fictitious": True,
            "file": "shop.csv",
            "format": "csv",
            "key": {"column": "tel", "kind": "phone", "region": "FR"},
            "columns": {"episode": "no", "drug": "article"},
            "coded": ["episode", "drug"],
        },
    ],
    "joins": [{"left": "clinic", "right": "shop", "on": ["patient", "episode"], "how": "inner"}],
    "templates": [{"question": "{clinic.note} Drug:", "answer": "{shop.drug}"}],
    "split": {"validation": 0.0, "test": 0.0},
}


def small_pipeline(
    folder: Path,
    clinic: list[dict[str, Any]] | None = None,
    shop: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> Pipeline:
    """Write the holders' files and the pipeline, and load it."""
    clinic, shop = CLINIC if clinic is None else clinic, SHOP if shop is None else shop
    folder.mkdir(exist_ok=True)
    (folder / "clinic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clinic), encoding="utf-8")
    with (folder / "shop.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["tel", "no", "article"])
        writer.writeheader()
        writer.writerows(shop)
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | changes, sort_keys=False), encoding="utf-8")
    return load_pipeline(path)


def join(pipeline: Pipeline, seed: int = 7) -> Joined:
    return join_providers(pipeline, KEY, seed=seed)


def records(joined: Joined) -> list[Example]:
    return [record for part in joined.records.get_secret_value().values() for record in part]


def words(record: Example) -> str:
    """What a record says, question and answer."""
    return f"{record.question} {record.answer}".strip()
