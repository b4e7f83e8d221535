"""How alike an answer and its reference look: shared words (ROUGE-L) and cosines of embeddings.

These are shown because they are what the field reports, and to show their limit: a sentence with one wrong
word looks very much like the right one. Every function matches `answers[i]` with `references[i]`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from model2vec import StaticModel
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from transformers import AutoModel, AutoTokenizer

from helpers.config import Score
from helpers.data.reading.folding import words
from helpers.errors import EvaluationError
from helpers.evaluation.cross_encoder import cross_encoder_similarity, load_cross_encoder, train_cross_encoder
from helpers.evaluation.results import Metric
from helpers.installed import minilm_folder
from helpers.models.find import CACHE, fetch, made
from helpers.models.precision import cpu_multiplies_bf16
from helpers.progress import tqdm

_STATIC_DIMENSIONS, _SIF, _TOKENS_AT_ONCE = 256, 1e-4, 1024


def load_metrics(
    settings: Score, train: Path | None, folder: Path, *, seed: int
) -> tuple[dict[str, Metric], dict[str, Any] | None]:
    """Load every similarity score that the settings name; an embedded cross-encoder is trained first, into `folder`.

    Returns:
        Name to a function of (answers, references), and the trained cross-encoder's quality on held-out pairs. It is
        left out where `train`, a glossary's training records, is None; also where they are too few, which is printed.

    Raises:
        ModelError: a named model cannot be loaded.
        EvaluationError: the named cross-encoder gives several scores a pair.
    """
    metrics: dict[str, Metric] = {
        "rouge_l": rouge_l,
        "static": partial(cosines, model=load_static_model(settings.static_model)),
        "sentence": partial(cosines, model=load_sentence_model(settings.sentence_model)),
    }
    source: str | None = settings.cross_encoder
    quality = None
    if source == "embedded":
        try:
            quality = (
                train_cross_encoder(train, folder, seed=seed, max_pairs=settings.cross_encoder_pairs) if train else None
            )
        except EvaluationError as error:
            print(f"No cross-encoder score: {error}")
        source = str(folder) if quality else None
    if source is not None:
        metrics["cross_encoder"] = partial(cross_encoder_similarity, model=load_cross_encoder(source))
    return metrics, quality


class _UnicodeTokenizer(Tokenizer):  # type: ignore[misc]  # rouge_score carries no types
    def tokenize(self, text: str) -> list[str]:
        return words(text)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 of each answer: the longest common subsequence of words (Lin 2004), in [0, 1].

    Words are split as answers are read, because the default tokenizer drops every non-Latin letter.
    """
    scorer = RougeScorer(["rougeL"], tokenizer=_UnicodeTokenizer())
    pairs = zip(answers, references, strict=True)
    return [float(scorer.score(target=reference, prediction=answer)["rougeL"].fmeasure) for answer, reference in pairs]


def cosines(answers: Sequence[str], references: Sequence[str], model: Any) -> list[float]:
    """Cosine of embeddings, in [-1, 1]; 0 if a text is blank, has no known word, or its vector is not finite."""
    if not answers:
        return []
    # Models repeat themselves, and every reference comes once for each model: encode each text once.
    texts = list(dict.fromkeys([*answers, *references]))
    vectors: npt.NDArray[np.float64] = np.array(model.encode(texts, show_progress_bar=False), dtype=np.float64)
    vectors[[not text.strip() for text in texts]] = 0
    vectors[~np.isfinite(vectors).all(axis=1)] = 0  # as fp16 may overflow
    unit = dict(zip(texts, normalize(vectors), strict=True))
    return [float(np.clip(unit[a] @ unit[r], -1, 1)) for a, r in zip(answers, references, strict=True)]


def load_sentence_model(name: str = "embedded") -> Any:
    """Load a `SentenceTransformer`: `embedded` (all-MiniLM-L6-v2), a folder or a hub id; else ModelError."""
    source = str(minilm_folder()) if name == "embedded" else name
    return fetch(lambda: SentenceTransformer(source), f"score.sentence_model: {name!r}")


def load_static_model(name: str = "embedded") -> Any:
    """Load a model2vec `StaticModel`, a table of word vectors: a folder, a hub id, or `embedded`.

    The embedded one is distilled from MiniLM (every token through the model, then PCA and weights by rank) in a few
    seconds, and kept. Raises ModelError where there is no such model.
    """
    source = str(made(CACHE / "static-minilm", _distil)) if name == "embedded" else name
    return fetch(lambda: StaticModel.from_pretrained(source), f"score.static_model: {name!r}")


def _distil(folder: Path) -> None:
    """Distil as `model2vec.distill` does; its extra cannot be installed next to transformers 5.4 or newer."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    encoder = AutoModel.from_pretrained(minilm_folder()).eval()
    n_tokens = len(tokenizer)
    each_token = torch.tensor([[tokenizer.cls_token_id, i, tokenizer.sep_token_id] for i in range(n_tokens)])
    batches = tqdm(torch.split(each_token, _TOKENS_AT_ONCE), desc="distil word vectors")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cpu_multiplies_bf16()):
        states = torch.cat([encoder(batch).last_hidden_state.float().mean(dim=1) for batch in batches])
    vectors = PCA(_STATIC_DIMENSIONS, random_state=0).fit_transform(states.numpy())
    # Rank in the vocabulary stands for frequency (Zipf); frequent tokens say less (Arora et al. 2017).
    frequency = 1 / np.arange(2, n_tokens + 2)
    weights = _SIF / (_SIF + frequency / frequency.sum())
    static = StaticModel((vectors * weights[:, None]).astype(np.float16), tokenizer.backend_tokenizer, normalize=True)
    static.save_pretrained(str(folder))
