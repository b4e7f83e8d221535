"""Link each term of `terms.md` where a notebook first uses it: `python docs/link_terms.py [--check]`.

A term is a heading of the third level; words in bold below it lead to the same place, and each may have a plural s.
Links to terms that a notebook has already are taken out first, so the command can be run again after any change.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^\]]*)\]\([^)\s]*terms\.md#[^)\s]*\)")
# Lists of sources, headings, code, pictures, links and HTML stay as they are.
UNTOUCHED = re.compile(
    r"^## (?:Go deeper|Pour aller plus loin).*?(?=^## |\Z)|^#.*?$"
    r"|```.*?```|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\)|https?://\S+|<[^>\n]+>",
    re.DOTALL | re.MULTILINE,
)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def terms(page: str) -> dict[str, re.Pattern[str]]:
    """Anchor to pattern, heading by heading; long forms first, since "loss" is a part of "loss mask"."""
    entries = re.findall(r"^### (.+)$([^#]*)", page, re.MULTILINE)
    forms = {slug(heading): [heading, *re.findall(r"\*\*(.+?)\*\*", text)] for heading, text in entries}
    order = sorted(forms, key=lambda anchor: -max(map(len, forms[anchor])))
    return {anchor: re.compile("|".join(map(_form, forms[anchor]))) for anchor in order}


def link(texts: list[str], patterns: dict[str, re.Pattern[str]], page: str) -> list[str]:
    """The texts of a notebook, in order, with one link to `page` for each term that occurs in them."""
    texts = [LINK.sub(r"\1", text) for text in texts]
    for anchor, pattern in patterns.items():
        for place, text in enumerate(texts):
            hidden = UNTOUCHED.sub(lambda match: "\0" * len(match[0]), text)
            if found := pattern.search(hidden):
                start, end = found.span()
                texts[place] = f"{text[:start]}[{text[start:end]}]({page}#{anchor}){text[end:]}"
                break
    return texts


def update(notebooks: list[Path], terms_page: Path, page: str, *, check: bool) -> list[Path]:
    """Link the terms of `terms_page` in notebooks, which see it as `page`; returns those that were out of date."""
    patterns, outdated = terms(terms_page.read_text("utf-8")), []
    for path in notebooks:
        before = path.read_text("utf-8")
        notebook = json.loads(before)
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        for cell, text in zip(cells, link(["".join(cell["source"]) for cell in cells], patterns, page), strict=True):
            cell["source"] = text.splitlines(keepends=True)
        if (after := json.dumps(notebook, ensure_ascii=False, indent=1) + "\n") != before:
            outdated.append(path)
            if not check:
                path.write_text(after, "utf-8")
    return outdated


def _form(form: str) -> str:
    letter = form[0]
    word = letter.isalpha() and (form[1:].islower() or form[1:2].islower())  # and no abbreviation
    either = f"[{letter.lower()}{letter.upper()}]" if word else re.escape(letter)
    return rf"(?<![\w-]){either}{re.escape(form[1:])}s?(?![\w-])"


if __name__ == "__main__":
    only_check = "--check" in sys.argv[1:]
    changed = update(sorted(ROOT.glob("0*/*.ipynb")), ROOT / "docs/terms.md", "../docs/terms.md", check=only_check)
    print("\n".join(str(path.relative_to(ROOT)) for path in changed) or "Every term is linked where it is first used.")
    sys.exit(bool(changed) if only_check else 0)
