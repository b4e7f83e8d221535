"""Tables and a self-contained HTML report, from `results.json` alone."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from helpers.errors import EvaluationError
from helpers.files import write_atomic
from helpers.report.figures import (
    METRIC_TITLES,
    Results,
    buckets_of,
    model_colours,
    percent,
    plot_buckets,
    plot_similarity_blindness,
    plot_training,
    to_svg,
)

__all__ = [
    "comparison_table",
    "headline",
    "plot_buckets",
    "plot_similarity_blindness",
    "plot_training",
    "print_table",
    "write_report",
]

MODEL_MEANINGS = {
    "base": "untouched",
    "in_context": "untouched, with the nearest glossary lines in its prompt",
}
_UNTRAINED = tuple(MODEL_MEANINGS)
_TEMPLATE = Path(__file__).with_name("template.html")
_ALIKE = 0.8  # A cosine at which an answer would commonly pass as right.


def comparison_table(results: Results) -> pd.DataFrame:
    """Rates of right answers with their 95 % intervals.

    Returns:
        One row a model, one column a bucket, text cells such as `0.96 [0.89, 0.99]`; a dash where nothing was
        asked.
    """
    models = results["models"]
    buckets = list(buckets_of(results))
    rows = {n: [_cell(m["buckets"].get(b)) for b in buckets] for n, m in models.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=buckets)
    return table.rename_axis(index="model", columns="bucket")


def _cell(rate: Mapping[str, Any] | None) -> str:
    if not rate or rate["rate"] is None:
        return "–"
    return f"{rate['rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def print_table(results: Results) -> None:
    """Print the headline and the comparison table to the terminal."""
    print(headline(results)[0])
    print(comparison_table(results).to_string())


def headline(results: Results) -> tuple[str, list[str]]:
    """Say in one sentence what the numbers show, and in a few more what it costs.

    Returns:
        The sentence, and further ones; all are built from numbers that are there.
    """
    models = results["models"]
    trained = [name for name in models if name not in _UNTRAINED]
    best = max(trained, key=lambda name: _rate(results, name, "new_phrasing") or 0.0, default=None)
    if best is None:
        return "No fine-tuned model was tested yet.", []
    after, before = _rate(results, best, "new_phrasing"), _rate(results, "base", "new_phrasing")
    if after is None:
        return f"{best} was not asked about the glossary in new words.", []
    title = f"Fine-tuned, the model answers {percent(after)} of new phrasings right"
    title += "." if before is None else f"; untouched, {percent(before)}."
    more = []
    changes = (("reverse", "Asked in reverse, {0} right"), ("unknown", "Declines {0} of unknown acronyms"))
    for bucket, sentence in (*changes, ("general", "General knowledge: {0}")):
        now, then = _rate(results, best, bucket), _rate(results, "base", bucket)
        if now is not None:
            more.append(sentence.format(percent(now)) + ("." if then is None else f" (untouched: {percent(then)})."))
    in_context = _rate(results, "in_context", "new_phrasing")
    if in_context is not None:
        more.append(f"With the definition in its prompt instead, the untouched model reaches {percent(in_context)}.")
    return title, more


def _rate(results: Results, model: str, bucket: str) -> float | None:
    rate: float | None = results["models"].get(model, {}).get("buckets", {}).get(bucket, {}).get("rate")
    return rate


def write_report(results_path: Path, html_path: Path) -> None:
    """Write a report that needs no other file, and no network.

    It adapts to light and dark screens and to paper. A model, a bucket or a section without data is left out.

    Args:
        results_path: `results.json`.
        html_path: where the page goes.

    Raises:
        EvaluationError: the results are missing or are not those of an evaluation.
        RunError: the page cannot be written.
    """
    try:
        results = json.loads(results_path.read_text(encoding="utf-8"))
        models = results["models"]
    except (OSError, ValueError, TypeError, KeyError):
        raise EvaluationError(
            f"{results_path} holds no results. Run the notebook 03-test/02-score.ipynb first."
        ) from None
    title, more = headline(results)
    figures = {"buckets": to_svg(plot_buckets(results), "buckets")}
    if results.get("training"):
        figures["training"] = to_svg(plot_training(results), "training")
    if any(area is not None for area in results.get("separation", {}).values()):
        figures["similarity"] = to_svg(plot_similarity_blindness(results), "similarity")
    page = _template().render(
        results=results,
        models=models,
        title=title,
        more=more,
        figures=figures,
        buckets=buckets_of(results),
        model_meanings=MODEL_MEANINGS,
        metric_titles=METRIC_TITLES,
        colours=model_colours(list(models)),
        blindness=_blindness(results),
        command=_command(results.get("run", {})),
    )
    write_atomic(html_path, page)


def _blindness(results: Results) -> str:
    wrong = results.get("similarity", {}).get("wrong", [])
    if not wrong:
        return "Every answer was right, so there is nothing to tell apart."
    right = results["similarity"]["correct"]
    alike = sum(value >= _ALIKE for value in wrong) / len(wrong)
    cuts = sorted({*right, *wrong, 2.0})
    mistakes = min(sum(v >= cut for v in wrong) + sum(v < cut for v in right) for cut in cuts)
    misjudged = mistakes / (len(right) + len(wrong))
    return (
        f"Of {len(wrong)} wrong answers about glossary entries, {percent(alike)} reach a cosine of {_ALIKE} or "
        "more with the right answer: a wrong term in an otherwise right sentence scores high, another sentence low. "
        f"Even the best threshold, chosen with hindsight, would misjudge {percent(misjudged)} of all answers; "
        "this report counts the term itself."
    )


def _command(run: Mapping[str, Any]) -> str:
    return f"make run CONF={run.get('profile', 'cpu')}" + (f" RUN={run['id']}" if run.get("id") else "")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["duration"] = _duration
    return environment.from_string(_TEMPLATE.read_text("utf-8"))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
