"""Peak activation memory in closed form against the tensors that are alive."""

import numpy as np
import pytest
import torch
from conftest import FAMILY_NAMES, make_inputs, make_supernet, some_configs, with_blocks_left_out

from raffm_utils.errors import ElasticSpaceError
from raffm_utils.evaluation import measure_peak_activation_bytes
from raffm_utils.space import PEAK, Budget, Conditions, CostModel, Live, SubmodelConfig
from raffm_utils.supernet import Supernet

# where which moment is the peak: narrow or wide attention, narrow or wide FFN
SPACES = {
    "usual": None,
    "wide attention": {"residual_hidden_space": [48, 12], "atten_out_space": [48, 44], "inter_hidden_space": [64, 8]},
    "narrow layers": {"residual_hidden_space": [48], "atten_out_space": [8, 4], "inter_hidden_space": [16, 9]},
    "wide FFN": {"residual_hidden_space": [24, 8], "atten_out_space": [12], "inter_hidden_space": [64, 60]},
}


def full_inputs(kind: str, tokens: int = 9) -> dict[str, torch.Tensor]:
    """One example without padding."""
    return make_inputs(kind, batch=1, tokens=tokens)


@pytest.mark.parametrize("space", SPACES)
def test_closed_form_is_what_is_alive(kind_and_supernet, space):
    kind, supernet = kind_and_supernet
    supernet = make_supernet(kind, supernet.spec.head_slicing, space=SPACES[space])
    for number, config in enumerate([*some_configs(supernet, 6), *with_blocks_left_out(supernet)]):
        tokens = 8 + number
        inputs = full_inputs(kind, tokens)
        assert bool(inputs.get("attention_mask", torch.ones(1)).all())
        measured = measure_peak_activation_bytes(supernet.extract(config), inputs)
        assert supernet.cost(config, tokens).peak_activation_bytes == measured
        assert supernet.space.under(tokens=tokens).cost_of(config, PEAK) == measured


@pytest.mark.parametrize("hidden", [48, 12])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_any_blocks_left_out(kind, hidden):
    rng, layers = np.random.default_rng(hidden), 3
    supernet = make_supernet(kind, space={}, num_hidden_layers=layers)
    for number in range(40):
        attention, ffn = (tuple(rng.choice(choices, layers).tolist()) for choices in ((0, 4, 48), (0, 1, 64)))
        config, tokens = SubmodelConfig(hidden, attention, ffn), 4 + number % 5
        measured = measure_peak_activation_bytes(supernet.extract(config), full_inputs(kind, tokens))
        assert supernet.cost(config, tokens).peak_activation_bytes == measured, config


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_one_layer_and_half_precision(kind):
    made = make_supernet(kind, space={"inter_hidden_space": [64, 40]}, num_hidden_layers=1)
    supernet = Supernet(made.model.bfloat16(), made.family, made.spec)
    nothing = SubmodelConfig(48, (0,), (0,))
    for config in (*some_configs(supernet, 3), nothing):
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in full_inputs(kind).items()}
        measured = measure_peak_activation_bytes(supernet.extract(config), inputs)
        assert supernet.cost(config, 9).peak_activation_bytes == measured


def test_measured_is_the_same_twice_and_more_with_eager_attention():
    supernet = make_supernet("bert")
    model = supernet.extract(supernet.full)
    fused = measure_peak_activation_bytes(model, full_inputs("bert"))
    assert fused == measure_peak_activation_bytes(model, full_inputs("bert"))
    supernet.model.config._attn_implementation = "eager"
    assert measure_peak_activation_bytes(supernet.extract(supernet.full), full_inputs("bert")) > fused


def test_every_moment_holds_attention_or_ffn_values_never_both():
    """What lets a limit restrict the two apart."""
    for kind in FAMILY_NAMES:
        for moment in make_supernet(kind).family.live:
            assert not (moment.attention and moment.ffn)


def test_peak_is_a_maximum_over_layers():
    costs = CostModel(make_supernet("vit").parameters, patches=4, live=(Live(1, attention=2), Live(0, ffn=3)))
    # 5 tokens of 4 bytes; later layers keep the embeddings too
    assert costs.peak(10, (6, 6), (1, 1)) == 20 * (10 + 10 + 2 * 6)
    assert costs.peak(10, (60, 6), (1, 1)) == 20 * (10 + 2 * 60)
    assert costs.peak(10, (6, 6), (40, 2)) == 20 * 3 * 40
    assert costs.peak(10, (6, 6), (2, 40)) == 20 * (10 + 3 * 40)


def test_text_needs_tokens_and_a_network_its_moments():
    supernet = make_supernet("bert")
    assert supernet.cost(supernet.full).peak_activation_bytes is None
    with pytest.raises(ElasticSpaceError, match="activations of a text model need a token count"):
        supernet.space.count(Budget(max_peak_activation_bytes=10**6))
    bare = CostModel(supernet.parameters).under(Conditions(tokens=9))
    config = SubmodelConfig(48, (48,) * 3, (64,) * 3)
    assert bare.cost(config).peak_activation_bytes is None
    with pytest.raises(ElasticSpaceError, match="peak_activation_bytes is not known"):
        bare.peak(config.hidden, config.attention, config.ffn)


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_limit_on_the_peak_of_a_real_space_is_kept_and_counted(kind):
    supernet = make_supernet(kind)
    space, rng = supernet.space.under(tokens=9), np.random.default_rng(3)
    peaks = [space.cost_of(space.sample(None, rng), PEAK) for _ in range(300)]
    limit = sorted(peaks)[100]
    budget = Budget(max_peak_activation_bytes=limit)
    share = sum(peak <= limit for peak in peaks) / len(peaks)
    assert space.count(budget) / space.count() == pytest.approx(share, abs=0.12)
    assert all(space.cost_of(space.sample(budget, rng), PEAK) <= limit for _ in range(50))
