"""Checks of the notebooks' exercises: each prints whether an answer is right, or what is off, and never fails.

An exercise that nobody tried yet is `None`, or a function that raises NotImplementedError.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

UNTRIED = "Not tried yet. Change the cell above, run it, then run this one."


def near(answer: float | None, truth: float, *, within: float = 0.1, unit: str = "", hint: str = "") -> None:
    """Check a number that may be off by a share of the truth, 0.1 for a tenth."""
    told = f"{truth:,.4g} {unit}".strip()

    def fault(given: Any) -> str:
        given = _plain(given)
        if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
            return f"a number is wanted, not {given!r:.60}"
        given = float(given)
        if abs(given - truth) <= within * abs(truth):
            return ""
        return f"{given:,.4g} is too {'large' if given > truth else 'small'}"

    check(answer, fault, right=f"it is {told}", hint=hint)


def agrees(function: Callable[..., Any], cases: Sequence[tuple[Any, ...]], *, hint: str = "") -> None:
    """Check a function on cases, each the arguments and then what is expected; numbers may differ by a millionth.

    Lists, tuples, arrays and tensors of the same numbers are the same answer.
    """

    def fault(given: Any) -> str:
        if not callable(given):
            return "a function is wanted"
        for *arguments, expected in cases:
            asked = f"for {', '.join(f'{argument!r:.60}' for argument in arguments)}"
            try:
                found = given(*arguments)
            except NotImplementedError:
                raise
            except Exception as error:  # whatever a learner's code raises
                return f"{asked} it raised {type(error).__name__}: {error}"
            if not _same(found, expected):
                return (
                    f"{asked} it gives {found!r:.80}, and {expected!r:.80} is expected{_first(_plain(found), expected)}"
                )
        return ""

    check(function, fault, right=f"all {len(cases)} cases agree", hint=hint)


def check(answer: Any, fault: Callable[[Any], str], *, right: str = "", hint: str = "") -> None:
    """Print whether an answer is right. `fault` returns what is off, or an empty text; it never sees a NaN.

    A Series counts as the dict that it holds.
    """
    if hasattr(answer, "to_dict") and not isinstance(answer, type):
        answer = answer.to_dict()
    try:
        wrong = UNTRIED if answer is None else "there is a NaN in it" if _has_nan(answer) else fault(answer)
    except NotImplementedError:
        wrong = UNTRIED
    except Exception as error:  # the answer has another shape than the check expects
        told = "it raised" if callable(answer) else f"the check cannot read this {type(answer).__name__}:"
        wrong = f"{told} {type(error).__name__}: {error}"
    if wrong == UNTRIED:
        print(UNTRIED)
    elif wrong:
        print(f"Not yet: {wrong.rstrip('.')}.{f' {hint}' if hint else ''}")
    else:
        print(f"Right{f': {right}' if right else ''}.")


def _same(found: Any, expected: Any) -> bool:
    found = _plain(found)
    if isinstance(expected, list | tuple):
        return isinstance(found, list | tuple) and len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, float | int) and not isinstance(expected, bool):
        return isinstance(found, Real) and math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    return bool(found == expected)


def _first(found: Any, expected: Any) -> str:
    """Where two long texts or lists differ first, if their beginnings, which are printed, do not show it."""
    if (
        type(found) is not type(expected)
        or not isinstance(found, list | str)
        or repr(found)[:80] != repr(expected)[:80]
    ):
        return ""
    at = next((at for at, (one, other) in enumerate(zip(found, expected, strict=False)) if not _same(one, other)), None)
    if at is None:
        return f"; they have {len(found)} and {len(expected)} parts"
    return f"; the first difference, at {at}, is {found[at]!r:.20} in place of {expected[at]!r:.20}"


def _plain(given: Any) -> Any:
    """A number or a list in place of one of numpy, pandas or torch."""
    return given.tolist() if hasattr(given, "tolist") and not isinstance(given, type) else given


def _has_nan(answer: Any) -> bool:
    """Whether a number in an answer is none: every comparison with it is false, so that a check may let it pass."""
    answer = _plain(answer)
    if isinstance(answer, dict | list | tuple):
        return any(map(_has_nan, answer.values() if isinstance(answer, dict) else answer))
    return isinstance(answer, Real) and math.isnan(answer)
