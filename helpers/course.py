"""Run the course from a shell: every notebook in order, or one stage at a time; `--help` lists the commands.

`run` and `run-private` execute notebooks with papermill; the other commands call the same stages without notebooks.
"""

import os
import re
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from helpers import stages
from helpers.config import PROJECT_ROOT
from helpers.config_layers import read_yaml
from helpers.data.glossary.entries import is_glossary
from helpers.errors import ConfigError, EndpointError, HelpersError
from helpers.files import at_home, read_json
from helpers.notebooks import GLOSSARY_NOTEBOOKS, PRIVATE_NOTEBOOKS, TABLE_NOTEBOOKS, execute, executed_name
from helpers.run import Run, open_private_run, open_run, reopen_run

STAGES = {
    "preview": "01: see conversations about three entries, and what all of them would take.",
    "create": "01: have conversations about each glossary entry written.",
    "prepare": "01: make training, validation and test sets from conversations, a table or holders' records.",
    "export": "01: write the dataset in shapes that other tools read.",
    "fine-tune": "02: train the adapters; with differential privacy on holders' records.",
    "answer": "03: answer the test with the base model and every adapter.",
    "score": "03: score the answers.",
    "report": "03: write report.html.",
    "audit-privacy": "03: attack the models trained on fictitious records.",
}
"""Commands of one stage each, called as its function is."""
DEFAULT_PROFILE = "cpu"
"""The profile that is taken where a command names none."""


def _duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


UsageError: Any = typer.BadParameter.__base__  # of which typer exports only the children


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line. Returns the exit code: 0, 2 after an error, which is printed, or 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _refuse_repeated(sys.argv[1:] if arguments is None else arguments)
        if app(arguments, prog_name="python -m helpers.course", standalone_mode=False) == 130:
            raise KeyboardInterrupt  # which typer turns into a value
    except UsageError as error:
        error.show()
        return 2
    except (HelpersError, OSError) as error:
        told = str(error)
        if isinstance(error, OSError):
            told = f"The machine refused: {error}."
        if isinstance(error, OSError | EndpointError):
            told = f"{told} What was finished is kept; run the same command again to go on."
        print(f"\n{told}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _refuse_repeated(arguments: Sequence[str]) -> None:
    """Raise ConfigError where an option is given twice: typer would use the last value without a word."""
    given = Counter(word.partition("=")[0] for word in arguments if word.startswith("--"))
    if twice := next((name for name, times in given.items() if times > 1 and name != "--set"), None):
        raise ConfigError(f"{twice} is given {given[twice]} times, and only one can count. Give it once.")


def _from_here(conf: str | None) -> str | None:
    """A file's path from where the command was given: notebooks run elsewhere."""
    return str(Path(conf).resolve()) if conf and Path(conf).is_file() else conf


def _folder(run: str | None) -> str | None:
    return str(at_home(run).resolve()) if run else None


Conf = Annotated[
    str | None,
    typer.Option(
        help="Profile (smoke, cpu, gpu) or a YAML file; by default cpu, or with --run alone that run's configuration.",
        callback=_from_here,
    ),
]
Glossary = Annotated[str | None, typer.Option(help="Path of a glossary: JSON, csv, tsv, jsonl, parquet or xlsx.")]
Table = Annotated[
    str | None,
    typer.Option(
        help="Table of examples: csv, tsv, json, jsonl, parquet, xlsx or an address; or the pipeline.yaml of holders."
    ),
]
Folder = Annotated[
    str | None, typer.Option(help="Run folder; by default runs/<profile>-<fingerprint>.", callback=_folder)
]
Set = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Override, such as lora.rank=8; may repeat.")]


@app.command("run")
def _run(conf: Conf = None, glossary: Glossary = None, data: Table = None, run: Folder = None, set: Set = None) -> None:
    """Execute the notebooks: all, or only those for your own data."""
    conf = conf or DEFAULT_PROFILE
    overrides = _overrides(set, glossary, data)
    opened = open_run(conf, run, overrides, holders=True)
    _execute_all(opened, conf, overrides)
    if opened.config.data.source is None and "glossary" not in overrides:  # the course's own records besides
        _execute_all(open_private_run(conf, f"{opened.path}-private" if run else None, overrides), conf, overrides)


@app.command("run-private")
def _run_private(conf: Conf = None, data: Table = None, run: Folder = None, set: Set = None) -> None:
    """Execute the notebooks on private records: those of example_data/, or of your configuration's data.source."""
    conf, overrides = conf or DEFAULT_PROFILE, _overrides(set, data=data)
    _execute_all(open_private_run(conf, run, overrides), conf, overrides)


@app.command("ask")
def _ask(
    run: Annotated[str, typer.Argument(help="Run folder.", callback=_folder)],
    question: Annotated[str, typer.Argument(help="What to ask; quoted.")],
    model: Annotated[
        str | None, typer.Option(help="A trained model, or base; by default all that are trained.")
    ] = None,
) -> None:
    """Ask the models of a run folder a question."""
    for name, answer in stages.ask(reopen_run(Path(run)), question, model).items():
        print(f"{name}: {answer or '(no answer)'}")


@app.command("begin-ledgers")
def _begin_ledgers(conf: Conf = None, data: Table = None, run: Folder = None, set: Set = None) -> None:
    """02: create the missing ledgers of holders of real records."""
    opened = open_run(conf or DEFAULT_PROFILE, run, _overrides(set, data=data), holders=True)
    from helpers.stages.private_training import ledgers_of

    for ledger in ledgers_of(opened, begin=True):
        print(f"{ledger.holder}: {ledger.path}, trainings so far: {ledger.head()['trainings']}")


@app.command("make-pack")
def _make_pack(
    language: Annotated[str, typer.Argument(help="Code or name of a language, such as el, ja or Greek.")],
    to: Annotated[Path, typer.Option(help="File, or its folder; by default LANGUAGE.yaml here.")] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    conf: Conf = None,
    run: Folder = None,
    set: Set = None,
) -> None:
    """01: have a capable model make the pack of another language, for a person to read before use."""
    started, opened = time.monotonic(), open_run(conf or DEFAULT_PROFILE, run, _overrides(set), holders=True)
    stages.make_pack(opened, language, to, overwrite=overwrite)
    print(f"{_duration(time.monotonic() - started)}. Run folder: {_shown(opened.path)}")


def _stage(name: str) -> None:
    def command(
        conf: Conf = None, glossary: Glossary = None, data: Table = None, run: Folder = None, set: Set = None
    ) -> None:
        started = time.monotonic()
        if run and not (conf or glossary or data or set) and Path(run, "config.yaml").exists():
            opened = reopen_run(Path(run), unchanged=True)
        else:
            opened = open_run(conf or DEFAULT_PROFILE, run, _overrides(set, glossary, data), holders=True)
        if name == "audit-privacy":
            from helpers.stages.audit import audit_privacy as stage  # takes seconds to load
        else:
            stage = getattr(stages, name.replace("-", "_"))
        stage(opened)
        if name in ("report", "audit-privacy"):
            _show(opened)
        if name == "prepare" and opened.config.pipeline:
            from helpers.stages.join import joined_rows

            print("\n".join(joined_rows(opened)))
            print(f"Exact counts: {_shown(opened.home / 'dataset' / 'card.json')}")
        print(f"{_duration(time.monotonic() - started)}. Run folder: {_shown(opened.path)}")

    app.command(name, help=STAGES[name])(command)


for _name in STAGES:
    _stage(_name)


def _execute_all(run: Run, conf: str, overrides: dict[str, Any]) -> None:
    """Execute the notebooks that are about a run's data and did not finish before, and print what came out."""
    started, asked = time.monotonic(), run.asked()
    notebooks: Sequence[str] = GLOSSARY_NOTEBOOKS
    judged = run.config.score.judge_items > 0 and run.record("score") is None
    if run.config.pipeline:
        notebooks = PRIVATE_NOTEBOOKS
        if not stages.pipeline_of(run).fictitious:
            judged, notebooks, left_out = False, notebooks[:2], " and ".join(notebooks[2:])
            print(f"{left_out} are left out: they work only on made-up patients and planted secrets.")
    elif run.config.data.source is not None:
        notebooks = TABLE_NOTEBOOKS
        stages.prepare(run)  # a table with mistakes stops here, not minutes later
    else:
        stages.glossary_entries(run)  # and so does a glossary
    if judged and run.server().base_url:
        with stages.chat_endpoint(run):  # and so does a judge that does not answer
            pass
    code = (".",)  # everything decides what a notebook shows
    for number, name in enumerate(notebooks, start=1):
        source, target = PROJECT_ROOT / name, run.path / "notebooks" / executed_name(name)
        stage, title = f"notebook {name}", f"[{number}/{len(notebooks)}] {name}"
        if run.finished(stage, [source], code, asked):
            print(f"{title}: done before", flush=True)
            continue
        print(f"{title} ...", flush=True)
        begun = time.monotonic()
        with run.stage(stage, [source], [target], code=code, asked=asked):
            execute(source, target, {"conf": conf, "run": str(run.path), "overrides": overrides}, notebooks)
        print(f"{title}: {_duration(time.monotonic() - begun)}", flush=True)
    _show(run)
    print(f"{_duration(time.monotonic() - started)}. Run folder: {_shown(run.path)}")


def _overrides(pairs: Sequence[str] | None, glossary: str | None = None, data: str | None = None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set expects KEY=VALUE, received '{pair}'.")
        try:  # a # belongs to the value here, and begins no remark of YAML
            overrides[key] = value if re.match(r"[^'\"\[{]*(?<!\S)#", value) else read_yaml(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: the value is not valid YAML. Put quotes around it.") from None
    if glossary and (other := data or overrides.get("data.source")):
        raise ConfigError(f"A run has one source: give the glossary {glossary} or the table {other}, not both.")
    place = data if data is None or "://" in data else str(at_home(data).resolve())
    if place and is_glossary(place):
        print(f"{data} is a glossary: it has acronyms with definitions.")
        glossary, place = place, None
    if glossary:
        overrides |= {"glossary": str(at_home(glossary).resolve()), "data.source": None}
    elif source := place:
        overrides["data.source"] = {"holders": source} if source.endswith((".yaml", ".yml")) else source
    return overrides


def _show(run: Run) -> None:
    from helpers.report.page import print_table

    path = run.home / "results.json"
    found = read_json(path) if path.exists() else {}
    print()
    if "models" in found:
        if run.config.pipeline is None or stages.pipeline_of(run).fictitious:  # no noise protects test patients
            print_table(found)
        print(f"\nReport: {_shown(run.home / 'report.html')}")
        print(f'Ask the models: python -m helpers.course ask {shlex.quote(_shown(run.path))} "Your question"')
    if "privacy" in found:
        import pandas as pd

        print(f"\nResults of the attacks (privacy unit: {found['privacy']['unit']}):")
        columns = ["epsilon", "heldout_loss", "secret_revealed", "canary_auc", "canary_auc_high"]
        print(f"{pd.DataFrame(found['privacy']['models']).T[columns].astype(float).round(3).to_string(na_rep='–')}\n")
    for page in sorted(run.path.glob("models/*/privacy_report.html")):
        print(f"Privacy report: {_shown(page)}")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
