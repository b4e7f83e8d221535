"""Derive every link to the repository from one setting, `00-set_up/repository_url`.

After a fork or a move, edit that file and run `python 00-set_up/update_links.py`. It rewrites the launch
links of README.md (between the two `launch links` comments), the Colab links of the notebooks, the address
that the launchers clone, the label of the Dockerfile and all of these in the French of the course. With `--check`
it changes nothing and ends with exit code 1 if a link is out of date.
"""

import re
import sys
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = re.compile(
    r"(?<=REPOSITORY_URL=https://github\.com/)[\w-]+/[\w.-]+"
    r"|(?<=image\.source=https://github\.com/)[\w-]+/[\w.-]+"
    r'|(?<=repository = "https://github\.com/)[\w-]+/[\w.-]+'
    r'|(?<=repository = \\"https://github\.com/)[\w-]+/[\w.-]+'  # as JSON escapes it in a notebook
    r"|(?<=colab\.research\.google\.com/github/)[\w-]+/[\w.-]+(?=/blob/)"
)
LAUNCH_FORM = re.compile(r"https://datalab\.sspcloud\.fr/launcher/ide/[^)\s\"]+")
LAUNCH_LINKS = re.compile(r"(?<=<!-- launch links -->\n).*?(?=<!-- /launch links -->)", re.DOTALL)


def onyxia_link(repository: str) -> str:
    """Return the link that fills in the form of an Onyxia service; strings stand between « and ».

    Parameter names: values.schema.json of the chart jupyter-pytorch-gpu in the repository
    InseeFrLab/helm-charts-interactive-services.
    The version is left out so that the link outlives it, and autoLaunch=false lets the reader look first.
    """
    script = f"https://raw.githubusercontent.com/{repository}/main/00-set_up/init_onyxia.sh"
    strings = {
        "git.repository": f"https://github.com/{repository}",
        "init.personalInit": script,
        "vault.secret": "fine_tuning",
        "persistence.size": "30Gi",
    }
    parameters = "".join(f"&{key}={quote(f'«{value}»', safe='')}" for key, value in strings.items())
    return f"https://datalab.sspcloud.fr/launcher/ide/jupyter-pytorch-gpu?name=fine-tuning{parameters}&autoLaunch=false"


def launch_links(repository: str, notebooks: list[str]) -> str:
    """Return the Markdown between the markers of README.md, ending with one Colab line for each notebook."""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main"
    lines = [
        f"- **Onyxia (SSP Cloud), with a GPU:** [open the launch form]({onyxia_link(repository)})",
        "- **Your machine:** "
        f"`git clone https://github.com/{repository}`, then `source 00-set_up/init_locally.sh` inside it",
        "- **Google Colab, one notebook at a time:**",
        *(f"  - [{name}]({colab}/{quote(name)})" for name in notebooks),
    ]
    return "\n".join(lines) + "\n"


def update(root: Path, *, check: bool) -> list[str]:
    """Bring all links in line with the setting.

    Args:
        root: Project folder.
        check: Report only, change nothing.

    Returns:
        The files whose links were out of date, relative to `root`, in alphabetical order.

    Raises:
        SystemExit: If the setting is not the address of a GitHub repository, which Colab needs.
    """
    url = (root / "00-set_up/repository_url").read_text("utf-8").strip()
    match = re.fullmatch(r"https://github\.com/([\w-]+/[\w.-]+?)(?:\.git)?/?", url)
    if match is None:
        sys.exit(f"00-set_up/repository_url holds {url!r}; expected https://github.com/OWNER/NAME. Edit that line.")
    repository = match[1]
    notebooks = sorted(root.glob("0*/*.ipynb"))
    names = [path.relative_to(root).as_posix() for path in notebooks]
    scripts = [root / "Dockerfile", *sorted((root / "00-set_up").glob("*.*"))]
    french = [path for path in sorted((root / "docs/fr").rglob("*.*")) if path.suffix in {".po", ".md", ".ipynb"}]
    outdated = []
    for path in [
        root / "README.md",
        *notebooks,
        *french,
        *(p for p in scripts if p.suffix in {"", ".sh", ".txt", ".md"}),
    ]:
        before = path.read_text("utf-8")
        after = REPOSITORY.sub(repository, before)
        if path in french and (old := REPOSITORY.search(before)):  # the launch links too, which are passages there
            after = LAUNCH_FORM.sub(lambda _: onyxia_link(repository), before.replace(old[0], repository))
        if path.name == "README.md" and path.parent == root:
            after = LAUNCH_LINKS.sub(lambda _: launch_links(repository, names), after)
        if after != before:
            outdated.append(path.relative_to(root).as_posix())
            if not check:
                path.write_text(after, "utf-8")
    return sorted(outdated)


if __name__ == "__main__":
    only_check = "--check" in sys.argv[1:]
    changed = update(ROOT, check=only_check)
    print(
        "\n".join(f"{'out of date' if only_check else 'updated'}: {name}" for name in changed)
        or "Links are up to date."
    )
    sys.exit(bool(changed) if only_check else 0)
