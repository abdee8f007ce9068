"""Amounts are read as they are written, whatever stands for the decimal point."""

import pytest

from raffm_utils.errors import InfeasibleBudget
from raffm_utils.widgets.metrics import ALL_METRICS, PARAMETERS

FULL = 21.53e6


@pytest.mark.parametrize(
    ("text", "millions"),
    [
        ("12.5", 12.5),
        ("12,5", 12.5),
        ("12,50", 12.5),
        (",5", 0.5),
        (" 12.5 M ", 12.5),
        ("12.5m", 12.5),
        ("12,345", 12.345),  # 12 thousand millions are more than there are
        ("0", 0),
        ("50%", 10.765),
        ("12,5 %", 2.69125),
        ("30", 30),
    ],
)
def test_what_is_typed_is_read(text, millions):
    assert PARAMETERS.read(text, FULL) == pytest.approx(1e6 * millions)


@pytest.mark.parametrize(
    ("text", "millions"), [("1,234", 1234), ("1,234.5", 1234.5), ("1.234,5", 1234.5), ("2,000,000", 2e6)]
)
def test_thousands_may_be_separated(text, millions):
    assert PARAMETERS.read(text, 1e13) == pytest.approx(1e6 * millions)


@pytest.mark.parametrize("text", ["much", "1.2.3", "1,2,3", "12 GB", "-3", "1e9", "nan", "%", "."])
def test_what_cannot_be_read_is_said(text):
    with pytest.raises(InfeasibleBudget, match="Parameters: "):
        PARAMETERS.read(text, FULL)


@pytest.mark.parametrize("metric", ALL_METRICS, ids=lambda metric: metric.key)
@pytest.mark.parametrize("value", [0.0123, 0.999, 1.004, 12.3456, 1234.5678, 98765.4321])
def test_what_is_written_is_read_again_and_roundings_go_their_way(metric, value):
    value *= metric.scale
    assert metric.read(metric.text(value), 1e12 * metric.scale) == pytest.approx(value, rel=5e-3)
    assert value * (1 - 1e-9) <= metric.read(metric.at_least(value), 1e12 * metric.scale) <= 1.01 * value
    assert 0.99 * value <= metric.read(metric.at_most(value), 1e12 * metric.scale) <= value * (1 + 1e-9)
