"""Tables and a self-contained HTML report, from `results.json` alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from helpers.data.example import FEW, is_general
from helpers.files import Record, write_atomic
from helpers.report.figures import (
    METRIC_TITLES,
    Results,
    bucket_title,
    buckets_of,
    model_colours,
    percent,
    plot_buckets,
    plot_similarity_blindness,
    plot_training,
    to_svg,
)

RANDOM_MODEL = "tiny-random"
"""The model of the `smoke` profile."""
UNTRAINED = ("base", "in_context")
_TEMPLATE = Path(__file__).with_name("template.html")
_MARKS = {True: "✓", False: "✗", None: ""}
_ALIKE = 0.8  # A cosine at which an answer would commonly pass as right.


def comparison_table(results: Results) -> pd.DataFrame:
    """Rates of right answers with their 95 % intervals, as text such as `0.96 [0.89, 0.99]`; a dash for none.

    One row a model, one column a bucket.
    """
    models = results["models"]
    buckets = list(buckets_of(results))
    rows = {n: [_cell(m["buckets"].get(b)) for b in buckets] for n, m in models.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=buckets)
    return table.rename_axis(index="model", columns="bucket")


def answers_on_the_way(rows: Sequence[Record]) -> pd.DataFrame:
    """What a model answered while it was trained, from the rows of a `hot_test`.

    One row a step, one column a question; `✓` stands before a right answer, `✗` before a wrong one.
    """
    asked = {row["id"]: row["question"] for row in rows}
    shown: dict[int, dict[str, str]] = {}
    for row in rows:
        answer = " ".join(row["answer"].split()) or "(nothing)"
        shown.setdefault(row["step"], {})[row["id"]] = f"{_MARKS[row['correct']]} {answer}".strip()
    table = pd.DataFrame.from_dict(shown, orient="index", columns=[*asked]).rename_axis(index="step")
    return table.set_axis([*asked.values()], axis="columns")


def _cell(rate: Mapping[str, Any] | None) -> str:
    if not rate or rate["rate"] is None:
        return "–"
    return f"{rate['rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def print_table(results: Results) -> None:
    """Print the headline, the comparison table and the means of the metrics to the terminal."""
    print(headline(results)[0])
    print(comparison_table(results).to_string())
    for bucket, told in results.get("dataset", {}).get("buckets", {}).items():
        if any(bucket in model["buckets"] for model in results["models"].values()):
            print(f"{bucket}: {told['meaning']}")
    likeness = [
        {"bucket": bucket, "model": name, **values}
        for name, model in results["models"].items()
        for bucket, values in model.get("likeness", {}).items()
    ]
    if likeness:
        table = pd.DataFrame(likeness).set_index(["bucket", "model"]).dropna(axis="columns", how="all").round(3)
        print(f"\nLikeness to the reference, where a reference is a sentence:\n{table.to_string()}")
    if few_items(results):
        print(f"\n{few_items(results)}")


def headline(results: Results) -> tuple[str, list[str]]:
    """Say in one sentence what the numbers show, and in a few more what it costs.

    Where most answers cannot be found right by their words, the sentence is about their likeness to the references.
    """
    models = results["models"]

    def found(name: str, bucket: str, part: str = "buckets", figure: str = "rate") -> Any:
        return models.get(name, {}).get(part, {}).get(bucket, {}).get(figure)

    trained = [name for name in models if name not in UNTRAINED]
    if not trained:
        return "No fine-tuned model was tested yet: run fine-tune, answer and score.", []
    if results.get("base_model") == RANDOM_MODEL:
        return f"{RANDOM_MODEL} has random weights: its answers are noise, and show only that every step works.", []
    rated = [bucket for bucket in buckets_of(results) if not is_general(bucket)]
    alike = [bucket for name in trained for bucket in models[name].get("likeness", {}) if not is_general(bucket)]
    first = next(iter(models))
    checked, likened = (found(first, rated[0], part, "n") or 0 if rated else 0 for part in ("buckets", "likeness"))
    by_words = checked > likened / 2
    asked, of = (rated, ("buckets", "rate")) if by_words else (alike[:1], ("likeness", "rouge_l"))
    if not asked:
        return "The test holds nothing but general knowledge.", []
    private = [name for name in trained if results.get("training", {}).get(name, {}).get("privacy")]
    best = max(private or trained, key=lambda name: found(name, asked[0], *of) or 0.0)
    tuned = "Fine-tuned"
    if private:  # a baseline without privacy answers better, and is not what such a run is for
        tuned += f" with ε = {results['training'][best]['privacy']['epsilon']:.3g}"
    after, before = (found(name, asked[0], *of) for name in (best, "base"))
    if by_words:
        name = bucket_title(results, asked[0])
        title = f"{tuned}, the model answers {percent(after)} of {name[:1].lower()}{name[1:]} right"
        more = []
    else:
        title = f"{tuned}, the model's answers have a ROUGE-L of {after or 0.0:.2f} with the references"
        more = ["References are sentences: likeness says how an answer is worded, not whether it is true."]
    if before is not None:
        title += f"; before, {percent(before) if by_words else f'{before:.2f}'}"
    for bucket in (*asked[1:], *filter(is_general, buckets_of(results))):
        now, then = (found(name, bucket) for name in (best, "base"))
        if now is not None:
            told = "" if then is None else f" (before: {percent(then)})"
            more.append(f"{bucket_title(results, bucket)}: {percent(now)}{told}.")
    in_context = found("in_context", asked[0])
    if by_words and in_context is not None:
        more.append(f"With the nearest lines in its prompt instead, the base model reaches {percent(in_context)}.")
    return f"{title}.", more


def few_items(results: Results) -> str:
    """A warning where the test is so small that hardly any difference can be seen; else nothing."""
    sizes = {
        bucket: rate["n"]
        for model in reversed(results["models"].values())
        for part in ("likeness", "buckets")  # of a bucket in both, those that have a rate count
        for bucket, rate in model.get(part, {}).items()
    }
    small = {bucket: size for bucket, size in sizes.items() if 0 < size < FEW}
    if not small:
        return ""
    bucket, size = min(small.items(), key=lambda item: item[1])
    return (
        f"{bucket_title(results, bucket)}: only {size} items. Rates of two models have to differ by about "
        f"{min(100, round(140 / size**0.5))} percentage points before chance is an unlikely reason."
    )


def write_report(results: Results, html_path: Path) -> None:
    """Draw what `results.json` holds as a page that needs no other file, and no network.

    It adapts to light and dark screens and to paper. A model, a bucket or a section without data is left out.
    Raises RunError where the page cannot be written.
    """
    models = results["models"]
    title, more = headline(results)
    figures = {"buckets": to_svg(plot_buckets(results), "buckets")}
    if results.get("training"):
        figures["training"] = to_svg(plot_training(results), "training")
    if any(area is not None for area in results.get("separation", {}).values()):
        figures["similarity"] = to_svg(plot_similarity_blindness(results), "similarity")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    environment.filters |= {"percent": percent, "duration": _duration}
    page = environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        results=results,
        models=models,
        title=title,
        more=more,
        figures=figures,
        buckets=buckets_of(results),
        metric_titles=METRIC_TITLES,
        colours=model_colours(list(models)),
        blindness=_blindness(results),
        few=few_items(results),
        undecided=any(rate.get("undecided") for model in models.values() for rate in model["buckets"].values()),
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
        f"Of {len(wrong)} wrong answers with a right term to compare with, {percent(alike)} reach a cosine of {_ALIKE} "
        "or more with the right answer: a wrong term in an otherwise right sentence scores high, another sentence low. "
        f"Even the best threshold, chosen with hindsight, would misjudge {percent(misjudged)} of all answers; "
        "this report counts the term itself."
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
