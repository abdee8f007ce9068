"""What is done to the full network in memory, and what that means for the submodels cut out of it afterwards."""

import copy
import functools
import re

import pytest
import torch
from conftest import FAMILY_NAMES, TEXT_FAMILIES, make_inputs, make_supernet

from raffm_utils.errors import CheckpointError
from raffm_utils.space import Axis, SubmodelConfig
from raffm_utils.supernet import Supernet


def _logits(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


# --- what is bound to the modules of the full network stays there


def _runs_the_old(module, *args, **kwargs):
    return module._old_forward(*args, **kwargs)


def _replace_forward(module):
    """As libraries that run a network between hooks do: an attribute bound to this very module."""
    module._old_forward = module.forward
    module.forward = functools.partial(_runs_the_old, module)


def _compile(model):
    model.compile(backend="eager")


def _compile_the_layers(model):
    for module in model.modules():
        module.compile(backend="eager")


def _compile_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")


def _replace_every_forward(model):
    for module in model.modules():
        _replace_forward(module)


def _hook_with_accelerate(model):
    from accelerate.hooks import ModelHook, add_hook_to_module

    for module in model.modules():
        add_hook_to_module(module, ModelHook())


def _prepare_for_adapters(model):
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()


BOUND = (_compile, _compile_the_layers, _compile_forward, _replace_forward, _replace_every_forward)
BOUND += (_hook_with_accelerate, _prepare_for_adapters)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("act", BOUND, ids=lambda act: act.__name__.strip("_"))
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_what_is_bound_to_the_full_network_does_not_travel(kind, act):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    config = supernet.space.smallest()
    before, full = _logits(supernet.extract(config), inputs), _logits(supernet.model, inputs)
    assert (before - full).abs().max() > 0.01
    act(supernet.model)
    for model in (supernet.extract(config), supernet.extract(config, copy=True), supernet.narrowed(config).model):
        assert torch.equal(_logits(model.eval(), inputs), before)
        assert not any(name in vars(module) for module in model.modules() for name in ("forward", "_old_forward"))
    if act is not _hook_with_accelerate:  # which asks for gradients
        assert torch.equal(_logits(supernet.model, inputs), full)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_hidden_states_are_the_submodels_own(kind, asked):
    """The library installs hooks when it is first asked for hidden states, and remembers that it has."""
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    supernet.model.config._attn_implementation = "eager"  # the only one that has attention to show
    more = dict(output_hidden_states=True, output_attentions=True)
    if asked:
        supernet.model(**inputs, **more)
    config = supernet.space.smallest()
    out = supernet.extract(config)(**inputs, **more)
    assert [state.shape[-1] for state in out.hidden_states] == [config.hidden] * (supernet.layers + 1)
    assert len(out.attentions) == supernet.layers
    assert {state.shape[-1] for state in supernet.model(**inputs, **more).hidden_states} == {supernet.hidden}


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_submodel_that_was_changed_is_a_supernet_too(kind):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    config = supernet.space.smallest()
    narrowed = supernet.narrowed(supernet.space.largest())
    _replace_every_forward(narrowed.model)
    again = Supernet(narrowed.model, supernet.family, narrowed.spec)
    assert torch.equal(_logits(again.extract(config), inputs), _logits(supernet.extract(config), inputs))


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_settings_of_the_modules_travel(kind):
    """A setting that was changed on purpose holds in submodels too, as the weights do; containers are their own."""
    supernet = make_supernet(kind)
    for module in supernet.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.25
    supernet.model._no_split_modules = {"Some"}
    model = supernet.extract(supernet.space.smallest())
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    model._no_split_modules.add("Other")
    assert supernet.model._no_split_modules == {"Some"}


# --- other weights are found; another network is refused by name


def _assign(supernet):
    state = {name: tensor + 0.01 for name, tensor in supernet.model.state_dict().items()}
    supernet.model.load_state_dict(state, assign=True)


def _put_a_copy_in_place(supernet):
    supernet.model = copy.deepcopy(supernet.model)
    with torch.no_grad():
        for p in supernet.model.parameters():
            p.mul_(1.1)


def _last_layer(supernet, layer):
    path, _, name = supernet.family.classifier.rpartition(".")
    parent = supernet.model.get_submodule(path)
    setattr(parent, name, layer(getattr(parent, name)))


def _replace_the_last_layer(supernet):
    _last_layer(supernet, lambda _: torch.nn.Linear(48, 5))


@pytest.mark.parametrize("change", [_assign, _put_a_copy_in_place, _replace_the_last_layer])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_other_weights_of_the_same_shapes_are_found(kind, change):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    config = supernet.space.smallest()
    before = _logits(supernet.extract(config), inputs)
    change(supernet)
    fresh = Supernet(copy.deepcopy(supernet.model), supernet.family, supernet.spec)
    after = _logits(supernet.extract(config), inputs)
    assert torch.equal(after, _logits(fresh.extract(config), inputs))
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(_logits(supernet.narrowed(config).model, inputs), after)
    assert supernet.cost(config, 9) == fresh.cost(config, 9)
    scores = {(Axis.HIDDEN, None, None): torch.arange(48.0)}
    for one in (supernet, fresh):
        one.reorder(scores)
    assert supernet.fingerprint() == fresh.fingerprint()
    without = SubmodelConfig(36, (20, 0, 12), (0, 40, 64))
    assert torch.equal(_logits(supernet.extract(without), inputs), _logits(fresh.extract(without), inputs))


class _Adapted(torch.nn.Module):
    """A linear layer with a low-rank adapter, as libraries put it in place of the layer."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.lora_A = torch.nn.Linear(layer.in_features, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


OTHER = {
    "more classes": (lambda s: _last_layer(s, lambda _: torch.nn.Linear(48, 7)), "is now [7, 48] in torch.float32"),
    "no bias": (lambda s: _last_layer(s, lambda _: torch.nn.Linear(48, 5, bias=False)), "bias, [5] in torch.float32"),
    "half precision": (lambda s: s.model.half(), "in torch.float16"),
    "partly in double precision": (lambda s: _last_layer(s, lambda layer: layer.double()), "in torch.float64"),
    "adapters": (lambda s: _last_layer(s, _Adapted), "weight, [5, 48] in torch.float32, is now gone"),
    "a parameter": (lambda s: s.model.register_parameter("scale", torch.nn.Parameter(torch.ones(1))), "scale is new"),
    "compiled": (lambda s: setattr(s, "model", torch.compile(s.model, backend="eager")), "is now gone"),
}


@pytest.mark.parametrize("change", OTHER)
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_another_network_is_refused_by_name(kind, change):
    supernet = make_supernet(kind)
    config = supernet.space.smallest()
    act, named = OTHER[change]
    act(supernet)
    for use in (supernet.extract, supernet.narrowed, supernet.cost, lambda _: supernet.reorder({})):
        with pytest.raises(CheckpointError, match=re.escape(named) + ".*: merge adapters .* make a new one: Supernet"):
            use(config)


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_a_larger_vocabulary_needs_a_new_supernet(kind):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    config = supernet.space.smallest()
    before, small = _logits(supernet.extract(config), inputs), supernet.cost(config, 9)
    supernet.model.resize_token_embeddings(70, mean_resizing=False)
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight, \[60, 48\] .*, is now \[70, 48\]"):
        supernet.extract(config)
    again = Supernet(supernet.model, supernet.family, supernet.spec)
    model = again.extract(config)
    assert torch.equal(_logits(model, inputs), before)
    assert again.cost(config, 9).parameters == small.parameters + 10 * 25
    assert again.cost(config, 9).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_network_in_half_precision_needs_a_new_supernet(kind):
    supernet = make_supernet(kind)
    config = supernet.space.smallest()
    whole = supernet.cost(config, 9)
    supernet.model.bfloat16()
    again = Supernet(supernet.model, supernet.family, supernet.spec)
    assert {p.dtype for p in again.extract(config).parameters()} == {torch.bfloat16}
    assert again.cost(config, 9).weight_bytes == whole.weight_bytes // 2
