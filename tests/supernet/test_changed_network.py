"""What is done to the full network in memory, and what that means for the submodels cut out of it afterwards."""

import functools

import pytest
import torch
from conftest import FAMILY_NAMES, make_inputs, make_supernet

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
