"""Adam's moments travel with the weights: what clients do with them, what the server makes of them, and resuming."""

from dataclasses import replace

import pytest
import torch
from helpers.federated import RECIPE, learnable_split, make_even_supernet, one_thread, run_tiny, task_of  # noqa: F401

from raffm_utils.errors import TrainingError
from raffm_utils.federated import Recipe, Update, local_update, simulation
from raffm_utils.federated.server import Asked, State, fault, moments_update, narrowed_moments, present
from raffm_utils.space import SubmodelConfig
from raffm_utils.supernet import Supernet

CARRY = replace(RECIPE, carry_moments=True, second_moment=0.9, students=2)
NARROW = SubmodelConfig(36, (40, 24), (48, 64))


def moments_like(supernet: Supernet, value: float) -> State:
    return {name: torch.full_like(p.data, value) for name, p in supernet.model.named_parameters()}


def test_a_client_goes_on_from_the_moments_it_is_sent():
    """One step by the textbook, without the correction for a start at 0, and without warm-up."""
    supernet = make_even_supernet()
    recipe = replace(CARRY, weight_decay=0.0, gradient_clip=1e9, students=0, local_warmup_steps=5)
    sent = narrowed_moments(supernet, (moments_like(supernet, 0.01), moments_like(supernet, 0.04)), NARROW)
    own = supernet.narrowed(NARROW)
    before = [p.detach().clone() for p in own.model.parameters()]
    task = task_of(supernet, NARROW, 1e-3, (0, 1, 2), moments=sent)
    update = local_update(own, task, learnable_split(16, 1), recipe)
    assert update.moments is not None
    moved = False
    for old, (name, new) in zip(before, update.state.items(), strict=True):
        first, second = (kind[name] for kind in update.moments)
        gradient = (first - 0.9 * 0.01) / 0.1
        assert torch.allclose(second, 0.9 * 0.04 + 0.1 * gradient.square(), atol=1e-5), name
        assert torch.allclose(new, old - 1e-3 * first / (second.sqrt() + 1e-8), atol=1e-6), name
        moved = moved or bool((gradient.abs() > 1e-3).any())
    assert moved


def test_the_server_sends_the_part_that_goes_with_the_submodel():
    supernet = make_even_supernet()
    numbered = {name: torch.arange(p.numel()).float().view(p.shape) for name, p in supernet.model.named_parameters()}
    first, second = narrowed_moments(supernet, (numbered, numbered), NARROW)
    for name, p in supernet.model.named_parameters():
        p.data.copy_(numbered[name])
    for (name, part), expected in zip(first.items(), supernet.extract(NARROW).parameters(), strict=True):
        assert torch.equal(part, expected), name
        assert part.data_ptr() != numbered[name].data_ptr()
    assert second.keys() == first.keys()
    without = SubmodelConfig(36, (40, 0), (48, 64))
    kept = narrowed_moments(supernet, (numbered, numbered), without)[0]
    assert list(kept) == [p.name for p in present(supernet.parameters, without)]
    assert len(kept) < len(first)


def test_the_server_averages_moments_over_the_clients_that_cover_an_entry():
    supernet = make_even_supernet()
    moments = moments_like(supernet, 5.0), moments_like(supernet, 7.0)
    wide = SubmodelConfig(48, (48, 48), (40, 64))  # nobody has the last FFN neurons of the first layer
    updates = []
    for config, value, weight in ((NARROW, 1.0, 3.0), (wide, 2.0, 1.0)):
        alike = moments_like(supernet, value), moments_like(supernet, value)
        first, second = narrowed_moments(supernet, alike, config)
        updates.append(Update(config, first, 1, 0.0, weight, (first, {name: 10 * t for name, t in second.items()})))
    moments_update(supernet, moments, updates)
    for state, scale, old in zip(moments, (1, 10), (5.0, 7.0), strict=True):
        inner = state["vit.layers.0.mlp.fc1.weight"]
        assert torch.allclose(inner[:40, :36], torch.tensor(1.25 * scale)), "3 parts of 1, 1 part of 2"
        assert torch.allclose(inner[:40, 36:], torch.tensor(2.0 * scale))
        assert torch.allclose(inner[40:48, :36], torch.tensor(1.0 * scale))
        assert torch.equal(inner[48:], torch.full_like(inner[48:], old)), "nobody covers it"


ASKED = Asked(make_even_supernet().full, moments=True)


def test_moments_that_cannot_be_used_are_a_fault():
    supernet = make_even_supernet()
    state = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    good = Update(supernet.full, state, 1, 0.0, 1.0, (moments_like(supernet, 0.0), moments_like(supernet, 0.0)))
    assert fault(good, ASKED, supernet) is None
    name = "classifier.bias"
    harm = (0, torch.nan, "mean gradient of .* not finite"), (1, -1.0, "mean square of .* negative")
    for place, value, words in harm:
        moments = (moments_like(supernet, 0.0), moments_like(supernet, 0.0))
        moments[place][name][2] = value
        found = fault(replace(good, moments=moments), ASKED, supernet)
        with pytest.raises(ValueError, match=words):
            raise ValueError(found)
    moments = (moments_like(supernet, 0.0), moments_like(supernet, 0.0))
    del moments[1][name]
    assert "other parameters" in str(fault(replace(good, moments=moments), ASKED, supernet))
    assert "missing" in str(fault(replace(good, moments=None), ASKED, supernet))
    assert "not asked" in str(fault(good, ASKED._replace(moments=False), supernet))


def test_a_run_that_carries_moments_resumes_bit_for_bit_and_learns(tmp_path, monkeypatch):
    recipe = replace(CARRY, rounds=4, server_momentum=0.0)
    expected, rows = run_tiny(tmp_path / "whole", recipe=recipe)
    assert rows[-1].loss < rows[0].loss
    update, calls = simulation.local_update, []

    def stop_in_the_third_round(own, task, data, recipe):
        calls.append(task)
        if len(calls) > 2 * RECIPE.participants:
            raise KeyboardInterrupt
        return update(own, task, data, recipe)

    monkeypatch.setattr(simulation, "local_update", stop_in_the_third_round)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "parts", recipe=recipe, workers=1)
    assert [task.moments is None for task in calls[: 2 * RECIPE.participants]] == [True] * 4 + [False] * 4
    monkeypatch.setattr(simulation, "local_update", update)
    again, rows_again = run_tiny(tmp_path / "parts", recipe=recipe)
    assert rows_again == rows
    for (name, p), q in zip(expected.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_an_impossible_memory_is_refused():
    with pytest.raises(TrainingError, match="second_moment=1"):
        Recipe(second_moment=1.0)
