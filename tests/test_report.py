import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from fixture_types import SmokeRun
from matplotlib.figure import Figure

from helpers.errors import RunError
from helpers.evaluation.intervals import rate_with_interval
from helpers.report.figures import plot_buckets, plot_similarity_blindness, plot_training, to_svg
from helpers.report.page import answers_on_the_way, comparison_table, headline, print_table, write_report
from helpers.stages import report

ODD = 'Basic {{Budget}} <script>alert("x")</script>\nΈνωση'


def model(**correct: int) -> dict[str, Any]:
    metrics = {"rouge_l": 0.5, "judge": {"n": 9, "unscored": 1, "rate": 0.5, "kappa_with_rules": None}}
    buckets = {bucket: rate_with_interval(count, 20) for bucket, count in correct.items()}
    return {"buckets": buckets, "metrics": metrics, "seconds": 61.0, "peak_memory_mb": 900.0}


@pytest.fixture
def results() -> dict[str, Any]:
    wrong = {"answer": ODD, "correct": False, "sentence": 0.9, "judge": None}
    item = {"id": "n1", "bucket": "new_phrasing", "question": ODD, "expected": [ODD], "reference": ODD}
    return {
        "models": {
            "base": model(new_phrasing=0, reverse=1, unknown=2, general=14),
            "in_context": model(new_phrasing=16),
            "lora": model(new_phrasing=19, reverse=18, unknown=15, general=13),
        },
        "separation": {"rouge_l": 0.7, "static": None, "sentence": 0.75},
        "similarity": {"correct": [0.7, 0.9, 1.0], "wrong": [0.2, 0.8, 0.85, -0.1]},
        "disagreements": [item | {"answers": {"base": wrong, "lora": {**wrong, "correct": True}}}],
        "training": {
            "lora": {
                "log": [{"step": 1, "loss": 3.0, "eval_loss": None}, {"step": 2, "loss": 1.0, "eval_loss": 1.2}],
                "seconds": 200.0,
                "peak_memory_mb": 2000.0,
                "trained_parameters": 4_884_480,
            }
        },
        "run": {
            "id": "r1",
            "command": "make run CONF=cpu RUN=r1",
            "base_model": "tiny",
            "seed": 0,
            "date": "today",
            "versions": {"a": "1"},
        },
        "dataset": {"entries": 3, "buckets": {"new_phrasing": {"title": "New phrasings", "meaning": "Reworded."}}},
    }


def page(results: dict[str, Any], tmp_path: Path) -> str:
    write_report(results, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_comparison_table(results: dict[str, Any]) -> None:
    table = comparison_table(results)
    assert list(table.columns) == ["new_phrasing", "reverse", "unknown", "general"]
    assert table.loc["lora", "new_phrasing"] == "0.95 [0.76, 0.99]"
    assert table.loc["in_context", "reverse"] == "–"


def test_the_headline_of_a_private_run_is_about_the_private_model(results: dict[str, Any]) -> None:
    results["models"]["private"] = model(new_phrasing=12)
    results["training"]["private"] = {"log": [], "privacy": {"epsilon": 7.98, "delta": 1e-5}}
    assert headline(results)[0].startswith("Fine-tuned with ε = 7.98, the model answers 60%")


def test_headline_is_computed(results: dict[str, Any]) -> None:
    title, more = headline(results)
    assert title == "Fine-tuned, the model answers 95% of new phrasings right; before, 0%."
    assert "General knowledge: 65% (before: 70%)." in more
    del results["models"]["base"]
    assert headline(results)[0] == "Fine-tuned, the model answers 95% of new phrasings right."
    assert headline({"models": {}})[0] == "No fine-tuned model was tested yet: run fine-tune, answer and score."


def test_print_table(results: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_table(results)
    printed = capsys.readouterr().out
    assert "95% of new phrasings" in printed
    assert "0.70 [0.48, 0.85]" in printed


@pytest.mark.parametrize("draw", [plot_buckets, plot_training, plot_similarity_blindness])
def test_figures_draw_and_leave_the_style_alone(draw: Any, results: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    figure = draw(results)
    assert isinstance(figure, Figure)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    svg = ET.fromstring(to_svg(figure, "x"))
    assert "".join(svg.itertext()).strip()
    assert isinstance(draw({"models": {}}), Figure)


def test_page_is_whole_and_stands_alone(results: dict[str, Any], tmp_path: Path) -> None:
    html = page(results, tmp_path)
    HTMLParser().feed(html)
    assert html.count("<svg") == 3
    outside = set(re.findall(r'(?:src|href)="([^"]+)"|url\(([^)]+)\)', html))
    assert all((a or b).startswith("#") for a, b in outside)
    identities = re.findall(r'\bid="([^"]+)"', html)
    assert len(identities) == len(set(identities))
    for text in ("95% of new phrasings", "19 of 20", "not asked", "make run CONF=cpu RUN=r1", "4,884,480", "undefined"):
        assert text in html, text
    assert "Of 4 wrong answers with a right term to compare with, 50% reach a cosine of 0.8" in html
    assert "would misjudge 14% of all answers" in html  # One of seven (the right one at 0.7), at a threshold of 0.9.


def test_texts_are_escaped(results: dict[str, Any], tmp_path: Path) -> None:
    html = page(results, tmp_path)
    assert "<script>" not in html
    assert "Basic {{Budget}} &lt;script&gt;" in html
    assert "Ένωση" in html


@pytest.mark.parametrize("absent", ["separation", "similarity", "disagreements", "training", "run", "dataset"])
def test_a_missing_section_is_left_out(absent: str, results: dict[str, Any], tmp_path: Path) -> None:
    del results[absent]
    assert "Right answers" in page(results, tmp_path)


def test_a_missing_model_bucket_or_metric_does_not_break_it(results: dict[str, Any], tmp_path: Path) -> None:
    del results["models"]["base"]
    del results["models"]["lora"]["buckets"]["general"]
    results["models"]["lora"]["metrics"] = {}
    results["models"]["lora"]["buckets"]["reverse"] = rate_with_interval(0, 0)
    assert "95% of new phrasings right." in page(results, tmp_path)
    assert "No fine-tuned model" in page({"models": {}}, tmp_path)


def on_the_way(*answers: tuple[int, str, bool | None]) -> list[dict[str, Any]]:
    told = {"bucket": "new_phrasing", "question": ODD, "reference": "x"}
    return [
        {**told, "id": f"n{place % 2}", "step": step, "answer": answer, "correct": correct}
        for place, (step, answer, correct) in enumerate(answers)
    ]


def test_answers_on_the_way_stand_under_the_curve_and_on_the_page(results: dict[str, Any], tmp_path: Path) -> None:
    rows = on_the_way((0, "No\nidea", False), (0, "", None), (2, "It stands", False), (2, "A Board", True))
    before = plot_training(results)
    results["training"]["lora"]["hot_test"] = rows
    figure = plot_training(results)
    curve, marks = figure.axes
    assert len(before.axes) == 1 and curve.get_xlim() == marks.get_xlim()
    assert [line.get_marker() for line in marks.lines] == ["x", "o", "x", "o"]
    assert [label.get_text() for label in marks.get_yticklabels()] == ["lora: new phrasings"] * 2
    table = answers_on_the_way(rows)
    assert table.index.tolist() == [0, 2] and table.columns.tolist() == [ODD, ODD]  # one question, of two rows
    assert table.to_numpy().tolist() == [["✗ No idea", "(nothing)"], ["✗ It stands", "✓ A Board"]]
    html = page(results, tmp_path)
    assert "What lora answered on the way" in html
    assert (
        html.index("Before the first step")
        < html.index("No\nidea")
        < html.index("After step 2")
        < html.index("A Board")
    )
    assert "<script>" not in html


@pytest.mark.parametrize("content", [None, "", "[]", '{"models": ', '{"run": {}}'])
def test_no_results_are_refused(content: str | None, smoke_run: SmokeRun) -> None:
    run = smoke_run()
    if content is not None:
        (run.home / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results\.json holds no results. Run .*02-score"):
        report(run)


def test_general_knowledge_in_another_language_is_no_fact_of_the_glossary(results: dict[str, Any]) -> None:
    before, more = headline(results)
    for of in results["models"].values():
        of["buckets"]["general_fr"] = rate_with_interval(3, 20)
    results["dataset"]["buckets"]["general_fr"] = {"title": "General knowledge (fr)", "meaning": "The same."}
    title, told = headline(results)
    assert title == before
    assert [line for line in told if line not in more] == ["General knowledge (fr): 15% (before: 15%)."]
