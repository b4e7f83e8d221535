"""The run folder: everything one run of the course reads, makes and measures.

Stages hand each other files in this folder, never variables, so a reader can enter at any notebook and a
killed run goes on where it stopped.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from pydantic import ValidationError

from helpers.config import PROJECT_ROOT, WITHOUT_EFFECT, Config, load_config
from helpers.config_layers import explained, flat
from helpers.errors import ConfigError, RunError
from helpers.files import clear_disk_errors, clear_full_disk, read_json, sha256, write_atomic, write_json
from helpers.provenance import code_digest, measured, surroundings
from helpers.server import Server, read_env, resolve_endpoint
from helpers.style import use_style
from helpers.tables import use_tables
from helpers.threads import watch_cores

KEY = ("inputs", "code", "asked")
"""Parts of a stage's record that say what it was made from."""
EXAMPLES = PROJECT_ROOT / "example_data"
EXAMPLE_GLOSSARY = EXAMPLES / "acronyms.json"
HOLDERS = {"data.source": {"holders": str(EXAMPLES / "providers" / "pipeline.yaml")}, "score.judge_items": 0}
"""Default source of the notebooks on private records. No judge: their answers have a few words."""


@dataclass(repr=False, eq=False)
class Run:
    """A run folder, which may not exist yet, and its configuration; see `open_run`."""

    path: Path
    config: Config

    def __repr__(self) -> str:
        return f"Run({self.path.name!r}, profile {self.config.profile!r}, seed {self.config.seed})"

    def begin(self) -> None:
        """Make the folder, and private/ in it. Called before its first file: a refused command leaves none behind.

        Raises RunError where the folder belongs to another configuration by now.
        """
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.home.mkdir(mode=0o700, exist_ok=True)
        with FileLock(self.path / ".manifest.lock"):
            if (self.path / "manifest.json").exists():
                _check_configuration(self.path, self.config)  # another command may have begun in the meantime
                return
            resolved = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_atomic(self.path / "config.yaml", resolved)
            manifest = {
                "id": self.path.name,
                "profile": self.config.profile,
                "fingerprint": self.config.fingerprint(),
                "seed": self.config.seed,
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                **surroundings(),
                "from_example_data": [],
                "begun": {},
                "stages": {},
            }
            write_json(self.path / "manifest.json", manifest)

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the run: versions, seed, code revision and one record for each finished stage."""
        return self._manifest(self.path)

    @property
    def home(self) -> Path:
        """Folder of data, answers and scores: private/ for holders' records, for their owner only."""
        return self.path / "private" if self.config.pipeline else self.path

    def server(self) -> Server:
        """The chat server that the configuration and the environment name. Raises ConfigError where they contradict."""
        settings = self.config.endpoint
        return resolve_endpoint(settings.provider, settings.base_url, settings.model, os.environ)

    def asked(self) -> str:
        """The configured chat server's name; empty for the embedded one, and for settings that a stage will refuse."""
        with suppress(ConfigError):
            server = self.server()
            return server.name() if server.base_url else ""
        return ""

    def finished(self, stage: str, inputs: Sequence[Path] = (), code: Sequence[str] = (), asked: str = "") -> bool:
        """Whether the stage ended, with these same inputs, code and server, and its outputs are what it wrote."""
        record = self.record(stage)
        if record is None or {key: record.get(key) for key in KEY} != self._key(inputs, code, asked):
            return False
        outputs: dict[str, str] = record["outputs"]
        return self._hashes([self.path / name for name in outputs]) == outputs

    def record(self, stage: str) -> dict[str, Any] | None:
        """What is known of a stage that ended: its cost, and digests of what it was made from and what it wrote."""
        found: dict[str, Any] = self.manifest["stages"] | self._manifest(self.home)["stages"]
        return found.get(stage)

    @contextmanager
    def stage(
        self,
        name: str,
        inputs: Sequence[Path] = (),
        outputs: Sequence[Path] = (),
        *,
        code: Sequence[str] = (),
        asked: str = "",
    ) -> Iterator[bool]:
        """Measure a stage and write it into the manifest once its outputs are there.

        Yields whether outputs that are already there may be continued: not those made from other `inputs` (files and
        folders), by other `code` (modules and packages of `helpers`, such as `models`) or by another chat server
        (`asked`), nor those of example_data/. With holders' records, the stage's record stays in private/: digests and
        times can show who is in the data.
        """
        key = self._key(inputs, code, asked)
        self.begin()
        with self._changed(self.home) as manifest:
            ended = manifest["stages"].get(name)
            if before := manifest.setdefault("begun", {}).get(name) or ended:
                may_continue = all(before.get(of) == key[of] for of in KEY)
            else:
                copied = {*self.manifest["from_example_data"]}
                may_continue = not {self._name(path).partition("/")[0] for path in outputs} & copied
            manifest["begun"][name] = key
        if ended and not may_continue:
            changed = [of for of in key["inputs"] if ended["inputs"].get(of) != key["inputs"][of]]
            if changed or ended.get("code") != key["code"]:
                what = ", ".join(changed[:3]) or "the code of the course"
                print(f"{name}: made anew, because {what} changed.")
        try:
            with clear_full_disk(self.path), measured() as cost:
                yield may_continue
        except BaseException:
            self._leave(name)
            raise
        with self._changed(self.home) as manifest:
            manifest["stages"][name] = {**cost, **key, "outputs": self._hashes(outputs)}
            manifest["begun"].pop(name, None)  # two may end at once
        self.point_latest()

    def _leave(self, failed: str) -> None:
        """Forget the configuration of a folder in which only the stage `failed` began and nothing was made.

        So a corrected configuration can take the folder.
        """
        manifests = {folder / "manifest.json" for folder in (self.path, self.home)}
        begun_with = {self.path / "config.yaml", *manifests}
        with FileLock(self.path / ".manifest.lock"):
            found = [self._manifest(path.parent) for path in manifests]
            stages = {stage for manifest in found for of in ("begun", "stages") for stage in manifest[of]}
            files = {path for path in self.path.rglob("*") if path.is_file()} - begun_with
            if stages == {failed} and all(_hidden(path.relative_to(self.path)) for path in files):
                for path in begun_with:
                    path.unlink(missing_ok=True)

    def point_latest(self) -> None:
        """Point runs/latest at this run, if it lies in runs/."""
        if self.path.parent != PROJECT_ROOT / "runs":
            return
        temporary = self.path.parent / f".latest-{os.getpid()}"
        try:
            temporary.symlink_to(self.path.name)
            temporary.replace(self.path.parent / "latest")
        except OSError:  # a file system without symbolic links: the printed path has to do
            temporary.unlink(missing_ok=True)

    def _key(self, inputs: Sequence[Path], code: Sequence[str], asked: str) -> dict[str, Any]:
        of_code = {name: code_digest(name) for name in code} or None  # older records have neither
        return {"inputs": self._hashes(inputs), "code": of_code, "asked": asked or None}

    def _manifest(self, folder: Path) -> dict[str, Any]:
        path, found = folder / "manifest.json", None
        if not path.exists():
            return {"begun": {}, "stages": {}}
        with suppress(ValueError):
            found = read_json(path)
        records = found.get("stages") if isinstance(found, dict) else None
        if (
            found is None
            or not isinstance(records, dict)
            or not all(isinstance(of, dict) and {"inputs", "outputs"} <= of.keys() for of in records.values())
        ):
            raise RunError(f"{path} is damaged. Delete it and run the same command again, with the same settings.")
        return found

    @contextmanager
    def _changed(self, folder: Path) -> Iterator[dict[str, Any]]:
        """A manifest, written after the block. One at a time: two stages that end at once do not undo each other."""
        with FileLock(self.path / ".manifest.lock"):
            manifest = self._manifest(folder)
            yield manifest
            write_json(folder / "manifest.json", manifest)

    def ensure(self, folder: str, *, sample: str, made_by: str) -> Path:
        """Return `folder` of this run, such as `dataset`; where its stage was skipped, start from example_data/.

        The file `sample` in it tells whether its stage ended. Raises RunError where neither the run nor example_data/
        has it, or the reader's own data are to be read: `made_by` says which notebook makes it.
        """
        target, example = self.home / folder, EXAMPLES / folder
        if (target / sample).exists():
            return target
        own = self.config.data.source is not None or self.config.glossary != EXAMPLE_GLOSSARY
        if own or (target.exists() and any(target.iterdir())) or not (example / sample).exists():
            raise RunError(f"{target / sample} is missing. Run {made_by} on this run folder first.")
        self.begin()
        with self._changed(self.path) as manifest:  # first: after a kill, examples must not pass for the run's own
            manifest["from_example_data"] = sorted({*manifest["from_example_data"], folder})
        part = target.with_name(f".{folder}.part")  # renamed when whole: a kill leaves no half of a folder behind
        shutil.rmtree(part, ignore_errors=True)
        with clear_disk_errors(target):
            shutil.copytree(example, part)
            if target.exists():
                target.rmdir()
            part.rename(target)
        print(f"{folder}/ was not made in this run yet: starting from example_data/{folder}/.")
        return target

    def made_from(self, stage: str, inputs: Sequence[Path]) -> bool:
        """Whether a stage's outputs are of these inputs, as far as is known."""
        record = self.record(stage)
        return record is None or record["inputs"] == self._hashes(inputs)

    def _hashes(self, paths: Sequence[Path]) -> dict[str, str]:
        return {self._name(path): sha256(path) for path in paths if path.exists()}

    def _name(self, path: Path) -> str:
        for base in (self.path, PROJECT_ROOT):
            if path.is_relative_to(base):
                return path.relative_to(base).as_posix()
        return path.name


def open_run(
    conf: str | Path = "cpu",
    run: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    holders: bool = False,
) -> Run:
    """Open the run folder of a configuration; the first stage makes it.

    By default it is `runs/<profile>-<fingerprint>`, so that the same configuration, data and chat server go on in the
    same folder. A caller that takes care not to show holders' records says so with `holders`.

    Raises:
        ConfigError: the configuration has mistakes, or names holders' records and the caller is not made for them.
        RunError: the folder belongs to another configuration, or is a file.
    """
    watch_cores()
    use_tables()
    use_style()
    read_env(PROJECT_ROOT / ".env")  # tokens, keys and the chat server's address
    config = load_config(conf, overrides)
    if config.pipeline and not holders:
        raise ConfigError(
            "data.source names holders' records, which this notebook would display. Use these notebooks instead: "
            "01-create_dataset/03-join_private_records.ipynb and 02-fine_tune/03-train_privately.ipynb; "
            "03-test/04-audit_privacy.ipynb is for invented records. Commands work as always."
        )
    path = (PROJECT_ROOT / (_usual_folder(config) if run is None else run)).resolve()  # an absolute one stays
    if path.is_file():
        raise RunError(f"{path} is a file. Choose another RUN folder.")
    opened = Run(path, config)
    if (path / "config.yaml").exists():
        _stored_config(path)  # of another project, say: `begin` would write over it
        if (path / "manifest.json").exists():
            _check_configuration(path, config)
            opened.point_latest()
    return opened


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def _usual_folder(config: Config) -> Path:
    name = config.fingerprint()
    if asked := Run(Path(), config).asked():
        name = hashlib.sha256(f"{name} {asked}".encode()).hexdigest()[:8]
    return PROJECT_ROOT / "runs" / f"{config.profile}-{name}"


def open_private_run(
    conf: str | Path = "cpu", run: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Run:
    """`open_run` on holders' records: those of example_data/ where the configuration names none."""
    config = load_config(conf, overrides)
    if config.pipeline is None:
        if config.data.source is not None:
            raise ConfigError(
                "data.source names a table; expected holders' records: {holders: path of a pipeline.yaml}."
            )
        overrides = {**HOLDERS, **(overrides or {})}
    return open_run(conf, run, overrides, holders=True)


def reopen_run(folder: Path, *, unchanged: bool = False) -> Run:
    """Open an existing run folder with the configuration that it was made with.

    Raises RunError where it is none. With `unchanged`, also where its glossary, table or pipeline has changed.
    """
    watch_cores()
    path = folder / "config.yaml"
    if not path.exists():
        raise RunError(f"{folder} is no run folder: config.yaml is missing. Give the folder that a run wrote into.")
    read_env(PROJECT_ROOT / ".env")
    try:
        config = Config.model_validate(_stored_config(folder))
    except ValidationError as error:
        raise RunError(
            f"{explained(error, str(path))}\nAn older version of the course made it: choose another RUN folder."
        ) from None
    if unchanged and (folder / "manifest.json").exists():
        _check_configuration(folder, config)
    return Run(folder, config)


def _stored_config(folder: Path) -> dict[str, Any]:
    """What a run's config.yaml holds. Raises RunError where no run can have written it."""
    path, found = folder / "config.yaml", None
    with suppress(UnicodeDecodeError, yaml.YAMLError):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"profile", "base_model", "glossary"} <= found.keys():
        raise RunError(
            f"{path} is not, or no longer, what a run writes. Choose another RUN folder, or restore the file."
        )
    return found


def _check_configuration(path: Path, config: Config) -> None:
    """Raise RunError where a run folder belongs to another configuration than `config`, and say what differs."""
    stored = dict(flat(_stored_config(path)))
    current = dict(flat(config.model_dump(mode="json")))
    free = {"glossary", *(["data.source"] if config.table or config.pipeline else [])} | {
        f"{section}.{key}" for section, keys in WITHOUT_EFFECT.items() for key in keys
    }
    differing = [
        f"{key} was {stored.get(key)}, is {current.get(key)}"
        for key in sorted({*stored, *current} - free)
        if stored.get(key) != current.get(key)
    ]
    if not differing and Run(path, config).manifest.get("fingerprint") != config.fingerprint():
        names = ", ".join(path.name for path in config.files)
        differing = [f"not the same contents: {names}"]
    if not differing:
        return
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    raise RunError(
        f"{path} was made with another configuration ({'; '.join(differing[:5])}{more}). "
        "Choose another RUN folder, or go back to the configuration in its config.yaml."
    )
