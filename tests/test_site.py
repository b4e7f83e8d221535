"""The site in docs/site: what a visitor sees first, from a file and without a network."""

import getpass
import os
import re
import socket
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from helpers.files import write_json

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "site"
PAGES = sorted(SITE.rglob("*.html"))
LARGEST_MB = 6


@cache
def links_of(page: Path) -> "Links":
    return Links(page.read_text("utf-8"))


class Links(HTMLParser):
    """What a page loads by itself, what it links to, and the names that a link can end with."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names |= {name for name in (found.get("id"), found.get("name")) if name}
        if source := found.get("src"):
            self.loaded.append(source)
        if (target := found.get("href")) is not None:
            (self.loaded if tag == "link" and found.get("rel") != "canonical" else self.linked).append(target)


def broken(page: Path, target: str) -> bool:
    """Whether a link inside the site leads nowhere."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return False
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not path.is_file() or not path.is_relative_to(SITE):
        return True
    return bool(parts.fragment) and unquote(parts.fragment) not in links_of(path).names


def test_the_site_has_every_notebook_with_outputs() -> None:
    for path in ROOT.glob("0*/*.ipynb"):
        assert (SITE / path.relative_to(ROOT)).with_suffix(".html").exists(), "run: make site"
    executed = [page for page in PAGES if 'class="cell_output' in page.read_text("utf-8")]
    assert len(executed) >= 12, "run: make site"
    assert not [*SITE.rglob("*.ipynb")]


def test_the_site_is_small() -> None:
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    assert size < LARGEST_MB * 1e6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(SITE).as_posix())
def test_a_page_needs_no_network_and_its_links_lead_somewhere(page: Path) -> None:
    links = links_of(page)
    assert not [target for target in links.loaded if urlsplit(target).scheme not in ("", "data")]
    assert not [target for target in links.loaded + links.linked if broken(page, target)]


def test_nothing_on_the_site_names_a_machine_or_a_secret() -> None:
    # Folders of a machine; /home/me is the README's example. Tokens as their issuers write them.
    machine = r"/(tmp|root|work|Users|mnt)/|/home/(?!me/)|[A-Z]:\\\\Users"
    secret = r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|eyJ[\w-]{10,}\.eyJ"
    names = {name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4}
    found = re.compile("|".join([machine, secret, *(rf"\b{re.escape(name)}\b" for name in names)]))
    for path in SITE.rglob("*"):
        if path.suffix in {".html", ".js", ".txt", ".css", ".svg"} and (hit := found.search(path.read_text("utf-8"))):
            raise AssertionError(
                f"{path.relative_to(SITE)} has {hit[0]!r} in {hit.string[hit.start() - 60 : hit.end() + 60]!r}"
            )


def test_styles_load_nothing_from_a_network() -> None:
    for path in SITE.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", path.read_text("utf-8")), path.name


def test_outputs_of_changed_cells_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mmdr", reason="make site installs it")
    import nbformat

    monkeypatch.syspath_prepend(ROOT / "docs" / "site_source")
    import build

    name, run = build.NOTEBOOKS[0], tmp_path / "runs" / "cpu-1"
    executed = nbformat.read(ROOT / name, as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = [nbformat.v4.new_output("stream", text=f"{tmp_path}/runs/cpu-1/a.txt\n")]
    code[-1].source += " "
    (run / "notebooks").mkdir(parents=True)
    nbformat.write(executed, run / "notebooks" / build.executed_name(name))
    shown = [cell.outputs for cell in build.with_outputs(name, [run]).cells if cell.cell_type == "code"]
    assert [outputs[0].text for outputs in shown[:-1]] == ["runs/cpu-1/a.txt\n"] * (len(code) - 1)
    assert shown[-1] == []


def test_a_run_that_is_none_and_a_folder_that_is_no_site_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mmdr", reason="make site installs it")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site_source")
    import build

    run, mine = tmp_path / "run", tmp_path / "mine" / "thesis.md"
    for file in (run / "notebooks" / "one.ipynb", mine):
        file.parent.mkdir(parents=True)
        file.write_text("of mine")
    monkeypatch.setattr("sys.argv", ["build.py", "--run", str(run), "--private", str(run), "--to", str(mine.parent)])
    for told in ("is no run with executed notebooks", "would be emptied"):
        with pytest.raises(SystemExit, match="2"):
            build.main()
        assert told in capsys.readouterr().err and mine.read_text() == "of mine"
        (run / "manifest.json").write_text("{}")
    assert build.refused([run], tmp_path / "new") == build.refused([run], SITE) == ""


@pytest.mark.parametrize("run", ["/runs/one", "/one", "/data/runs/one"])
def test_outputs_name_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    pytest.importorskip("mmdr", reason="make site installs it")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site_source")
    import build

    text = f"{ROOT}/helpers/run.py {run}/report.html {Path.home()}/notes https://example.org/"
    assert str(ROOT) not in build.without_places(text, Path(run))
    assert build.without_places(text, Path(run)).endswith(" ~/notes https://example.org/")


def test_smoke_runs_and_half_runs_are_not_the_newest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mmdr", reason="make site installs it")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site_source")
    import build

    monkeypatch.setattr(build, "ROOT", tmp_path)
    for age, (name, profile) in enumerate(
        [("my-try", "smoke"), ("smoke-test", "cpu"), ("cpu-1a", "cpu"), ("cpu-2b", "")]
    ):
        notebook = tmp_path / "runs" / name / "notebooks" / "00-set_up-a.ipynb"
        notebook.parent.mkdir(parents=True)
        notebook.touch()
        os.utime(notebook, (1e9 - age, 1e9 - age))
        if profile:
            write_json(tmp_path / "runs" / name / "manifest.json", {"profile": profile})
    assert build.newest("00-set_up/a.ipynb") == tmp_path / "runs" / "smoke-test"
    assert build.newest("00-set_up/b.ipynb") is None
