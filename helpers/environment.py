"""A preflight of the machine: what is missing is said before it costs time, with what to do about it."""

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers.config import PROJECT_ROOT, Config, Endpoint
from helpers.errors import HelpersError
from helpers.installed import embedded_gguf, minilm_folder
from helpers.server import resolve_endpoint

CONSTRAINTS = PROJECT_ROOT / "00-set_up" / "constraints.txt"
INSTALL = "Run bash 00-set_up/install.sh"
NO_BF16 = "no bf16 in hardware: fp32, slower"

NEEDED_GB = {"disk": 1.0, "memory": 6.0, "gpu": 6.0}
COSTS = {"smoke": (5, 1500), "cpu": (60, 6000), "gpu": (30, 6000)}
"""Profile to (minutes, MB of memory) of the whole course, rounded up; see conf/."""


class Check(NamedTuple):
    """One line of the preflight: what was looked at, whether the course can run with what was found, and what to do.

    `amount` is in GB, for `recommend_profile`.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    amount: float = 0.0


def check_environment(config: Config) -> list[Check]:
    """Look at everything the course needs, in the order a reader would repair it, without changing anything."""
    python, supported = platform.python_version(), metadata("helpers")["Requires-Python"]
    works = SpecifierSet(supported).contains(python, prereleases=True)
    return [
        Check("Python", works, python, f"Install Python {supported}, then: {INSTALL}"),
        check_packages(requires("helpers") or [], read_pins(CONSTRAINTS)),
        _cpu(),
        _gpu(),
        *_free(),
        _tried("Chat model", INSTALL, embedded_gguf, "SmolLM2-135M-Instruct"),
        _tried("Sentence model", INSTALL, minilm_folder, "all-MiniLM-L6-v2"),
        _tried("Endpoint", "Correct .env, or set endpoint.provider to embedded", partial(_endpoint, config.endpoint)),
        _token(os.environ.get("HF_TOKEN")),
    ]


def print_checks(checks: Sequence[Check]) -> None:
    """Print one line for each check, and below a failed one its remedy."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{'[OK]  ' if check.ok else '[FAIL]'} {check.name:<{width}}  {check.found}")
        if not check.ok:
            print(f"{'':<{width + 9}}{check.remedy}")


def recommend_profile(checks: Sequence[Check]) -> tuple[str, int, int, str]:
    """Print the largest profile that fits this machine; returns it, the course's minutes and MB of memory, and why."""
    found = {check.name: check for check in checks}
    if "GPU" in found and found["GPU"].amount >= NEEDED_GB["gpu"]:
        profile, why = "gpu", "an NVIDIA GPU with bf16 and enough memory is there"
    elif found["Memory"].amount >= NEEDED_GB["memory"]:
        profile, why = "cpu", "no suitable NVIDIA GPU, but enough memory for the small model"
    else:
        profile = "smoke"
        why = f"less than {NEEDED_GB['memory']:g} GB of memory are free; close other programs for more"
    minutes, megabytes = COSTS[profile]
    if profile == "cpu" and NO_BF16 in found["CPU"].found:
        minutes, why = 3 * minutes, f"{why}; without bf16 in hardware it computes in fp32, about three times as long"
    print(f'conf = "{profile}" fits this machine: about {minutes} minutes and {megabytes} MB of memory ({why}).')
    return profile, minutes, megabytes, why


def read_pins(path: Path) -> dict[str, str]:
    """Read `name==version` lines; names are folded as package indexes do: `rouge_score` is `rouge-score`."""
    found = re.findall(r"^([\w.-]+)==([\w.+!-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): tested for name, tested in found}


def check_packages(required: Sequence[str], pins: dict[str, str]) -> Check:
    """Compare what is installed with what is required, such as `torch>=2.13`, but for extras, and with the pins."""
    wrong, untested = [], []
    wanted = [each for each in map(Requirement, required) if not each.marker or each.marker.evaluate({"extra": ""})]
    for requirement in wanted:
        try:
            found = Version(version(requirement.name))
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
        elif found.public != pins.get(canonicalize_name(requirement.name), found.public):
            untested.append(f"{requirement.name} {found} (tested: {pins[canonicalize_name(requirement.name)]})")
    if wrong:
        return Check("Packages", False, "; ".join(wrong), INSTALL)
    note = f"; other versions than tested: {', '.join(untested)}" if untested else ", the tested versions"
    return Check("Packages", True, f"{len(wanted)} found{note}")


def _cpu() -> Check:
    cores = f"{psutil.cpu_count(logical=False) or os.cpu_count()} cores, {platform.machine()}"
    if not (find_spec("torch") and find_spec("accelerate")):  # `check_packages` says so
        return Check("CPU", True, cores)
    from helpers.models.precision import best_device, cpu_multiplies_bf16

    native = best_device() == "mps" or cpu_multiplies_bf16()
    return Check("CPU", True, f"{cores}, {'bf16 in hardware' if native else NO_BF16}")


def _gpu() -> Check:
    if find_spec("torch") is None:
        return Check("GPU", False, "torch is not installed", INSTALL)
    import torch

    if torch.cuda.is_available():
        name, size = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        kind = "with bf16" if native else "without bf16: fp32 is used, and the cpu profile recommended"
        return Check("GPU", True, f"{name}, {size:.0f} GB, {kind}", amount=size if native else 0.0)
    found = "Apple mps" if torch.backends.mps.is_available() else "none; the profiles smoke and cpu need none"
    return Check("GPU", True, found)


def _free() -> Iterator[Check]:
    """What is free on the disk and in memory."""
    disk, free = shutil.disk_usage(PROJECT_ROOT).free / 2**30, psutil.virtual_memory().available / 2**30
    remedy = f"Free {NEEDED_GB['disk']:g} GB; old runs lie in runs/"
    yield Check("Disk", disk >= NEEDED_GB["disk"], f"{disk:.1f} GB free", remedy, disk)
    limit = Path("/sys/fs/cgroup/memory.max")
    bound = limit.read_text().strip() if limit.is_file() else "max"
    if bound.isdigit():  # a container may hold less than its machine
        free = min(free, int(bound) / 2**30)
    yield Check("Memory", free >= 1.5, f"{free:.1f} GB free", "Close other programs: even smoke needs 1.5 GB", free)


def _tried(name: str, remedy: str, look: Callable[[], object], found: str = "") -> Check:
    try:
        told = look()
    except HelpersError as error:
        return Check(name, False, str(error), remedy)
    return Check(name, True, found or str(told))


def _endpoint(settings: Endpoint) -> str:
    server = resolve_endpoint(settings.provider, settings.base_url, settings.model, os.environ)
    if server.base_url is None:  # of a library that `check_packages` looks for
        return "embedded"
    from helpers.endpoint.chat import ChatEndpoint

    quick = settings.model_copy(update={"timeout_s": 10.0, "max_attempts": 1, "loading_s": 0.0})
    return f"{ChatEndpoint(server, quick).check()} at {server.place}"


def _token(token: str | None) -> Check:
    if not token:
        return Check("HF token", True, "not set; only gated models of huggingface.co need one")
    told = "set" if (ok := token.startswith("hf_")) else "set, but it does not start with hf_"
    return Check("HF token", ok, told, "Copy HF_TOKEN into .env again")
