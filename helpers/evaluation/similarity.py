"""How alike an answer and its reference look: shared words (ROUGE-L) and cosines of embeddings.

These are shown because they are what the field reports, and to show their limit: a sentence with one wrong
word looks very much like the right one. Every function matches `answers[i]` with `references[i]`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from helpers.data.matching import words
from helpers.errors import EvaluationError
from helpers.installed import minilm_folder
from helpers.models.precision import cpu_multiplies_bf16

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STATIC_DIMENSIONS, _SIF, _TOKENS_AT_ONCE = 256, 1e-4, 1024


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 of each answer: the longest common subsequence of words (Lin 2004), in [0, 1].

    Words are split as in `matching`, because the default tokenizer drops every non-Latin letter.
    """
    _refuse_unequal(answers, references)
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class UnicodeTokenizer(Tokenizer):  # type: ignore[misc]  # rouge_score carries no types
        def tokenize(self, text: str) -> list[str]:
            return words(text)

    scorer = RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())
    pairs = zip(answers, references, strict=True)
    return [float(scorer.score(target=reference, prediction=answer)["rougeL"].fmeasure) for answer, reference in pairs]


def sentence_similarity(answers: Sequence[str], references: Sequence[str], model: Any) -> list[float]:
    """Cosine of sentence embeddings, in [-1, 1]; 0 for a blank text.

    Args:
        answers: what a model wrote.
        references: full right answers.
        model: from `load_sentence_model`.
    """
    return _cosines(answers, references, model)


def static_similarity(answers: Sequence[str], references: Sequence[str], model: Any) -> list[float]:
    """Cosine of averaged word vectors, in [-1, 1]; 0 for a blank text, or one without any known word.

    Args:
        answers: what a model wrote.
        references: full right answers.
        model: from `load_static_model`.
    """
    return _cosines(answers, references, model)


def _cosines(answers: Sequence[str], references: Sequence[str], model: Any) -> list[float]:
    _refuse_unequal(answers, references)
    if not answers:
        return []
    import numpy as np

    # Models repeat themselves, and every reference comes once for each model: encode each text once.
    texts = list(dict.fromkeys([*answers, *references]))
    vectors: NDArray[np.float64] = np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    row = {text: unit[i] if text.strip() else np.zeros(unit.shape[1]) for i, text in enumerate(texts)}
    return [float(np.clip(row[a] @ row[r], -1, 1)) for a, r in zip(answers, references, strict=True)]


def _refuse_unequal(answers: Sequence[str], references: Sequence[str]) -> None:
    if len(answers) != len(references):
        raise EvaluationError(
            f"There are {len(answers)} answers but {len(references)} references; pass one for each answer."
        )


def load_sentence_model(name: str = "embedded") -> Any:
    """Load a `SentenceTransformer`.

    Args:
        name: `embedded` for all-MiniLM-L6-v2, a folder, or a Hugging Face hub id.

    Raises:
        EvaluationError: there is no such model.
    """
    from sentence_transformers import SentenceTransformer

    source = str(minilm_folder()) if name == "embedded" else name
    try:
        return SentenceTransformer(source)
    except (OSError, ValueError) as error:
        raise model_not_found("sentence_model", name, error) from error


def load_static_model(name: str = "embedded", *, cache: Path) -> Any:
    """Load a model2vec `StaticModel`, a table of word vectors.

    `embedded` distils one from MiniLM (model2vec: every token through the model, then PCA and weights by
    rank), in a few seconds, and keeps it for later calls.

    Args:
        name: `embedded`, a folder, or a Hugging Face hub id.
        cache: folder that holds the distilled model; used for `embedded` only.

    Raises:
        EvaluationError: there is no such model.
    """
    from model2vec import StaticModel

    try:
        if name != "embedded":
            return StaticModel.from_pretrained(name)
        if not cache.is_dir():
            _distil(cache)
        return StaticModel.from_pretrained(str(cache))
    except (OSError, ValueError) as error:
        raise model_not_found("static_model", name, error) from error


def _distil(cache: Path) -> None:
    """Distil as `model2vec.distill` does; its extra cannot be installed next to transformers 5.4 or newer."""
    import numpy as np
    import torch
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
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as unfinished:
        static.save_pretrained(str(Path(unfinished, "model")))
        Path(unfinished, "model").rename(cache)  # Whole or not at all, so a kill leaves no half model.


def model_not_found(key: str, name: str, error: Exception) -> EvaluationError:
    """Explain that a scorer's model could not be loaded."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EvaluationError(
        f"score.{key}: {name!r} cannot be loaded ({reason}). Use 'embedded', a folder, or a reachable hub id."
    )
