"""An exercise's answer is right in whatever form it comes, and nothing that is no answer passes."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.exercises import agrees, check, near

NAN = math.nan


@pytest.mark.parametrize(
    "answer",
    [12, 12.0, np.int64(12), np.float32(12), np.array(12), torch.tensor(12.0), Fraction(12), pd.Series([12])[0]],
)
def test_a_number_in_any_form(capsys: pytest.CaptureFixture[str], answer: Any) -> None:
    near(answer, 12)
    agrees(lambda _: answer, [(1, 12)])
    assert capsys.readouterr().out.count("Right") == 2


@pytest.mark.parametrize(
    "answer", [True, "12", [12], NAN, np.float32("nan"), torch.tensor([12, 12]), math.inf, 1j, type]
)
def test_what_is_no_number(capsys: pytest.CaptureFixture[str], answer: Any) -> None:
    near(answer, 12)
    assert capsys.readouterr().out.startswith("Not yet: ")


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, pd.Series])
def test_a_list_in_any_form(capsys: pytest.CaptureFixture[str], kind: Any) -> None:
    agrees(lambda numbers: kind([2 * n for n in numbers]), [([1, 2], [2, 4])])
    assert capsys.readouterr().out.startswith("Right")
    agrees(lambda numbers: kind(numbers), [([1, 2], [2, 4])])
    assert capsys.readouterr().out.startswith("Not yet: for [1, 2] it gives")


@pytest.mark.parametrize("answer", [NAN, {20: NAN}, {20: (1, NAN)}, np.array([NAN]), {20: torch.tensor(NAN)}])
def test_a_check_that_compares_is_not_passed_by_a_nan(capsys: pytest.CaptureFixture[str], answer: Any) -> None:
    check(answer, lambda _: "")
    assert capsys.readouterr().out == "Not yet: there is a NaN in it.\n"
