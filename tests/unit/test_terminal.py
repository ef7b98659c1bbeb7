"""Figures as a person reads them: what is not known is a dash, never a nan."""

import math

import pytest

from harness.report.terminal import UNKNOWN, figure, number


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_known_is_a_dash(value):
    assert figure(value) == figure(value, "+,.0f", 1e3) == number(value) == number(value, "+") == UNKNOWN


def test_a_figure_is_scaled_before_it_is_rounded():
    assert figure(0.0123456, scale=1e3) == "12.35"
    assert figure(1234.5678, ",.0f") == "1,235"
    assert figure(0) == "0.00"


def test_a_number_has_decimals_while_it_is_small():
    assert number(999.99) == "999.99"
    assert number(1234.56) == "1,235"
    assert number(-1234.56) == "-1,235"
    assert number(3, "+") == "+3.00"
