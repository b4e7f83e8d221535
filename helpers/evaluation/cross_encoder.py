"""A scorer that reads answer and reference together, trained on the run's own training conversations.

Comparing two finished embeddings blurs a single wrong word; a cross-encoder sees both texts at once and can
be taught which differences matter. Its pairs come from the training set alone, and entries held back from it
tell how far it may be trusted; that accuracy is stored next to it.
"""

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from helpers.data.example import Example, read_examples
from helpers.errors import EvaluationError
from helpers.files import read_json, sha256, write_json
from helpers.installed import minilm_folder
from helpers.models.find import fetch
from helpers.provenance import code_digest

_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _MAX_LENGTH_TOKENS = 2, 16, 2e-4, 96
_HELD_OUT_SHARE = 0.2
PAIRS_AN_ENTRY = 20
"""More would repeat the few wordings that there are."""


class Pair(NamedTuple):
    """Two answers to the same question, and whether they say the same: 1.0 or 0.0."""

    answer: str
    reference: str
    label: float


def train_cross_encoder(train_path: Path, folder: Path, *, seed: int, max_pairs: int) -> dict[str, Any]:
    """Train a cross-encoder from MiniLM, or find the one trained before on the same conversations.

    It is kept in `folder`, with its `quality.json`. `max_pairs`, the most pairs to train on, sets the time; `seed` is
    that of the pairs, the held-out entries and the training.

    Returns:
        `{"accuracy", "held_out_pairs", "held_out_entries", "train_pairs", "seconds", ...}`; accuracy, in
        [0, 1], on pairs of entries that were not trained on, half of them right.

    Raises:
        EvaluationError: see `make_pairs`.
    """
    code = code_digest("evaluation/cross_encoder")
    made_from = {"train_sha256": sha256(train_path), "seed": seed, "max_pairs": max_pairs, "code": code}
    quality_path = folder / "quality.json"
    if quality_path.is_file():
        kept = read_json(quality_path)
        if made_from.items() <= kept.items():
            return kept
    train, held_out, entries = make_pairs(train_path, seed=seed, max_pairs=max_pairs)
    start = time.perf_counter()
    model = _fit(train, folder, seed)
    answers, references, labels = zip(*held_out, strict=True)
    scores = cross_encoder_similarity(answers, references, model)
    right = sum((score > 0.5) == (label == 1.0) for score, label in zip(scores, labels, strict=True))
    quality = {
        "accuracy": right / len(held_out),
        "held_out_pairs": len(held_out),
        "held_out_entries": entries,
        "train_pairs": len(train),
        "seconds": round(time.perf_counter() - start, 1),
        **made_from,
    }
    model.save_pretrained(str(folder))
    write_json(quality_path, quality)  # Last: it marks the model whole.
    return quality


def _fit(pairs: Sequence[Pair], folder: Path, seed: int) -> Any:
    set_seed(seed)
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # a report says that the head, which is trained here, is new
    model = CrossEncoder(str(minilm_folder()), num_labels=1, max_length=_MAX_LENGTH_TOKENS)
    logging.set_verbosity(before)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=_EPOCHS,
        per_device_train_batch_size=_BATCH_SIZE,
        learning_rate=_LEARNING_RATE,
        warmup_steps=0.1,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    dataset = Dataset.from_list([pair._asdict() for pair in pairs])
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=BinaryCrossEntropyLoss(model)
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


def load_cross_encoder(source: str) -> Any:
    """Load a `CrossEncoder` from a folder or the hub.

    Raises:
        ModelError: there is no such model.
        EvaluationError: it gives several scores a pair.
    """
    model = fetch(lambda: CrossEncoder(source), f"score.cross_encoder: {source!r}")
    if model.num_labels != 1:
        raise EvaluationError(f"score.cross_encoder: {source!r} gives {model.num_labels} scores a pair, expected one.")
    return model


def cross_encoder_similarity(answers: Sequence[str], references: Sequence[str], model: Any) -> list[float]:
    """Likelihood, in [0, 1], that each answer says the same as the reference at its place."""
    scores = model.predict(list(zip(answers, references, strict=True)), show_progress_bar=False)
    return [float(score) for score in scores]


def make_pairs(train_path: Path, *, seed: int, max_pairs: int) -> tuple[list[Pair], list[Pair], int]:
    """Build balanced pairs: two right wordings against a wrong one.

    Wrong means another entry's definition or acronym in the right sentence, another entry's answer, or a decline; for
    an unknown acronym, an invention. These are the mistakes that models make.

    Returns:
        Pairs to train on, `PAIRS_AN_ENTRY` for each entry up to `max_pairs`; held-out pairs; and the number of
        held-out entries. No entry is in both.

    Raises:
        EvaluationError: the conversations hold fewer than three entries, or all say the same.
    """
    of: dict[str, defaultdict[str, list[Example]]] = {"forward": defaultdict(list), "reverse": defaultdict(list)}
    declining = []
    for example in read_examples(train_path):
        if example.bucket == "unknown":
            declining.append(example)
        elif example.bucket in of and example.expected and example.expected[0] in example.answer:
            of[example.bucket][example.subject].append(example)
    entries = sorted(of["forward"])
    if len(entries) < 3:
        raise EvaluationError(
            f"{train_path}: a cross-encoder needs answers about 3 entries or more, found {len(entries)}. "
            "Set score.cross_encoder to a folder or hub id, or use a glossary with more entries."
        )
    rng = random.Random(seed)
    rng.shuffle(entries)
    n_held_out = max(1, round(_HELD_OUT_SHARE * len(entries)))

    def falsified(example: Example, other: str) -> str:
        """An answer with what `other` is expected to say in place of its own."""
        own, theirs = (each.expected[0] for each in (example, rng.choice(of[example.bucket][other])))
        return example.answer.replace(own, theirs)  # the answer holds it: others were left out

    def pairs_about(own: list[str], count: int) -> list[Pair]:
        pairs: list[Pair] = []
        while len(pairs) < count:
            entry, other = rng.choice(own), rng.choice(entries)
            if other == entry:
                continue
            right, wording = _two(rng, of["forward"][entry])
            invented = falsified(right, other)
            positives = [(wording.answer, right.answer)] * 2
            negatives = [(invented, right.answer), (rng.choice(of["forward"][other]).answer, right.answer)]
            if declining:
                one, another = _two(rng, declining)
                positives.append((another.answer.replace(another.subject, one.subject), one.answer))
                negatives += [(one.answer, right.answer), (right.answer, one.answer)]
            if of["reverse"][entry] and of["reverse"][other]:
                answer, other_answer = _two(rng, of["reverse"][entry])
                positives.append((other_answer.answer, answer.answer))
                negatives.append((falsified(other_answer, other), answer.answer))
            wrong = [pair for pair in negatives if pair[0] != pair[1]]
            if not wrong:
                raise EvaluationError(f"{train_path}: answers about different entries are the same.")
            pairs += [Pair(*rng.choice(positives), 1.0), Pair(*rng.choice(wrong), 0.0)]
        return pairs[:count]

    train = pairs_about(entries[n_held_out:], min(max_pairs, PAIRS_AN_ENTRY * len(entries)))
    return train, pairs_about(entries[:n_held_out], max(20, max_pairs // 5)), n_held_out


def _two(rng: random.Random, examples: Sequence[Example]) -> tuple[Example, Example]:
    """Two wordings, different ones where there are."""
    first, *second = rng.sample(examples, min(2, len(examples)))
    return first, (second or [first])[0]
