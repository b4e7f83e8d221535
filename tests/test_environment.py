"""The preflight: what it reports on this machine, and what it says where something is wrong."""

from importlib.metadata import version
from pathlib import Path

import pytest

from helpers import load_config
from helpers.environment import (
    CONSTRAINTS,
    NO_BF16,
    Check,
    check_environment,
    check_packages,
    print_checks,
    read_pins,
    recommend_profile,
)

EMBEDDED = {"endpoint.provider": "embedded"}


def test_this_machine_can_run_the_course() -> None:
    checks = check_environment(load_config("smoke", EMBEDDED))
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    for name in ("Python", "Packages", "Chat model", "Sentence model", "Endpoint"):
        assert found[name].ok, found[name]
    assert found["Memory"].amount and found["Disk"].amount


def test_endpoint_that_is_down_is_reported_with_a_remedy() -> None:
    overrides = {"endpoint.provider": "openai", "endpoint.base_url": "http://127.0.0.1:9/v1"}
    checks = check_environment(load_config("smoke", overrides))
    endpoint = next(check for check in checks if check.name == "Endpoint")
    assert not endpoint.ok and "127.0.0.1:9" in endpoint.found and "endpoint.provider" in endpoint.remedy


def test_packages_missing_too_old_and_untested_are_told_apart() -> None:
    numpy = version("numpy")
    pins = {"numpy": "0.1"}
    untested = check_packages(["numpy>=1"], pins)
    assert untested.ok and f"numpy {numpy} (tested: 0.1)" in untested.found
    wrong = check_packages(["numpy>=999", "no-such-package>=1", 'left-out>=1; extra == "dev"'], pins)
    assert not wrong.ok and "install.sh" in wrong.remedy
    assert wrong.found == f"numpy {numpy} is not >=999; no-such-package is missing"


def test_pins_are_read_without_markers_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text('# note==1\nrouge_score==0.1.2\ntorch==2.13.0 ; python_version == "3.12"\n')
    assert read_pins(path) == {"rouge-score": "0.1.2", "torch": "2.13.0"}
    assert "torch" in read_pins(CONSTRAINTS)


def test_remedy_is_printed_only_where_needed(capsys: pytest.CaptureFixture[str]) -> None:
    print_checks([Check("Disk", True, "9 GB free", "unused"), Check("Python", False, "3.9", "Install another")])
    first, second, remedy = capsys.readouterr().out.splitlines()
    assert first.startswith("[OK]") and second.startswith("[FAIL]") and remedy.strip() == "Install another"


@pytest.mark.parametrize(
    ("gpu", "memory", "cpu", "profile"),
    [
        (24.0, 16.0, "8 cores", "gpu"),
        (0.0, 16.0, "8 cores, bf16 in hardware", "cpu"),
        (4.0, 16.0, "8 cores", "cpu"),
        (0.0, 2.0, "2 cores", "smoke"),
    ],
)
def test_profile_fits_the_machine(gpu: float, memory: float, cpu: str, profile: str) -> None:
    checks = [Check("CPU", True, cpu), Check("GPU", True, "", "", gpu), Check("Memory", True, "", "", memory)]
    assert recommend_profile(checks)[0] == profile


def test_slow_cpu_is_told_more_minutes() -> None:
    memory = Check("Memory", True, "", "", 8.0)
    fast = recommend_profile([Check("CPU", True, "2 cores, bf16 in hardware"), memory])
    slow = recommend_profile([Check("CPU", True, f"2 cores, {NO_BF16}"), memory])
    assert slow[1] > fast[1]
