"""The sliders of the budget explorer: their scale, their steps, and what a browser may answer."""

import math

import numpy as np
import pytest
from helpers.explorer import FlatLatency, image_supernet
from ipywidgets import FloatLogSlider, FloatSlider

from raffm_utils import Budget, Supernet
from raffm_utils.widgets import LOG_FROM, STEPS, ExplorerState, LimitSlider


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    supernet = image_supernet()
    supernet.latency = FlatLatency()
    return supernet


KEYS = ("parameters", "macs", "latency_ms", "weight_bytes", "peak_activation_bytes")


def sliders(state: ExplorerState) -> dict[str, LimitSlider]:
    return {metric.key: LimitSlider(state, metric) for metric in state.metrics}


def steps_of(slider: LimitSlider) -> list[float]:
    widget = slider.widget
    count = round((widget.max - widget.min) / widget.step)
    positions = [widget.min + i * widget.step for i in range(count + 1)]
    return [10**p for p in positions] if slider.logarithmic else positions


def test_they_reach_from_below_the_smallest_to_the_full_network(supernet):
    state = ExplorerState(supernet)
    for slider in sliders(state).values():
        first, *_, last = steps_of(slider)
        assert first * slider.metric.scale < slider.metric.of(state.smallest_cost)
        assert last * slider.metric.scale >= slider.metric.of(state.full_cost) * (1 - 1e-9)
        assert slider.widget.continuous_update
        assert 100 <= len(steps_of(slider)) <= 1000


def test_costs_that_span_a_large_factor_have_steps_of_equal_ratio(supernet):
    state = ExplorerState(supernet)
    kinds = set()
    for slider in sliders(state).values():
        span = slider.metric.of(state.full_cost) / slider.metric.of(state.smallest_cost)
        assert slider.logarithmic == (span > LOG_FROM)
        assert isinstance(slider.widget, FloatLogSlider if slider.logarithmic else FloatSlider)
        kinds.add(slider.logarithmic)
        values = steps_of(slider)
        if slider.logarithmic:
            assert len(values) == STEPS + 1
            ratios = np.diff(np.log(values))
            assert ratios == pytest.approx(ratios[0], rel=1e-6)
    assert kinds == {True, False}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.77, 0.999, 1.0, 1.3])
def test_they_stand_on_a_step_at_or_below_the_limit(supernet, share):
    full = ExplorerState(supernet).full_cost
    limits = {f"max_{key}": share * getattr(full, key) for key in KEYS}
    state = ExplorerState(supernet, budget=Budget(**limits))
    for slider in sliders(state).values():
        values, value = steps_of(slider), slider.widget.value
        nearest = min(values, key=lambda step: abs(step - value))
        assert value == pytest.approx(nearest, rel=1e-8)
        if share >= 1:
            assert value == pytest.approx(values[-1])
        elif value > values[0] * 1.0001:
            assert value * slider.metric.scale <= state.limit(slider.metric.key) * (1 + 1e-6)


def test_the_end_is_no_limit_and_every_other_step_is_one(supernet):
    state = ExplorerState(supernet)
    for slider in sliders(state).values():
        full = slider.metric.of(state.full_cost)
        values = steps_of(slider)
        slider.widget.value = values[-1]
        assert slider.limit() == full
        slider.widget.value = values[-3]
        assert slider.limit() == pytest.approx(values[-3] * slider.metric.scale)
        assert slider.limit() < full


def test_an_answer_with_the_same_step_is_no_move(supernet):
    state = ExplorerState(supernet)
    state.set_limit("parameters", 0.6 * state.full_cost.parameters)
    state.set_limit("macs", 0.6 * state.full_cost.macs)
    for slider in sliders(state).values():
        assert not slider.moved()
        slider.widget.value = math.nextafter(slider.widget.value, 0)
        assert not slider.moved()
        values = steps_of(slider)
        place = min(range(len(values)), key=lambda i: abs(values[i] - slider.widget.value))
        slider.widget.value = values[place - 1]
        assert slider.moved()
        slider.show()
        assert not slider.moved()
