"""Run the course from a shell: every notebook in order, or one stage at a time.

`python -m helpers.course run` executes all notebooks with papermill, `run-private` only those on private records;
`create`, `prepare`, `fine-tune`, `answer`, `score` and `report`, and for private records `join`, `begin-ledgers`,
`fine-tune-private` and `audit-privacy`, call the same stages without notebooks. All take the same options.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from helpers import stages
from helpers.config import PROJECT_ROOT
from helpers.data.holders.pipeline import load_pipeline
from helpers.errors import ConfigError, HelpersError, RunError
from helpers.files import read_json
from helpers.run import Run, open_run

AUDIT = "03-test/04-audit_privacy.ipynb"
PRIVATE_NOTEBOOKS = (
    "01-create_dataset/03-join_private_records.ipynb",
    "02-fine_tune/03-train_privately.ipynb",
    "02-fine_tune/04-break_privacy.ipynb",
    AUDIT,
)
GLOSSARY_NOTEBOOKS = (
    "00-set_up/check_environment.ipynb",
    "01-create_dataset/01-write_conversations.ipynb",
    "01-create_dataset/02-prepare_dataset.ipynb",
    "02-fine_tune/01-look_inside.ipynb",
    "02-fine_tune/02-train_adapters.ipynb",
    "03-test/01-answer.ipynb",
    "03-test/02-score.ipynb",
    "03-test/03-compare_models.ipynb",
)
NOTEBOOKS = (*GLOSSARY_NOTEBOOKS, *PRIVATE_NOTEBOOKS)


def _private(name: str) -> Callable[[Run], Any]:
    """A stage of the private half, whose libraries take seconds to load."""
    return lambda run: pkgutil.resolve_name(f"helpers.private_stages:{name}")(run)


def _begin_ledgers(run: Run) -> None:
    for ledger in pkgutil.resolve_name("helpers.private_training:ledgers_of")(run, begin=True):
        print(f"{ledger.holder}: {ledger.path}")


STAGES: dict[str, Callable[[Run], Any]] = {
    "create": stages.create,
    "prepare": stages.prepare,
    "fine-tune": stages.fine_tune,
    "answer": stages.answer,
    "score": stages.score,
    "report": stages.report,
    "join": _private("join"),
    "begin-ledgers": _begin_ledgers,
    "fine-tune-private": _private("fine_tune_private"),
    "audit-privacy": _private("audit_privacy"),
}


def run_notebooks(run: Run, *, conf: str, overrides: dict[str, Any], notebooks: Sequence[str] = NOTEBOOKS) -> None:
    """Execute notebooks in order into the run's notebooks/ folder; those that finished before are left out.

    Args:
        run: the open run folder.
        conf: the profile the notebooks open it with.
        overrides: the overrides they open it with.
        notebooks: paths below the project root.

    Raises:
        HelpersError: a notebook stopped; the message is the one its cell raised.
    """
    for number, name in enumerate(notebooks, start=1):
        source = PROJECT_ROOT / name
        target = run.path / "notebooks" / name.replace("/", "-")
        title = f"[{number}/{len(notebooks)}] {name}"
        if run.finished(f"notebook {name}", [source]):
            print(f"{title}: done before", flush=True)
            continue
        print(f"{title} ...", flush=True)
        started = time.monotonic()
        with run.stage(f"notebook {name}", [source], [target], private=name in PRIVATE_NOTEBOOKS):
            _execute(source, target, {"conf": conf, "run": str(run.path), "overrides": overrides})
        print(f"{title}: {_duration(time.monotonic() - started)}", flush=True)


def _execute(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source), str(target), parameters, cwd=str(source.parent), kernel_name="python3",
            progress_bar=False, stderr_file=sys.stderr, extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )  # fmt: skip
    except PapermillExecutionError as error:
        known = {kind.__name__ for kind in _children(HelpersError)}
        message = str(error.evalue)
        if error.ename not in known:
            message = f"{error.ename}: {message} (a fault of the course or of the machine)."
        raise HelpersError(f"{message}\nStopped in {source.name}; its outputs so far are in {target}.") from None


def _children(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(_children(child) for child in kind.__subclasses__()))


def _duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, do what it says, and print one clear sentence where that fails.

    Returns:
        The exit code: 0, or 2 after an error of the reader's own, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m helpers.course", description=__doc__)
    parser.add_argument(
        "command", choices=["run", "run-private", *STAGES], help="run... = notebooks, others = one stage"
    )
    parser.add_argument("--conf", default="cpu", help="profile (smoke, cpu, gpu) or path of a YAML file")
    parser.add_argument("--glossary", help="path of a JSON glossary")
    parser.add_argument("--run", help="run folder; by default runs/<profile>-<fingerprint>")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. lora.rank=8")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        overrides = _overrides(options.set, options.glossary)
        run = open_run(options.conf, Path(options.run).resolve() if options.run else None, overrides)
        if options.command == "run":
            stages.glossary_entries(run)  # a glossary with mistakes stops here, not minutes later
        notebooks = _notebooks(options.command, run, own_glossary=bool(options.glossary))
        if notebooks:
            run_notebooks(run, conf=options.conf, overrides=overrides, notebooks=notebooks)
        else:
            STAGES[options.command](run)
        if options.command in ("run", "report"):
            _show(run)
        if {*PRIVATE_NOTEBOOKS} & {*notebooks} or options.command == "audit-privacy":
            _show_privacy(run)
        print(f"{_duration(time.monotonic() - started)}. Run folder: {_shown(run.path)}")
    except HelpersError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"\nThe machine refused: {error}. What was finished is kept; run the same command again.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _notebooks(command: str, run: Run, *, own_glossary: bool) -> list[str]:
    """What a command executes; nothing where it is a single stage."""
    chosen: tuple[str, ...] = {"run": NOTEBOOKS, "run-private": PRIVATE_NOTEBOOKS}.get(command, ())
    if command == "run" and own_glossary:
        chosen = GLOSSARY_NOTEBOOKS
    if AUDIT in chosen and not load_pipeline(run.config.private.pipeline).fictitious:
        print(f"{AUDIT} is left out: it attacks secrets planted in fictitious records, and these are real.")
        return [name for name in chosen if name != AUDIT]
    return list(chosen)


def _overrides(pairs: Sequence[str], glossary: str | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set expects KEY=VALUE, received '{pair}'.")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: the value is not valid YAML. Put quotes around it.") from None
    if glossary:
        overrides["glossary"] = str(Path(glossary).resolve())
    return overrides


def _show(run: Run) -> None:
    from helpers.report.page import print_table

    path = run.path / "results.json"
    if not path.exists():
        raise RunError(f"{path} is missing. Run `score` first.")
    print()
    print_table(read_json(path))
    print(f"\nReport: {_shown(run.path / 'report.html')}")


def _show_privacy(run: Run) -> None:
    import pandas as pd

    if not load_pipeline(run.config.private.pipeline).fictitious:
        for page in sorted(run.path.glob("models/*/privacy_report.html")):
            print(f"\nPrivacy report: {_shown(page)}")
        return
    found = read_json(run.path / "results.json")["privacy"]
    print(f"\nOn private records, with the {found['unit']} as unit:")
    columns = ["epsilon", "heldout_loss", "task_accuracy", "secret_revealed", "canary_auc", "canary_auc_high"]
    print(f"{pd.DataFrame(found['models']).T[columns].astype(float).round(3).to_string(na_rep='–')}\n")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
