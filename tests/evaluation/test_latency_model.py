"""The latency model: what it is fitted to, what it predicts, what is kept of it."""

import json
import math

import numpy as np
import pytest
from conftest import make_supernet

from raffm_utils import LatencyModel
from raffm_utils.errors import ElasticSpaceError, InfeasibleBudget
from raffm_utils.evaluation import latency as latency_model
from raffm_utils.plotting import plot_latency
from raffm_utils.space import LATENCY, NS_PER_MS, Budget, SubmodelConfig, Timed

SPACE = {
    "residual_hidden_space": [48, 40, 32, 24],
    "atten_out_space": [48, 36, 24, 12],
    "inter_hidden_space": [64, 48, 32, 16],
}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("RAFFM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "raffm_utils"


@pytest.fixture
def machine(monkeypatch):
    """A made-up machine of known speed in place of the clock: `noise` relative, `drift` per measurement."""

    class Machine:
        noise, drift, timed, per_block = 0.0, 0.0, 0, 0
        rng = np.random.default_rng(1)

        def ms(self, config: SubmodelConfig) -> float:
            hidden, attention, ffn = config.hidden, sum(config.attention), sum(config.ffn)
            blocks = self.per_block * (2 * config.totals.attention_blocks + config.totals.ffn_blocks)
            return (1e5 + 400 * hidden + attention * (300 + 20 * hidden) + ffn * 11 * hidden + blocks) / NS_PER_MS

        def __call__(self, model, inputs, threads, seconds):
            self.timed += 1
            widths = model.config.submodel
            config = SubmodelConfig(widths["hidden"], tuple(widths["attention"]), tuple(widths["ffn"]))
            factor = (1 + self.drift * self.timed) * (1 + self.noise * self.rng.standard_normal(3))
            return list(self.ms(config) * factor)

    found = Machine()
    monkeypatch.setattr(latency_model, "timed_ms", found)
    return found


def fit(supernet, **changes) -> LatencyModel:
    return LatencyModel.fit(supernet, **{"seconds": 1e-3, "submodels": 10, "held_out": 5, "progress": False, **changes})


def test_recovers_a_machine_that_is_affine(machine):
    supernet = make_supernet(space=SPACE)
    model = fit(supernet)
    assert model.affine(40) == (116_000, 1100, 0, 440, 0)
    assert model.held_out_error < 1e-4
    for config in (supernet.space.smallest(), supernet.space.largest()):
        assert model.predict_ms(config) == pytest.approx(machine.ms(config), rel=1e-4)


def test_a_block_costs_time_however_narrow_it_is(machine):
    machine.per_block = 9_000
    optional = {axis: [*widths, 0] if axis != "residual_hidden_space" else widths for axis, widths in SPACE.items()}
    supernet = make_supernet(space=optional)
    model = fit(supernet, submodels=24)
    assert model.affine(40) == pytest.approx((116_000, 1100, 18_000, 440, 9_000), rel=1e-3)
    assert model.held_out_error < 1e-4
    bare, full = supernet.space.smallest(), supernet.space.largest()
    assert bare.totals.attention_blocks == 0
    for config in (bare, full, SubmodelConfig(24, (12,) * 3, (16,) * 3)):
        assert model.predict_ms(config) == pytest.approx(machine.ms(config), rel=1e-4)


def test_drift_and_noise_hit_all_alike(machine):
    machine.noise, machine.drift = 0.03, 0.002
    assert fit(make_supernet(space=SPACE), submodels=20, seconds=0.3).held_out_error < 0.05


def test_held_out_submodels_are_others_spread_over_size(machine):
    supernet = make_supernet(space=SPACE)
    model = fit(supernet, submodels=12, held_out=6)
    fitted, apart = ({config for config, _ in pairs} for pairs in (model.measured, model.held_out))
    assert not fitted & apart
    assert 10 <= len(fitted) <= 12
    assert 3 <= len(apart) <= 6
    assert {supernet.space.smallest(), supernet.space.largest()} <= fitted
    assert all(config in supernet.space for config in fitted | apart)
    errors = [abs(model.predict_ms(config) / ms - 1) for config, ms in model.held_out]
    assert model.held_out_error == pytest.approx(np.median(errors))


def test_no_coefficient_is_negative():
    """Even where wider was measured to be faster."""
    configs = [SubmodelConfig(h, (a,), (f,)) for h in (4, 8) for a in (4, 8) for f in (4, 8)]
    for seed in range(20):
        times = np.random.default_rng(seed).uniform(0.1, 1, len(configs))
        model = LatencyModel(tuple(map(Timed, configs, times)), ())
        assert min(min(model.affine(h)) for h in range(1, 20)) >= 0
        assert model.affine(8) >= model.affine(4)
    assert math.isnan(model.held_out_error)


def test_a_supernet_with_a_model_has_latency_costs_and_budgets(machine):
    supernet = make_supernet(space=SPACE)
    assert supernet.latency is None
    assert supernet.cost(supernet.full).latency_ms is None
    with pytest.raises(ElasticSpaceError, match=r"LatencyModel\.fit"):
        supernet.space.count(Budget(max_latency_ms=1))
    supernet.latency = model = fit(supernet)
    least, most = supernet.space.reach(LATENCY)
    assert (least, most) == tuple(map(model.predict_ms, (supernet.space.smallest(), supernet.space.largest())))
    assert supernet.cost(supernet.full).latency_ms == model.predict_ms(supernet.full) == most
    budget = Budget(max_latency_ms=(least + most) / 2, max_macs=supernet.cost(supernet.full).macs * 0.6)
    assert 0 < supernet.space.count(budget) < supernet.space.count()
    for seed in range(20):
        assert model.predict_ms(supernet.space.sample(budget, np.random.default_rng(seed))) <= (least + most) / 2
    with pytest.raises(InfeasibleBudget, match=r"max_latency_ms=.*raise it to"):
        supernet.space.sample(Budget(max_latency_ms=least * 0.9), np.random.default_rng(0))
    supernet.latency = None
    assert supernet.cost(supernet.full).latency_ms is None


def test_text_latency_is_of_one_token_count(machine):
    supernet = make_supernet("bert", space=SPACE)
    with pytest.raises(ElasticSpaceError, match="need a token count"):
        fit(supernet)
    supernet.latency = fit(supernet, tokens=8)
    assert supernet.cost(supernet.full, 8).latency_ms == supernet.cost(supernet.full).latency_ms > 0
    assert supernet.cost(supernet.full, 9).latency_ms is None
    most = supernet.space.reach(LATENCY)[1]
    assert supernet.space.under(tokens=8).count(Budget(max_latency_ms=most)) == supernet.space.count()
    supernet.tokens = 9
    with pytest.raises(ElasticSpaceError, match="tokens=9, but latency was measured at 8"):
        supernet.space.count(Budget(max_latency_ms=most))
    supernet.latency = fit(supernet)
    assert supernet.latency.tokens == 9
    assert supernet.cost(supernet.full).latency_ms > 0


def test_kept_measurements_are_read_again_for_the_same_setting_only(machine, cache_folder):
    supernet = make_supernet(space=SPACE)
    first, timed = fit(supernet), machine.timed
    assert timed > 0
    assert fit(supernet, rng=np.random.default_rng(5)) == first
    assert machine.timed == timed + 2, "nothing was measured again but the two that tell whether all still holds"
    timed = machine.timed
    for changes in ({"batch_size": 2}, {"threads": 2}, {"submodels": 9}):
        fit(supernet, **changes)
        assert machine.timed > timed
        timed = machine.timed
    fit(make_supernet(space=SPACE, seed=9))
    assert machine.timed > timed
    assert len(list(cache_folder.iterdir())) == 5, "one file each, and no parts of files"


@pytest.mark.parametrize(("speed", "anew"), [(1.05, False), (0.95, False), (1.3, True), (0.7, True)])
def test_kept_measurements_of_a_slower_or_faster_machine_are_not_believed(machine, cache_folder, speed, anew):
    supernet = make_supernet(space=SPACE)
    first, ms = fit(supernet), machine.ms
    machine.ms = lambda config: speed * ms(config)
    model = fit(supernet)
    assert (model != first) == anew
    assert model.predict_ms(supernet.full) == pytest.approx(ms(supernet.full) * (speed if anew else 1), rel=1e-3)
    assert fit(supernet) == model, "what was measured anew is kept"
    assert len(list(cache_folder.iterdir())) == 1


def test_without_cache_nothing_is_read_or_written(machine, cache_folder):
    supernet = make_supernet(space=SPACE)
    fit(supernet, cache=False)
    assert not cache_folder.exists()
    fit(supernet)
    timed = machine.timed
    fit(supernet, cache=False)
    assert machine.timed > timed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'{"measured": [], "held_out": []}',
        b'{"measured": [{"hidden": 48}], "held_out": []}',
    ],
)
def test_a_broken_file_is_measured_anew_and_replaced(machine, cache_folder, content):
    supernet = make_supernet(space=SPACE)
    first = fit(supernet)
    (path,) = cache_folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(content)
    timed = machine.timed
    assert fit(supernet) == first
    assert machine.timed > timed
    assert path.read_bytes() == good


@pytest.mark.parametrize("change", [{"ms": -1}, {"ms": "fast"}, {"hidden": 7}, {"ffn": [1]}, {"ffn": None}])
def test_a_kept_line_that_cannot_be_is_not_believed(machine, cache_folder, change):
    supernet = make_supernet(space=SPACE)
    fit(supernet)
    (path,) = cache_folder.iterdir()
    content = json.loads(path.read_text())
    content["measured"][0] |= change
    path.write_text(json.dumps(content))
    assert latency_model._read_cache(path, supernet.space) is None


def test_measurements_of_a_busy_machine_are_not_kept(machine, cache_folder):
    machine.noise = 0.8
    assert fit(make_supernet(space=SPACE)).held_out_error > latency_model.KEPT_BELOW
    assert not cache_folder.exists()


def test_measurements_go_where_all_that_is_cached_goes(machine, tmp_path, monkeypatch, cache_folder):
    monkeypatch.setenv("RAFFM_CACHE", str(tmp_path / "elsewhere"))
    fit(make_supernet(space=SPACE))
    assert not cache_folder.exists()
    (path,) = (tmp_path / "elsewhere").iterdir()
    assert path.name.startswith("latency-")


def test_a_cache_folder_that_cannot_be_written_is_no_error(machine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fit(make_supernet(space=SPACE)).held_out_error < 1e-4


def test_a_space_of_one_submodel(machine):
    supernet = make_supernet(space={})
    model = fit(supernet)
    assert len(model.measured) == 1
    assert model.held_out == ()
    assert model.predict_ms(supernet.full) == pytest.approx(machine.ms(supernet.full), rel=0.05)


def test_at_least_one_of_each(machine):
    with pytest.raises(ElasticSpaceError, match="submodels=0"):
        fit(make_supernet(), submodels=0)


def test_on_the_real_clock():
    model = LatencyModel.fit(make_supernet(space=SPACE), submodels=3, held_out=2, seconds=0.1, progress=False)
    assert all(ms > 0 for _, ms in model.measured)


def test_plot_shows_all_points_and_the_error(machine):
    model = fit(make_supernet(space=SPACE))
    ax = plot_latency(model)
    fitted, apart = ax.collections
    assert (len(fitted.get_offsets()), len(apart.get_offsets())) == (len(model.measured), len(model.held_out))
    assert f"{model.held_out_error:.1%}" in ax.get_legend().get_texts()[1].get_text()
