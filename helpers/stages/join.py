"""01, with holders' records as source: they are joined, and secrets are added if all of them are fictitious."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from helpers.data.card import GENERAL_BUCKET
from helpers.data.example import SHORT, SPLITS, Example, write_examples
from helpers.data.glossary.phrasings import general_examples
from helpers.data.holders.candidates import BUCKET
from helpers.data.holders.pipeline import Pipeline
from helpers.data.holders.pseudonyms import read_key
from helpers.errors import DataError
from helpers.evaluation.attacks.canaries import make_canaries, planted_examples, whole_words
from helpers.evaluation.attacks.extraction import SECRET
from helpers.files import read_json, write_json
from helpers.models.find import load_tokenizer
from helpers.models.tokens import learnt_rows
from helpers.privacy.units import encode_units
from helpers.run import Run
from helpers.stages.common import pipeline_of, rehearsed_examples

REHEARSED = 200
"""General questions that the base model is asked, half of them twice. Only its right answers are rehearsed."""
BUCKETS = {
    BUCKET: {
        "title": "Questions about unseen patients",
        "meaning": "About patients who are in no training record. An answer is right if it gives the expected one, "
        f"where that has {SHORT} words or fewer.",
    },
} | GENERAL_BUCKET
"""What the report says about each bucket of the test."""


def join(run: Run) -> dict[str, Any]:
    """Join the holders' records into private/dataset/, and return the card, which holds no record."""
    pipeline, folder = pipeline_of(run), run.home / "dataset"
    run.begin()
    if not pipeline.fictitious:
        run.path.chmod(0o700)  # exact counts, times and digests of real records are its owner's alone
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):  # two trainings that begin at once join once
        for half_written in folder.glob(".*.jsonl.*"):  # records that a kill left there
            half_written.unlink()
        if not run.finished("join", pipeline.files):
            _join(run, pipeline, folder)
    return read_json(folder / "card.json")


def joined_rows(run: Run) -> list[str]:
    """For each holder how many rows are in a record, and why others are not; of real ones, to the nearest ten."""
    card, exact = read_json(run.home / "dataset" / "card.json"), pipeline_of(run).fictitious

    def about(number: int) -> str:
        return str(number if exact else round(number, -1) or "fewer than ten")

    lines, near = [], "" if exact else " (to the nearest ten)"
    for name, rows in card["holders"].items():
        why = "; ".join(f"{about(times)} ({reason})" for reason, times in rows["left_out"].items())
        given, kept = about(rows["given"]), about(rows["kept"])
        lines.append(f"{name}: {kept} of {given} rows are in a record{near}. Left out: {why or 'none'}.")
    return lines


def _join(run: Run, pipeline: Pipeline, folder: Path) -> None:
    """Write the splits and the card; refuse what no training could use, before any budget is spent."""
    from helpers.data.holders.join import join_providers

    config = run.config
    paths = {name: folder / f"{name}.jsonl" for name in (*SPLITS, "canaries")}
    with run.stage("join", pipeline.files, [*paths.values(), folder / "card.json"]):
        key = read_key(os.environ, fictitious=pipeline.fictitious)
        joined = join_providers(pipeline, key, seed=config.seed)
        parts = dict(joined.records.get_secret_value())
        parts["train"] = [each for each in parts["train"] if _chosen(each.unit, config.privacy.patients_share)]
        own = {example.unit for example in parts["train"]}
        if not own:
            raise DataError(
                f"No patient is left to train on: privacy.patients_share is {config.privacy.patients_share}. Raise it."
            )
        parts["canaries"] = []
        if pipeline.fictitious:
            parts["train"], parts["canaries"] = _planted(run, parts["train"], pipeline.cap)
        tokenizer, limit = load_tokenizer(config.base_model), config.privacy.max_length_tokens
        # Common knowledge in the base model's own words, without which models forget nearly all. It is public; each
        # counts as a patient, drawn, clipped and noised, so that the guarantee stays as it is.
        known = rehearsed_examples(run, min(REHEARSED, config.dataset.general_train), folder / "general_answers.jsonl")
        public = [replace(each, unit=each.id) for each in known]
        lengths = [len(row) for row, _ in learnt_rows(public, tokenizer)]
        rehearsed = [each for each, length in zip(public, lengths, strict=True) if length <= limit]
        parts["train"] = rehearsed + parts["train"]
        units = encode_units(parts["train"], tokenizer, max_length_tokens=limit)
        if parts["validation"]:
            encode_units(parts["validation"], tokenizer, max_length_tokens=limit)
        asked = [each for each in parts["test"] if each.prompt]  # a plain text is no question
        parts["test"] = asked + general_examples(config.dataset.test_general)
        for name, path in paths.items():
            write_examples(path, parts[name])
        training = {
            "units": len(units),
            "left_out_by_patients_share": joined.card["splits"]["train"]["units"] - len(own),
            "planted": len(units) - len(own) - len(rehearsed),
            "rehearsed": len(rehearsed),
        }
        write_json(folder / "card.json", joined.card | {"training": training, "buckets": BUCKETS})


def _chosen(unit: str, share: float) -> bool:
    """Whether a patient is among a share of all. Its own pseudonym decides, so that no other patient can."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") < share * 2**64


def _planted(run: Run, train: list[Example], cap: int) -> tuple[list[Example], list[Example]]:
    """Training examples with the secret in place of one patient's and with member canaries, and all canaries."""
    settings, words = run.config.privacy, whole_words(load_tokenizer(run.config.base_model))
    canaries = make_canaries(settings.canaries_with_bit, settings.canaries_left_out, words=words, seed=run.config.seed)
    victim = train[0].unit
    # First, so that their order in the baseline's shuffled list does not depend on which patients the key chose.
    planted = [
        *(Example(f"secret/{copy}", "secret", (), SECRET, unit=victim) for copy in range(cap)),
        *planted_examples(canaries, max(1, 3 * cap // 8)),  # with more, the baseline loses the secret (0007)
        *(example for example in train if example.unit != victim),
    ]
    return planted, canaries
