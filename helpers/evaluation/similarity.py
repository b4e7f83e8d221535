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
from tqdm import tqdm

from helpers.data.matching import words
from helpers.errors import EvaluationError
from helpers.evaluation import cross_encoder as cross
from helpers.evaluation.results import Metric
from helpers.installed import minilm_folder
from helpers.models.find import CACHE, fetch, made
from helpers.models.precision import cpu_multiplies_bf16

_STATIC_DIMENSIONS, _SIF, _TOKENS_AT_ONCE = 256, 1e-4, 1024


def load_metrics(
    static_model: str,
    sentence_model: str,
    cross_encoder: str | None,
    *,
    train: Path,
    cross_encoder_folder: Path,
    seed: int,
) -> tuple[dict[str, Metric], dict[str, Any] | None]:
    """Load every similarity score; the embedded cross-encoder is trained first.

    Args:
        static_model: `embedded`, a folder or a hub id.
        sentence_model: the same.
        cross_encoder: the same; `embedded` is trained on `train`, which has to be about a glossary. None: none is used.
        train: training records of this run.
        cross_encoder_folder: where the trained cross-encoder is kept.
        seed: of its training.

    Returns:
        Name to a function of (answers, references), and the cross-encoder's quality on held-out pairs. With too
        few conversations to train one it is left out, and that is printed.

    Raises:
        ModelError: a named model cannot be loaded.
        EvaluationError: the named cross-encoder gives several scores a pair.
    """
    metrics: dict[str, Metric] = {
        "rouge_l": rouge_l,
        "static": partial(cosines, model=load_static_model(static_model, cache=CACHE / "static-minilm")),
        "sentence": partial(cosines, model=load_sentence_model(sentence_model)),
    }
    quality = None
    if cross_encoder is None:
        return metrics, quality
    try:
        if cross_encoder == "embedded":
            quality = cross.train_cross_encoder(train, cross_encoder_folder, seed=seed)
        model = cross.load_cross_encoder(cross_encoder, folder=cross_encoder_folder)
        metrics["cross_encoder"] = partial(cross.cross_encoder_similarity, model=model)
    except EvaluationError as error:
        if cross_encoder != "embedded":
            raise
        print(f"No cross-encoder score: {error}")
    return metrics, quality


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 of each answer: the longest common subsequence of words (Lin 2004), in [0, 1].

    Words are split as in `matching`, because the default tokenizer drops every non-Latin letter.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class UnicodeTokenizer(Tokenizer):  # type: ignore[misc]  # rouge_score carries no types
        def tokenize(self, text: str) -> list[str]:
            return words(text)

    scorer = RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())
    pairs = zip(answers, references, strict=True)
    return [float(scorer.score(target=reference, prediction=answer)["rougeL"].fmeasure) for answer, reference in pairs]


def cosines(answers: Sequence[str], references: Sequence[str], model: Any) -> list[float]:
    """Cosine of embeddings, in [-1, 1]; 0 for a blank text, or one without any word that the model knows.

    Args:
        answers: what a model wrote.
        references: full right answers.
        model: from `load_sentence_model` or `load_static_model`.
    """
    if not answers:
        return []
    # Models repeat themselves, and every reference comes once for each model: encode each text once.
    texts = list(dict.fromkeys([*answers, *references]))
    vectors: npt.NDArray[np.float64] = np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    row = {text: unit[i] if text.strip() else np.zeros(unit.shape[1]) for i, text in enumerate(texts)}
    return [float(np.clip(row[a] @ row[r], -1, 1)) for a, r in zip(answers, references, strict=True)]


def load_sentence_model(name: str = "embedded") -> Any:
    """Load a `SentenceTransformer`.

    Args:
        name: `embedded` for all-MiniLM-L6-v2, a folder, or a Hugging Face hub id.

    Raises:
        ModelError: there is no such model.
    """
    from sentence_transformers import SentenceTransformer

    source = str(minilm_folder()) if name == "embedded" else name
    return fetch(lambda: SentenceTransformer(source), f"score.sentence_model: {name!r}")


def load_static_model(name: str = "embedded", *, cache: Path) -> Any:
    """Load a model2vec `StaticModel`, a table of word vectors.

    `embedded` distils one from MiniLM (model2vec: every token through the model, then PCA and weights by
    rank), in a few seconds, and keeps it for later calls.

    Args:
        name: `embedded`, a folder, or a Hugging Face hub id.
        cache: folder that holds the distilled model; used for `embedded` only.

    Raises:
        ModelError: there is no such model.
    """
    from model2vec import StaticModel

    source = str(made(cache, _distil)) if name == "embedded" else name
    return fetch(lambda: StaticModel.from_pretrained(source), f"score.static_model: {name!r}")


def _distil(folder: Path) -> None:
    """Distil as `model2vec.distill` does; its extra cannot be installed next to transformers 5.4 or newer."""
    from model2vec import StaticModel
    from sklearn.decomposition import PCA
    from transformers import AutoModel, AutoTokenizer

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
