"""Closed-form costs against what is built and traced."""

import warnings

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILY_NAMES, TEXT_FAMILIES, make_inputs, make_supernet, some_configs, with_blocks_left_out

from raffm_utils.errors import ElasticSpaceError
from raffm_utils.evaluation import count_macs_fvcore, count_macs_torch
from raffm_utils.space import FAMILIES, METRICS, VIT, Budget, Conditions, CostModel, SubmodelConfig

UNUSUAL = {
    "vit-one-channel": ("vit", dict(num_channels=1, image_size=24, patch_size=6)),
    "vit-oblong": ("vit", dict(image_size=[16, 32], patch_size=[8, 4])),
    "vit-no-bias": ("vit", dict(qkv_bias=False)),
    "bert-many-labels": ("bert", dict(num_labels=40, type_vocab_size=3)),
    "roberta-one-type": ("roberta", dict(type_vocab_size=1)),
    "distilbert-sinusoidal": ("distilbert", dict(sinusoidal_pos_embds=True)),
}


def _traced(supernet, config, inputs):
    supernet.model.config._attn_implementation = "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = supernet.extract(config)
        traced = count_macs_fvcore(model, inputs)
    assert count_macs_torch(model, inputs) == traced, "two counters that know nothing of each other"
    return traced


def test_parameters_and_bytes_are_those_of_the_extracted_model(kind_and_supernet):
    _, supernet = kind_and_supernet
    for config in (*some_configs(supernet, 12), *with_blocks_left_out(supernet)):
        model = supernet.extract(config)
        cost = supernet.cost(config)
        assert cost.parameters == sum(p.numel() for p in model.parameters())
        assert cost.weight_bytes == sum(p.numel() * p.element_size() for p in model.parameters())


TABLES = ("cls_token", "word_embeddings", "position_embeddings", "token_type_embeddings")


def test_encoder_parameters_leave_out_the_embeddings_but_not_their_norm(kind_and_supernet):
    kind, supernet = kind_and_supernet
    for config in (*some_configs(supernet, 6), *with_blocks_left_out(supernet)):
        model = supernet.extract(config)
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        left_out = [name for name in sizes if any(table in name for table in TABLES)]
        assert len(left_out) == {"vit": 2, "distilbert": 2}.get(kind, 3)
        looked_up = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
        assert kind == "vit" or looked_up == sum(sizes[name] for name in left_out)
        expected = sum(sizes.values()) - sum(sizes[name] for name in left_out)
        assert supernet.cost(config).encoder_parameters == expected


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_macs_are_those_that_fvcore_counts(kind):
    supernet = make_supernet(kind)
    for number, config in enumerate([*some_configs(supernet, 5), *with_blocks_left_out(supernet)]):
        tokens = None if kind == "vit" else 6 + number
        inputs = make_inputs(kind, batch=1, tokens=tokens or 0)
        assert supernet.cost(config, tokens).macs == _traced(supernet, config, inputs)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_networks(name):
    kind, changes = UNUSUAL[name]
    supernet = make_supernet(kind, **changes)
    config = supernet.space.smallest()
    if kind == "vit":
        size = changes.get("image_size", 16)
        height, width = size if isinstance(size, list) else (size, size)
        inputs = {"pixel_values": torch.randn(1, changes.get("num_channels", 3), height, width)}
    else:
        inputs = make_inputs(kind, batch=1)
    cost = supernet.cost(config, 9)
    assert cost.parameters == sum(p.numel() for p in supernet.extract(config).parameters())
    assert cost.macs == _traced(supernet, config, inputs)


def test_macs_are_of_one_example():
    supernet = make_supernet("bert")
    one, two = (make_inputs("bert", batch=size) for size in (1, 2))
    config = supernet.space.smallest()
    assert 2 * supernet.cost(config, 9).macs == 2 * _traced(supernet, config, one) == _traced(supernet, config, two)


def test_text_needs_tokens_and_images_have_their_own():
    text, image = make_supernet("bert"), make_supernet("vit")
    config = text.full
    assert text.cost(config).macs is None
    assert text.cost(config, 16).macs > 2 * text.cost(config, 8).macs, "attention grows with the square"
    assert image.cost(image.full, 99) == image.cost(image.full)
    with pytest.raises(ElasticSpaceError, match="tokens=0"):
        text.cost(config, 0)
    assert text.cost(config, 8).parameters == text.cost(config).parameters


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_the_token_count_is_set_once_for_everything_that_counts(kind):
    supernet = make_supernet(kind)
    config = supernet.full
    at = {tokens: supernet.cost(config, tokens) for tokens in (8, 16)}
    for tokens in (8, 16):  # changed later, it changes what is counted
        before = supernet.space
        supernet.tokens = tokens
        space = supernet.space
        assert supernet.cost(config) == at[tokens]
        assert space.costs.tokens == tokens != before.costs.tokens, "a space that was handed out stays as it is"
        assert space.reach("macs") == before.under(tokens=tokens).reach("macs")
        assert space.cost_of(config, "peak_activation_bytes") == at[tokens].peak_activation_bytes
        assert supernet.cost(config, 8) == at[8], "a count that is given wins"
        limits = dict(max_macs=0.8 * at[tokens].macs, max_peak_activation_bytes=at[tokens].peak_activation_bytes - 1)
        inside = space.count(Budget(**limits))
        assert 0 < inside < space.count()
        assert inside != space.under(tokens=12).count(Budget(**limits))
        assert space.under(tokens=tokens) is space
        drawn = space.sample(Budget(**limits), np.random.default_rng(0))
        assert supernet.cost(drawn).macs <= limits["max_macs"]
    supernet.tokens = None
    assert supernet.cost(config).macs is None


def test_a_token_count_is_a_number_that_the_model_takes():
    supernet = make_supernet("roberta")  # 24 positions, of which two are never used
    supernet.tokens = 22
    for tokens in (0, -1, 23, 8.5, "8"):
        with pytest.raises(ElasticSpaceError, match=rf"tokens={tokens!r}: give a whole number from 1 to 22"):
            supernet.tokens = tokens
        assert supernet.tokens == 22
    image = make_supernet("vit")
    before = image.cost(image.full)
    image.tokens = 999
    assert image.tokens is None
    assert image.cost(image.full) == before


def test_vit_base_has_its_well_known_costs():
    with torch.device("meta"):
        model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    costs = CostModel(VIT.parameters(model), patches=VIT.patches(model.config), bytes_per_parameter=2)
    cost = costs.cost(SubmodelConfig(768, (768,) * 12, (3072,) * 12))
    assert cost.parameters == sum(p.numel() for p in model.parameters()) == 86_567_656
    assert cost.weight_bytes == 2 * cost.parameters
    # by hand: patches, then per layer four projections, two products of attention and the FFN, then the classifier
    layer = 4 * 197 * 768**2 + 2 * 197**2 * 768 + 2 * 197 * 768 * 3072
    assert cost.macs == 196 * 768 * 3 * 16**2 + 12 * layer + 768 * 1000
    assert cost.macs == pytest.approx(17.564e9, abs=0.001e9)


# all parameters of the published networks with two labels, and those of their look-up tables
PUBLISHED = {
    "bert": (109_483_778, (30_522 + 512 + 2) * 768, {}),
    "roberta": (124_647_170, (50_265 + 514 + 1) * 768, dict(vocab_size=50_265, max_position_embeddings=514)),
    "distilbert": (66_955_010, (30_522 + 512) * 768, {}),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_text_networks_have_their_well_known_costs(kind):
    total, tables, changes = PUBLISHED[kind]
    family, changes = FAMILIES[kind], changes | (dict(type_vocab_size=1) if kind == "roberta" else {})
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(kind, **changes)
        model = getattr(transformers, family.auto_class).from_config(config)
    layers = 6 if kind == "distilbert" else 12
    cost = (
        CostModel(family.parameters(model))
        .under(Conditions(tokens=128))
        .cost(SubmodelConfig(768, (768,) * layers, (3072,) * layers))
    )
    assert cost.parameters == sum(p.numel() for p in model.parameters()) == total
    assert cost.encoder_parameters == total - tables
    layer = 4 * 128 * 768**2 + 2 * 128**2 * 768 + 2 * 128 * 768 * 3072
    assert cost.macs == layers * layer + 768**2 + 2 * 768
    assert family.positions(config) == 512


def test_costs_of_a_space_and_of_a_supernet_agree(kind_and_supernet):
    _, supernet = kind_and_supernet
    for config in some_configs(supernet, 6):
        cost = supernet.cost(config, 11)
        for metric in METRICS:
            assert supernet.space.under(tokens=11).cost_of(config, metric) == getattr(cost, metric)
    half = supernet.cost(supernet.full, 11).parameters // 2
    assert 0 < supernet.space.count(Budget(max_parameters=half)) < supernet.space.count()


def test_fvcore_refuses_attention_that_it_cannot_see():
    supernet = make_supernet("vit")
    assert supernet.model.config._attn_implementation != "eager"
    with pytest.raises(ElasticSpaceError, match="eager"):
        count_macs_fvcore(supernet.model, make_inputs("vit"))
    with pytest.raises(ElasticSpaceError, match="eager"):
        count_macs_torch(supernet.model, make_inputs("vit"))
