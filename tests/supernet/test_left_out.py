"""Width 0: blocks that are left out, against the network that computes them and puts 0 in their place."""

import copy
import itertools
import pickle

import pytest
import torch
import transformers
from conftest import FAMILY_NAMES, TEXT_FAMILIES, make_inputs, make_supernet, some_configs, with_blocks_left_out

from raffm_utils.errors import ElasticSpaceError
from raffm_utils.space import Axis, SubmodelConfig
from raffm_utils.supernet import Supernet
from raffm_utils.supernet.rebuild import Nothing

SPACE = {
    "residual_hidden_space": [48, 36, 25],
    "atten_out_space": [[48, 20, 0], [48, 24], [48, 12, 0]],
    "inter_hidden_space": [[64, 7, 0], [64, 33, 0], [64, 0]],
}
CLOSE = dict(rtol=1e-5, atol=1e-5)
ONE_OF_EACH = SubmodelConfig(36, (20, 0, 12), (0, 40, 64))


def _logits(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


def _masked(supernet: Supernet, config: SubmodelConfig):
    """The submodel with all blocks, where the last linear layer of each one to be left out gives 0."""
    attention, ffn = (
        tuple(width or min(4, full) for width, full in zip(widths, wholes, strict=True))
        for widths, wholes in ((config.attention, supernet.full.attention), (config.ffn, supernet.full.ffn))
    )
    model = supernet.extract(SubmodelConfig(config.hidden, attention, ffn))
    hooked = 0
    for p in supernet.parameters:
        if p.axes in ((Axis.HIDDEN, Axis.ATTENTION), (Axis.HIDDEN, Axis.FFN)) and not p.present(config.widths(p.layer)):
            last = model.get_submodule(p.name.removesuffix(".weight"))
            last.register_forward_hook(lambda module, given, made: torch.zeros_like(made))
            hooked += 1
    whole = supernet.full
    assert hooked == (*config.attention, *config.ffn).count(0) - (*whole.attention, *whole.ffn).count(0)
    return model


@pytest.mark.parametrize("copy", [False, True])
def test_a_block_that_is_left_out_adds_nothing(kind_and_supernet, copy):
    kind, supernet = kind_and_supernet
    inputs = make_inputs(kind)
    for config in with_blocks_left_out(supernet):
        model = supernet.extract(config, copy=copy)
        torch.testing.assert_close(_logits(model, inputs), _logits(_masked(supernet, config), inputs), **CLOSE)
        assert sum(p.numel() for p in model.parameters()) == supernet.cost(config).parameters
        assert all(p.requires_grad == copy for p in model.parameters())


def test_what_is_left_stands_in_the_order_of_the_supernet(kind_and_supernet):
    """Which is what pairs the two when layers are numbered anew."""
    _, supernet = kind_and_supernet
    for config in with_blocks_left_out(supernet):
        left = [p for p in supernet.parameters if p.present(config.widths(p.layer))]
        wanted = [p.narrowed_shape(config.widths(p.layer)) for p in left]
        model = supernet.extract(config)
        assert [tuple(p.shape) for p in model.parameters()] == wanted
        whole = dict(supernet.model.named_parameters())
        for p, own in zip(left, model.parameters(), strict=True):
            sliced = p.part(whole[p.name].data, config.widths(p.layer), supernet.slicing_heads).reshape(own.shape)
            assert torch.equal(own, sliced), p.name


def test_a_submodel_with_blocks_left_out_is_itself_a_supernet(kind_and_supernet):
    kind, supernet = kind_and_supernet
    supernet, inputs = make_supernet(kind, supernet.spec.head_slicing, space=SPACE), make_inputs(kind)
    for outer in with_blocks_left_out(supernet):
        narrowed = supernet.narrowed(outer)
        left = supernet.cost(outer, 9)
        assert narrowed.cost(narrowed.full, 9) == left
        assert narrowed.space.largest() == narrowed.full
        there = [p for p in supernet.parameters if p.present(outer.widths(p.layer))]
        names = [name.split(".")[-2:] for name, _ in narrowed.model.named_parameters()]
        assert [p.name.split(".")[-2:] for p in there] == names
        torch.testing.assert_close(_logits(narrowed.model, inputs), _logits(supernet.extract(outer), inputs), **CLOSE)
        for config in some_configs(narrowed, 4):
            model = narrowed.extract(config)
            torch.testing.assert_close(_logits(model, inputs), _logits(_masked(narrowed, config), inputs), **CLOSE)
            assert sum(p.numel() for p in model.parameters()) == narrowed.cost(config).parameters


def test_the_layers_that_a_narrowed_supernet_has_keep_their_choices():
    narrowed = make_supernet("vit", space=SPACE).narrowed(SubmodelConfig(36, (0, 24, 12), (0, 33, 0)))
    assert narrowed.space.hidden == (36, 25)
    assert narrowed.space.attention == ((24,), (12, 0))
    assert narrowed.space.ffn == ((33, 0), (0,))
    text = make_supernet("bert", space=SPACE).narrowed(SubmodelConfig(36, (0, 24, 12), (0, 33, 0)))
    assert text.space.attention == ((0,), (24,), (12, 0))
    with pytest.raises(ElasticSpaceError, match=r"attention width 4 of layer 1: give 0, where"):
        text.extract(SubmodelConfig(36, (4, 24, 12), (0, 33, 0)))


def test_a_layer_of_which_nothing_is_left_is_gone():
    model = make_supernet("vit").extract(SubmodelConfig(36, (20, 0, 12), (40, 0, 64)))
    assert len(model.vit.layers) == model.config.num_hidden_layers == 2
    assert not [name for name, _ in model.named_parameters() if name.startswith("vit.layers.2")]
    assert [layer.attention.head_dim for layer in model.vit.layers] == [5, 3]
    assert not [module for module in model.modules() if isinstance(module, Nothing)]
    empty = make_supernet("vit").extract(SubmodelConfig(36, (0,) * 3, (0,) * 3))
    assert len(empty.vit.layers) == empty.config.num_hidden_layers == 0


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_a_layer_whose_norms_are_left_stays(kind):
    supernet = make_supernet(kind)
    model = supernet.extract(SubmodelConfig(36, (20, 0, 12), (40, 0, 64)))
    assert getattr(model.config, supernet.family.layers_key) == 3
    assert len([name for name, _ in model.named_parameters() if name.count(".1.")]) == 4
    assert [name for name, _ in model.named_parameters() if name.count(".2.")]


def test_modules_that_know_their_layer_are_told_the_new_one(monkeypatch):
    attention, numbers = transformers.models.vit.modeling_vit.ViTAttention, itertools.count()
    construct = attention.__init__

    def construct_with_number(self, *args):
        construct(self, *args)
        self.layer_idx = next(numbers)

    monkeypatch.setattr(attention, "__init__", construct_with_number)
    supernet = make_supernet("vit")
    model = supernet.extract(SubmodelConfig(36, (0, 20, 12), (0, 40, 64)))
    assert [layer.attention.layer_idx for layer in model.vit.layers] == [0, 1]
    assert [layer.attention.layer_idx for layer in supernet.model.vit.layers] == [0, 1, 2]


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_works_like_any_model(kind):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    model = supernet.extract(ONE_OF_EACH, copy=True)
    wanted = _logits(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_logits(other, inputs), wanted)
    half = copy.deepcopy(model).bfloat16()
    given = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    assert half(**given).logits.dtype == torch.bfloat16
    torch.testing.assert_close(torch.compile(model, backend="eager")(**inputs).logits, wanted, **CLOSE)
    assert not [name for name in model.state_dict() if name not in dict(model.named_parameters())]


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_trains(kind):
    supernet = make_supernet(kind)
    before = supernet.fingerprint()
    model = supernet.extract(ONE_OF_EACH, copy=True).train()
    inputs = make_inputs(kind) | {"labels": torch.tensor([0, 1, 2])}
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.02), []
    for _ in range(20):
        optimizer.zero_grad()
        (loss := model(**inputs).loss).backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert supernet.fingerprint() == before


def test_a_shallower_network_is_an_ordinary_one(tmp_path):
    supernet, inputs = make_supernet("vit"), make_inputs("vit")
    model = supernet.extract(SubmodelConfig(36, (36, 0, 36), (40, 0, 40)))
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert len(again.vit.layers) == 2
    torch.testing.assert_close(_logits(again, inputs), _logits(model, inputs), **CLOSE)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (SubmodelConfig(0, (48,) * 3, (64,) * 3), "hidden width 0: give 1 to 48"),
        (SubmodelConfig(48, (48, -4, 48), (64,) * 3), "attention width -4 of layer 2.*0 leaves the block out"),
        (SubmodelConfig(48, (48,) * 3, (64, 64, -1)), "ffn width -1 of layer 3.*0 leaves the block out"),
    ],
)
def test_only_blocks_can_be_left_out(config, named):
    with pytest.raises(ElasticSpaceError, match=named):
        make_supernet("vit").extract(config)
