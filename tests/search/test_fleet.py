"""Every class gets the best that fits it, whoever gets nothing is counted, and the pictures say so."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import matplotlib.pyplot
import numpy as np
import pytest
from conftest import make_supernet
from hypothesis import given, settings
from hypothesis import strategies as st

from raffm_utils.errors import ElasticSpaceError, FleetError
from raffm_utils.evaluation import SweepRow
from raffm_utils.plotting import class_colours, plot_fleet, plot_fleets
from raffm_utils.search import AccuracyPredictor, FleetPlan, plan_fleet, with_quota
from raffm_utils.space import DEVICE_CAPS, FLEETS, PRESETS, PUBLISHED_SETTINGS, DeviceClass, SubmodelConfig

matplotlib.use("Agg")

SUPERNET = make_supernet()
SPACE = SUPERNET.space
EVERY = [
    SubmodelConfig(hidden, attention, ffn)
    for hidden in SPACE.hidden
    for attention in product(*SPACE.attention)
    for ffn in product(*SPACE.ffn)
]
MEMORY = {config: (cost := SUPERNET.cost(config)).weight_bytes + cost.peak_activation_bytes for config in EVERY}
MACS = {config: SUPERNET.cost(config).macs for config in EVERY}


def make_row(config: SubmodelConfig, accuracy: float, **changes: Any) -> SweepRow:
    cost = SUPERNET.cost(config)
    values: dict[str, Any] = dict(
        checkpoint="tiny", fingerprint=SUPERNET.fingerprint(), config=config, parameters=cost.parameters,
        macs=cost.macs, weight_bytes=cost.weight_bytes, tokens=None, dataset="made_up", split="validation",
        data_fingerprint="0123", examples=1000, accuracy=accuracy, low=accuracy - 0.02, high=accuracy + 0.01,
        f1=accuracy, loss=0.5, seed=0, device="cpu", seconds=1.0, libraries="none",
    )  # fmt: skip
    return SweepRow(**(values | changes))


def fit_predictor() -> AccuracyPredictor:
    """On accuracies that grow with the widths, some layers being worth more than others."""
    rng = np.random.default_rng(0)
    rows = []
    for index in rng.permutation(len(EVERY))[:120]:
        c = EVERY[index]
        gain = 0.001 * c.hidden + np.dot((0.0008, 0.0002, 0.0004), c.attention) + np.dot((0.0001, 0.0006, 0), c.ffn)
        rows.append(make_row(c, float(0.7 + gain + rng.normal(0, 0.002))))
    return AccuracyPredictor.fit(rows, SPACE)


PREDICTOR = fit_predictor()
BEST_FIRST = sorted(EVERY, key=lambda config: -PREDICTOR.predict(config).accuracy)


def device(name: str = "a", share: float = 1.0, memory: float = 1e9, macs: float = 1e9) -> DeviceClass:
    """With a latency target of one second, so that MACs and MACs per second are the same number."""
    return DeviceClass(name, share, memory, macs, 1000.0)


def plan(*classes: DeviceClass) -> FleetPlan:
    return plan_fleet(SUPERNET, PREDICTOR, classes)


def three() -> tuple[DeviceClass, ...]:
    """A class with room for everything, one that is limited, and one that no submodel fits."""
    middle = float(np.median(list(MEMORY.values())))
    return (
        device("large", 0.5),
        device("limited", 0.3, memory=middle),
        device("tiny", 0.2, memory=min(MEMORY.values()) - 1),
    )


# --- the table ---


def test_fleets_are_the_published_settings_of_the_presets():
    assert {name: {d.name: d.share for d in fleet} for name, fleet in FLEETS.items()} == PUBLISHED_SETTINGS
    for fleet in FLEETS.values():
        assert sum(d.share for d in fleet) == pytest.approx(1)
        assert all(replace(d, share=1.0) == PRESETS[d.name] for d in fleet)


def test_presets_grow_from_the_smallest_device_to_the_largest():
    speeds = [d.macs_per_second for d in PRESETS.values()]
    assert speeds == sorted(set(speeds))


def test_quotas_are_shares_of_the_full_network_but_hold_the_smallest_submodel():
    fleet = with_quota(FLEETS["small"], SUPERNET)
    full, smallest = MEMORY[SUPERNET.full], MEMORY[SPACE.smallest()]
    quotas = [max(DEVICE_CAPS[d.name] * full, smallest) for d in FLEETS["small"]]
    assert [d.memory_bytes for d in fleet] == pytest.approx(quotas)
    assert [replace(d, memory_bytes=1e9) for d in fleet] == [replace(d, memory_bytes=1e9) for d in FLEETS["small"]]
    tight = with_quota([device("phone")], SUPERNET, shares={"phone": 0.01})
    assert plan(*tight).assignments[0].config == SPACE.smallest()
    with pytest.raises(FleetError, match=r"no share for watch.*those of phone"):
        with_quota([device("watch")], SUPERNET, shares={"phone": 0.5})


@pytest.mark.parametrize(
    "change", [{"share": 0}, {"share": 1.1}, {"memory_bytes": 0}, {"macs_per_second": -1}, {"latency_ms": float("inf")}]
)
def test_impossible_numbers_are_refused(change: dict[str, float]):
    with pytest.raises(FleetError, match=f"V100: {next(iter(change))}="):
        replace(PRESETS["V100"], **change)


def test_shares_that_do_not_make_a_whole_are_refused():
    with pytest.raises(FleetError, match=r"add up to 0\.9"):
        plan(device("a", 0.5), device("b", 0.4))
    with pytest.raises(FleetError, match="each once"):
        plan(device("a", 0.5), device("a", 0.5))
    with pytest.raises(FleetError, match="at least one"):
        plan()


# --- the plan ---


def test_room_for_everything_gives_the_best_of_all():
    (assignment,) = plan(device()).assignments
    assert assignment.config == BEST_FIRST[0]
    assert assignment.predicted == PREDICTOR.predict(BEST_FIRST[0])
    assert assignment.cost == SUPERNET.cost(assignment.config)
    assert assignment.memory_bytes == MEMORY[assignment.config]
    assert assignment.latency_ms == pytest.approx(MACS[assignment.config] / 1e9 * 1000)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, len(EVERY) - 1), st.integers(0, len(EVERY) - 1))
def test_the_best_that_fits_memory_and_latency(one: int, other: int):
    """Exactly what fits; and no worse than the best of a memory that is smaller by the promised step."""
    memory, macs = MEMORY[EVERY[one]], MACS[EVERY[other]]
    (assignment,) = plan(device(memory=memory, macs=macs)).assignments
    fits = [c for c in BEST_FIRST if MEMORY[c] <= memory and MACS[c] <= macs]
    if not fits:
        assert assignment.config is None
        return
    assert assignment.config in fits
    least, most = SPACE.reach("peak_activation_bytes")
    surely = [c for c in fits if MEMORY[c] <= memory - (most - least) / 4]
    assert fits.index(assignment.config) <= (fits.index(surely[0]) if surely else len(fits))


def test_who_gets_nothing_is_told_why():
    tight = plan(*three())
    assert [a.config is None for a in tight.assignments] == [False, False, True]
    note = tight.assignments[2].note
    assert f"{min(MEMORY.values()) / 1e6:.1f} MB" in note
    assert "smallest" in note
    slow = plan(device(macs=min(MACS.values()) - 1)).assignments[0]
    assert slow.config is None
    assert plan(device(macs=min(MACS.values()))).assignments[0].config == SPACE.smallest()


def test_coverage_mean_and_worst():
    found = plan(*three())
    large, limited, _ = found.assignments
    assert found.coverage == pytest.approx(0.8)
    assert found.configs == [large.config, limited.config]
    for part in ("accuracy", "low", "high"):
        mean = (0.5 * getattr(large.predicted, part) + 0.3 * getattr(limited.predicted, part)) / 0.8
        assert getattr(found.mean(), part) == pytest.approx(mean)
    assert found.worst()[0].name == "limited"
    assert found.worst()[1].low == limited.predicted.low


def test_summary_in_one_line():
    found = plan(*three())
    text = found.with_measured(make_row(c, 0.8) for c in found.configs).summary(measured=True)
    assert text == " 80% of the clients have a submodel: mean 80.0% (78.0% to 81.0%), worst 80.0% (large)"
    assert "(limited)" in found.summary()
    assert found.summary(measured=True) == " 80% of the clients have a submodel"


def test_a_fleet_without_any_submodel():
    nobody = plan(device(memory=1))
    assert nobody.coverage == 0
    assert nobody.mean() is None
    assert nobody.worst() is None
    assert nobody.configs == []


def test_measured_where_the_rows_hold_the_submodel():
    found = plan(*three())
    large, limited = found.configs
    half = found.with_measured([make_row(large, 0.9), make_row(SPACE.smallest(), 0.5)])
    assert [a.measured and a.measured.accuracy for a in half.assignments] == [0.9, None, None]
    assert half.mean(measured=True) is None, "a mean over some of the classes is not that of the fleet"
    assert half.worst(measured=True) is None
    whole = found.with_measured([make_row(large, 0.8), make_row(limited, 0.88)])
    assert whole.mean(measured=True).accuracy == pytest.approx((0.5 * 0.8 + 0.3 * 0.88) / 0.8)
    assert whole.worst(measured=True)[0].name == "large"
    assert whole.mean() == found.mean()


def test_measurements_of_something_else_are_refused():
    found = plan(*three())
    with pytest.raises(FleetError, match="other weights"):
        found.with_measured([make_row(found.configs[0], 0.9, fingerprint="ffff")])
    with pytest.raises(FleetError, match=r"made_up/test, made_up/validation"):
        found.with_measured(
            [make_row(c, 0.9, split=s) for c, s in zip(found.configs, ("test", "validation"), strict=True)]
        )


def test_text_needs_a_token_count():
    supernet = make_supernet("bert")
    with pytest.raises(ElasticSpaceError, match="token count"):
        plan_fleet(supernet, PREDICTOR, [device()])
    found = []
    for supernet.tokens in (4, 16):
        found += plan_fleet(supernet, PREDICTOR, [device()]).assignments
    short, long = found
    assert short.memory_bytes < long.memory_bytes
    assert short.latency_ms < long.latency_ms


# --- the pictures ---


@pytest.fixture
def _close_figures():
    yield
    matplotlib.pyplot.close("all")


def labels(ax: Any) -> str:
    return "\n".join(
        text.get_text() for text in [*ax.get_legend().get_texts(), *ax.texts, ax.xaxis.label, *ax.get_yticklabels()]
    )


def measured(found: FleetPlan) -> FleetPlan:
    return found.with_measured(make_row(c, 0.8 + 0.01 * i) for i, c in enumerate(found.configs))


@pytest.mark.usefixtures("_close_figures")
def test_one_fleet():
    found = plan(*three())
    text = labels(plot_fleet(found))
    parameters = found.assignments[0].cost.parameters / 1e6
    assert f"large: 50% of clients, {parameters:.1f} M parameters" in text
    assert "tiny: 20% of clients, no model" in text
    assert "80% have a submodel" in text
    assert "mean predicted" in text
    assert "mean measured" not in text
    assert "mean measured: 80.4% (78.4% to 81.4%)" in labels(plot_fleet(measured(found)))


@pytest.mark.usefixtures("_close_figures")
def test_several_fleets():
    plans = {"one": plan(*three()), "two": measured(plan(device("large"))), "none": plan(device("tiny", memory=1))}
    shares, accuracies = plot_fleets(plans)
    shares.figure.canvas.draw()
    text = labels(shares)
    assert {"one\n80% covered", "two\n100% covered", "none\n0% covered"} <= {
        t.get_text() for t in shares.get_yticklabels()
    }
    assert "no submodel fits" in text
    assert [bar.get_width() for bar in shares.patches] == pytest.approx([50, 30, 20, 100, 100])
    assert "measured (95%)" in labels(accuracies)
    points = [line for bar in accuracies.containers for line in bar.lines[:1]]
    assert len(points) == 2 + 4, "mean and worst of one fleet predicted, of another measured as well"


@pytest.mark.usefixtures("_close_figures")
@pytest.mark.parametrize("draw", [lambda p, ax: plot_fleet(p, ax[0]), lambda p, ax: plot_fleets({"a": p}, ax)[0]])
def test_given_axes_are_used(draw: Callable[..., Any]):
    _, axes = matplotlib.pyplot.subplots(1, 2)
    assert draw(plan(device()), tuple(axes)) is axes[0]


def test_a_class_has_its_own_colour_and_a_preset_always_the_same():
    assert len(set(class_colours([*PRESETS, "watch"]).values())) == 8
    assert class_colours(["phone", "V100"])["V100"] == class_colours(PRESETS)["V100"]


def test_table_for_the_notebook():
    found = measured(plan(device("<b>", 0.7), device("tiny", 0.3, memory=1)))
    table = found._repr_html_()
    assert "&lt;b&gt;</td><td>70%</td>" in table
    assert "80.0% (78.0% to 81.0%)" in table
    assert "<td>none *</td>" in table
    assert "* tiny: the smallest submodel takes" in table
    assert table.count("<tr>") == 3
