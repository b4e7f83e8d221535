"""Fold away what does not change a text, and look for a term in it.

Folding is the same for all languages. What a pack says of single words (plurals, spellings, function words) is tried on
the term that is looked for, so that the text can still be read afterwards.
"""

import re
import unicodedata
from functools import cache, lru_cache

from helpers.data.languages.pack import load_reading
from helpers.data.reading.packs import any_of, unaccented

_STRAIGHT = str.maketrans(
    "‘’‚‛ʼ´“”„‟«»‐‑‒–—−•|=→。、[]{}\u00a0\u202f",
    "''''''\"\"\"\"\"\"-------;::.,      ",
    "\u00ad\u200b\u200c\u200d\u2060\ufeff",
)
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Letters of scripts without spaces between words (Thai to Khmer, Japanese, Chinese), and Hangul with its particles:
each counts as a word, so that a term is found inside a sentence."""
_KEPT = ".,;:!?()\"'/\n-"
_CARRIES_MEANING = "+#%€$£"  # C++ is not C, and 5 % is not 5.
_GAP = rf"[\s{re.escape(_KEPT)}]"
_W = rf"[^\s{re.escape(_KEPT)}]"
_LONG = 7
"""Letters from which on a word may be written in two: "health care"; but "as a" is not ASA."""
_MARKUP = (
    (r"</?[a-z]{1,10}>|[*_]{3,}\s*$|`|~~", ""),
    (r"^[#>\s]*[#>]\s+", ""),  # headings and quotations
    (r"(?<!\S)\*(?=\s)|(?<=\d)\*(?=\d)", "-"),
    (r"\*+|(?<![^\W_])_+|_+(?![^\W_])|-{3,}", ""),
    (r"(?<![\w$])\$([^\s$]|[^\s$][^$\n]*[^\s$])\$(?![\w$])", r"\1"),  # $25$
    (r"\((\w)\)(?=\w)", r"\1"),  # (D)rug
    (r"(?<!\w)(\w)\((\w+)\)", r"\1\2"),  # D(rug)
)
_NUMBERS = (
    (r"(?<![\d.,])([1-9]\d{0,2})((?:[ ,.']\d{3})+)(?!\d)", lambda found: found[1] + re.sub(r"\D", "", found[2])),
    (r"(?<=\d),(?=\d)", "."),
    (r"(?<=\d)\s?%", "%"),
    (r"([€$£]) ?(\d[\d.]*\d|\d)", r"\2 \1"),
    (r"(?<=\d)(?=[€$£])", " "),
    (r"(?<=\d)\.00(?= [€$£])", ""),
    (r"(?<=\d) ?h(?: ?00)?(?!\w| ?\d\d)", " h"),  # 9h00 and 9 heures are 9 h
    (r"(?<=\d) ?h ?(?=\d\d(?!\w))", "h"),  # and no part of 9 h 30
    (r"(?<=\d) ?([AaPp])\.?[Mm](?:\.(?=[ ,])|(?!\w))", r" \1m"),
)
_INITIALS = (
    r"(?<!\w)(?:[^\W\d_]\.){2,}(?:[^\W\d_](?!\w)|(?=\s[a-z])|)"  # V.L.R.D., and its last point inside a sentence
    r"|(?<![\w'-])(?:[A-Z](?:[.,] | |-)){2,}[A-Z](?![\w'-])(?:\.(?=[ ,]))?"  # V L R D
)


@lru_cache(4096)
def fold(text: str) -> str:
    """A text as it is compared and read: case and the marks of sentences stay.

    Unicode forms, accents, markup, dotted and spaced initials, elided articles and ways to write a number become one.
    """
    reading = load_reading()
    text = unicodedata.normalize("NFKC", re.sub(r"(?<=\w)`(?=\w)", "'", text).translate(_STRAIGHT))
    text = unaccented(text.translate(_STRAIGHT))
    for pattern, plain in _MARKUP:
        text = re.sub(pattern, plain, text, flags=re.IGNORECASE | re.MULTILINE)
    small = rf"(?:(?:{'|'.join(reading.function_words)}) |(?:{'|'.join(reading.elided)})')*"
    spelt = rf"(?im)(?:^[\s\d.)-]*)?(?<!\w)([a-z])(?: ?: ?| - | (?:{'|'.join(reading.spells)}) )(?={small}\1)"
    text = re.sub(spelt, "", text)  # D: Drug
    kept = (
        c if unicodedata.category(c)[0] in "LNM" or c in _KEPT + _CARRIES_MEANING else " "
        for c in text.replace("&", " and ").replace("≠", " not ")
    )
    text = re.sub(r"[^\S\n]+", " ", "".join(kept))
    for name, sign in reading.signs:
        text = re.sub(any_of([name]), sign, text, flags=re.IGNORECASE)
    text = re.sub(_number_words(), _digits, text)
    for pattern, joined in _NUMBERS:
        text = re.sub(pattern, joined, text)
    text = re.sub(_INITIALS, lambda found: re.sub(r"[ .,-]", "", found[0]), text)
    text = re.sub(rf"(?<![\w'])(?:{'|'.join(reading.elided)})' ?(?=\w)", "", text, flags=re.IGNORECASE)
    return UNSPACED.sub(r" \g<0> ", text).strip()


def words(text: str) -> list[str]:
    """Split a text into comparable words; scripts without spaces give one word a character."""
    return re.findall(rf"\d+\.\d+|{_W}+", fold(text).casefold())


def is_acronym(term: str) -> bool:
    """Whether a term looks like an acronym: one word with two capitals or more, or, as G20, with few small letters."""
    capitals, digits = (sum(map(kind, term)) for kind in (str.isupper, str.isdigit))
    return " " not in term.strip() and (
        capitals > 1 or (capitals == 1 and digits > 0 and not re.search("[a-z]{3}", term))
    )


@cache
def pattern_of(term: str, *, cased: bool = False) -> re.Pattern[str]:
    """A pattern for a term in a folded text; `cased`: in the same capitals. A term without a word is never found."""
    reading = load_reading()
    function_words, text = reading.function_words, fold(term)
    told = [found for found in re.finditer(rf"{_W}+", text) if text[found.start() - 1 : found.end()] != "'s"]
    # At the end of a term they are more than that: plan A, hepatitis A, 1 an.
    idle = [
        found[0].lower() in function_words and "-" not in text[max(found.start() - 1, 0) : found.end() + 1]
        for found in told
    ]
    kept = [found[0] for place, found in enumerate(told) if not idle[place] or all(idle[place:])]
    if not kept:
        return re.compile("(?!)")
    between = rf"(?:'s(?!{_W}))?(?:{_GAP}{{1,6}}(?:{'|'.join(function_words)})(?={_GAP}))*{_GAP}{{0,6}}"
    if is_acronym(term):
        body = between.join(
            ("[- .]?" if word[0].islower() else "[-.]?").join(
                [re.escape(word[0]), "[-.]?".join(map(re.escape, word[1:]))]
            )
            for word in kept
        )
        edges = (rf"(?<!{_W})(?<!{_W}-)", rf"s?(?!{_W})(?!-[A-Z\d])")  # C-ZUF is not ZUF
    else:
        body = between.join(_any_form(word if cased else word.lower()) for word in kept)
        one = (
            r"(?<![02-9] )(?<!\d\d )" if reading.numbers.get(told[0][0].lower()) == 1 else ""
        )  # two months are not "un mois"
        edges = (rf"(?<!{_W})(?<!\d\.){one}", rf"(?!{_W})(?!\.\d)")
    return re.compile((body if cased else f"(?i:{body})").join(edges))


def _any_form(word: str) -> str:
    """Singular, plural and both spellings of a word, each in one piece or with a hyphen."""
    reading, spelt = load_reading(), {word}
    if word.isdigit():
        named = [name for name, value in reading.numbers.items() if value == 1] if word == "1" else []
        return f"(?:{'|'.join([f'{word}(?:[:.]00?)?', *named])})"  # 9:00 and 25.00 too
    for one, other in reading.spellings:
        spelt |= {form.replace(a, b) for form in spelt for a, b in ((one, other), (other, one))}
    ends = [pair for singular, plural in reading.endings for pair in ((singular, plural), (plural, singular))]
    forms = spelt | {form.removesuffix(old) + new for form in spelt for old, new in ends if form.endswith(old)}
    joint = "[-' ]?" if len(word) >= _LONG else "[-']?"
    return f"(?:{'|'.join(joint.join(map(re.escape, form)) for form in sorted(forms))})"


@cache
def _number_words() -> re.Pattern[str]:
    numbers = load_reading().numbers
    each, large = ("|".join(word for word in numbers if numbers[word] >= least) for least in (0, 1000))
    links = "|".join(load_reading().links)
    more = rf"(?:[ -](?:(?:{links})[ -])?(?:{each}))*"
    # At most 99 digits: `int` refuses thousands of them.
    return re.compile(rf"(?<![\w-])(?:\d{{1,99}}[ -](?:{large})|(?:{each})){more}(?!\w)", re.IGNORECASE)


def _digits(found: re.Match[str]) -> str:
    """Words of one or several numbers in digits."""
    reading = load_reading()
    parts = [int(word) if word.isdigit() else reading.numbers.get(word) for word in re.split("[ -]", found[0].lower())]
    if found[0].lower() in reading.not_alone:
        return found[0]
    told, total, current = [], 0, 0
    for value in (value for value in parts if value is not None):
        below = next((size for size in (100, 20, 10) if current and current % size == 0), 1)
        if value >= 1000:
            total, current = total + (current or 1) * value, 0
        elif (value == 100 and current < 100) or (value, current) == (20, 4):
            current = (current or 1) * value
        elif value < below or not current:
            current += value
        else:
            told.append(total + current)
            total, current = 0, value
    return " ".join(map(str, [*told, total + current]))
