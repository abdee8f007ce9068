"""What a round costs its clients, against what they are really sent, send back and compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_supernet
from helpers.federated import RECIPE, learnable_split, make_even_supernet

from raffm_utils.evaluation import count_macs_fvcore
from raffm_utils.federated import Update, count_round, fewer_patches, partition, plan_round, simulation
from raffm_utils.federated.rounds import steps_of
from raffm_utils.supernet import Supernet


def bytes_of(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("carry_moments", [False, True])
def test_bytes_are_those_that_a_run_sends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, carry_moments: bool):
    supernet, train = make_even_supernet(), learnable_split(240, 1)
    options = {"dirichlet": 0.5, "patch_share": 0.5, "cooldown_rounds": 1, "carry_moments": carry_moments}
    recipe = replace(RECIPE, rounds=2, **options)
    shards = [len(part) for part in partition(train.labels, recipe.clients, recipe.dirichlet, recipe.seed)]
    counted = [cost for number in range(2) for cost in count_round(supernet, recipe, number, shards)]
    sent: list[tuple[int, int, int]] = []
    shown = set()
    local_update = simulation.local_update

    def spied(own, task, data, recipe) -> Update:
        down = bytes_of([*own.model.parameters(), *(t for kind in task.moments or () for t in kind.values())])
        update = local_update(own, task, data, recipe)
        shown.add((task.seed[1], task.patches))
        up = bytes_of([t for kind in (update.state, *(update.moments or ())) for t in kind.values()])
        sent.append((task.seed[2], down, up))
        return update

    monkeypatch.setattr(simulation, "local_update", spied)
    simulation.run(supernet, train, learnable_split(50, 2, "validation"), recipe, tmp_path, workers=1)
    assert shown == {(0, 2), (1, None)}, "two of four patches, and all in the cooldown"
    assert sorted(sent) == sorted((cost.client, cost.bytes_down, cost.bytes_up) for cost in counted)


def test_macs_are_three_forward_passes_over_all_that_a_client_sees():
    supernet: Supernet = make_even_supernet()
    shards = [10 * (client + 1) for client in range(8)]
    for recipe, seen in (
        (RECIPE, shards),
        (replace(RECIPE, local_epochs=2, local_steps=1), [min(n, 16) for n in shards]),
        (replace(RECIPE, local_steps=2, more_steps=1.2), None),
    ):
        for (client, config), cost in zip(
            plan_round(supernet, recipe, 0), count_round(supernet, recipe, 0, shards), strict=True
        ):
            model = supernet.extract(config)
            model.set_attn_implementation("eager")
            one = count_macs_fvcore(model, {"pixel_values": torch.zeros(1, 3, 16, 16)})
            trained = 16 * (steps_of(supernet, recipe, config) or 0) if seen is None else seen[client]
            assert cost.macs == 3 * one * trained * recipe.local_epochs


def test_patches_that_are_left_out_are_not_counted():
    supernet, recipe = make_even_supernet(), replace(RECIPE, patch_share=0.5)
    (_, config), *_ = plan_round(supernet, recipe, 0)
    model = supernet.extract(config)
    model.set_attn_implementation("eager")
    with fewer_patches(model, 2, torch.Generator()):
        one = count_macs_fvcore(model, {"pixel_values": torch.zeros(1, 3, 16, 16)})
    assert count_round(supernet, recipe, 0, [20] * 8)[0].macs == 3 * one * 20


def test_frozen_tables_are_not_sent():
    supernet = make_supernet("bert")
    recipe = replace(RECIPE, freeze_tables=True)
    for cost in count_round(supernet, recipe, 0, [20] * 8):
        tables = cost.parameters - cost.bytes_up // 4
        assert tables > 0
        assert cost.bytes_down == cost.bytes_up
    (_, config), *_ = plan_round(supernet, recipe, 0)
    model = supernet.extract(config)
    frozen = sum(model.get_parameter(p.name).numel() for p in supernet.parameters if p.table)
    assert count_round(supernet, recipe, 0, [20] * 8)[0].bytes_up == 4 * (
        sum(p.numel() for p in model.parameters()) - frozen
    )
