"""What happens at the clients and at the server: who trains what, and how the results are put together."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_supernet
from helpers.federated import EVEN_SPACE, LABELS, RECIPE, learnable_split, make_even_supernet, one_thread, task_of  # noqa: F401

from raffm_utils.errors import TrainingError
from raffm_utils.evaluation import evaluate
from raffm_utils.federated import (
    WEIGHTINGS,
    Recipe,
    Update,
    aggregate,
    device_caps,
    fewer_patches,
    fit,
    local_update,
    make_adam,
    partition,
    plan_round,
    rate_share,
    server_update,
)
from raffm_utils.federated.rounds import steps_of
from raffm_utils.federated.server import Asked, fault
from raffm_utils.space import DEVICE_CAPS, SYSTEM_SETTINGS, Axis, Parameter, SubmodelConfig, Use, near_share
from raffm_utils.supernet import PER_HEAD, Supernet

# --- aggregation ---

QUERY = Parameter("q", (Axis.ATTENTION, Axis.HIDDEN), Use.TOKEN, None, 0, (4, 2))  # two heads of two
OUTPUT = Parameter("o", (Axis.HIDDEN, Axis.ATTENTION), Use.TOKEN, None, 0, (2, 4))
INNER = Parameter("f", (Axis.FFN, Axis.HIDDEN), Use.TOKEN, None, 0, (3, 2))
CLASSIFIER = Parameter("c", (None, Axis.HIDDEN), Use.EXAMPLE, None, None, (1, 2))
WIDE, NARROW = SubmodelConfig(2, (4,), (3,)), SubmodelConfig(1, (2,), (2,))


def tensors(**values: object) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


OLD = tensors(
    q=[[10, 20], [30, 40], [50, 60], [70, 80]],
    o=[[1, 2, 3, 4], [5, 6, 7, 8]],
    f=[[100, 200], [300, 400], [500, 600]],
    c=[[7, 9]],
)
# the wide client adds 2 everywhere, except 4 in one entry that only it covers
FROM_WIDE = tensors(
    q=[[12, 22], [32, 42], [52, 62], [72, 84]],
    o=[[3, 4, 5, 6], [7, 8, 9, 10]],
    f=[[102, 202], [302, 402], [502, 602]],
    c=[[9, 11]],
)


def test_aggregate_per_head_equals_the_hand_computed_case():
    # the first half of each head: rows 0 and 2 of Q, columns 0 and 2 of O
    narrow = tensors(q=[[16], [58]], o=[[1, 6]], f=[[100], [310]], c=[[8]])
    updates = [Update(WIDE, FROM_WIDE, 5, 0.0), Update(NARROW, narrow, 50, 0.0)]
    change, coverage = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, updates)
    assert change["q"].tolist() == [[4, 2], [2, 2], [5, 2], [2, 4]]
    assert coverage["q"].tolist() == [[2, 1], [1, 1], [2, 1], [1, 1]]
    assert change["o"].tolist() == [[1, 2, 2.5, 2], [2, 2, 2, 2]]
    assert coverage["o"].tolist() == [[2, 1, 2, 1], [1, 1, 1, 1]]
    assert change["f"].tolist() == [[1, 2], [6, 2], [2, 2]]
    assert coverage["f"].tolist() == [[2, 1], [2, 1], [1, 1]]
    assert change["c"].tolist() == [[1.5, 2]]
    assert coverage["c"].tolist() == [[2, 1]]


def test_aggregate_contiguous_equals_the_hand_computed_case():
    # the first two rows of Q, the first two columns of O, whatever their head
    narrow = tensors(q=[[16], [38]], o=[[1, 5]], f=[[100], [310]], c=[[8]])
    updates = [Update(WIDE, FROM_WIDE, 5, 0.0), Update(NARROW, narrow, 50, 0.0)]
    change, coverage = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], None, updates)
    assert change["q"].tolist() == [[4, 2], [5, 2], [2, 2], [2, 4]]
    assert coverage["q"].tolist() == [[2, 1], [2, 1], [1, 1], [1, 1]]
    assert change["o"].tolist() == [[1, 2.5, 2, 2], [2, 2, 2, 2]]
    assert coverage["o"].tolist() == [[2, 2, 1, 1], [1, 1, 1, 1]]


def test_aggregate_leaves_what_no_client_covered():
    narrow = tensors(q=[[16], [58]], o=[[1, 6]], f=[[100], [310]], c=[[8]])
    before = {name: tensor.clone() for name, tensor in OLD.items()}
    change, coverage = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, [Update(NARROW, narrow, 1, 0.0)])
    assert change["q"].tolist() == [[6, 0], [0, 0], [8, 0], [0, 0]]
    assert coverage["q"].tolist() == [[1, 0], [0, 0], [1, 0], [0, 0]]
    assert change["o"].tolist() == [[0, 0, 3, 0], [0, 0, 0, 0]]
    assert change["f"].tolist() == [[0, 0], [10, 0], [0, 0]]
    assert change["c"].tolist() == [[1, 0]]
    assert all(torch.equal(OLD[name], before[name]) for name in OLD), "the server's state must stay as it was"


def test_aggregate_weighted_equals_the_hand_computed_case():
    narrow = tensors(q=[[16], [58]], o=[[1, 6]], f=[[100], [310]], c=[[8]])
    updates = [Update(WIDE, FROM_WIDE, 5, 0.0, weight=1.0), Update(NARROW, narrow, 5, 0.0, weight=3.0)]
    change, coverage = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, updates)
    assert change["q"].tolist() == [[5, 2], [2, 2], [6.5, 2], [2, 4]]  # (1 * 2 + 3 * 6) / 4 in the first entry
    assert coverage["q"].tolist() == [[4, 1], [1, 1], [4, 1], [1, 1]]
    assert change["c"].tolist() == [[1.25, 2]]


@pytest.mark.parametrize(("divide", "share"), [("coverage", 1.0), ("even_noise", 0.5)])
def test_what_few_clients_cover_moves_as_the_rule_says(divide: str, share: float):
    """The wide client has a quarter of the weight; what all cover moves alike under every rule."""
    narrow = tensors(q=[[16], [58]], o=[[1, 6]], f=[[100], [310]], c=[[8]])
    updates = [Update(WIDE, FROM_WIDE, 5, 0.0, weight=1.0), Update(NARROW, narrow, 5, 0.0, weight=3.0)]
    change, _ = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, updates, divide)
    assert change["q"].tolist() == [[5, 2 * share], [2 * share, 2 * share], [6.5, 2 * share], [2 * share, 4 * share]]
    with pytest.raises(TrainingError, match="divide='by luck'"):
        Recipe(divide="by luck")


def test_the_published_rule_takes_what_a_client_does_not_have_for_zero():
    """The hand-computed mean of the weights themselves, padded with zeros, over all clients."""
    narrow = tensors(q=[[16], [58]], o=[[1, 6]], f=[[100], [310]], c=[[8]])
    updates = [Update(WIDE, FROM_WIDE, 5, 0.0, weight=1.0), Update(NARROW, narrow, 5, 0.0, weight=3.0)]
    change, _ = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, updates, "all", 100.0)
    new = {name: OLD[name] + change[name] for name in OLD}
    assert new["q"].tolist() == [[(12 + 3 * 16) / 4, 22 / 4], [32 / 4, 42 / 4], [(52 + 3 * 58) / 4, 62 / 4], [18, 21]]
    assert new["o"].tolist() == [[(3 + 3 * 1) / 4, 1, (5 + 3 * 6) / 4, 1.5], [7 / 4, 8 / 4, 9 / 4, 10 / 4]]
    assert new["c"].tolist() == [[(9 + 3 * 8) / 4, 11 / 4]]
    change, coverage = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, updates[1:], "all")
    assert not any(change[name][coverage[name] == 0].any() for name in OLD), "what no client has stays"


def test_clients_without_weight_change_nothing():
    updates = [Update(WIDE, FROM_WIDE, 5, 0.0, weight=0.0)]
    change, coverage = aggregate(OLD, [QUERY, OUTPUT, INNER, CLASSIFIER], 2, updates)
    assert not any(tensor.any() for tensor in [*change.values(), *coverage.values()])


@pytest.mark.parametrize(("weighting", "weight"), [("clients", 1), ("impurity", 3)])
def test_how_much_a_client_counts(weighting: str, weight: float):
    assert WEIGHTINGS[weighting](torch.tensor([2.0, 6.0])) == weight  # 8 (1 - 0.0625 - 0.5625) = 3
    assert WEIGHTINGS["impurity"](torch.tensor([0.0, 7.0])) == 0
    with pytest.raises(TrainingError, match="weighting='loud'"):
        Recipe(weighting="loud")


def test_aggregate_undoes_extraction(kind_and_supernet: tuple[str, Supernet]):
    """A change of 1 in all that a submodel holds comes back as 1 where the submodel was cut, for every parameter."""
    _, supernet = kind_and_supernet
    state = {name: p.data for name, p in supernet.model.named_parameters()}
    config = supernet.space.sample(None, np.random.default_rng(5))
    trained = {name: p.data + 1 for name, p in supernet.extract(config, copy=True).named_parameters()}
    change, coverage = aggregate(state, supernet.parameters, supernet.slicing_heads, [Update(config, trained, 1, 0.0)])
    for name, tensor in coverage.items():
        assert int(tensor.sum()) == trained[name].numel()
        assert torch.allclose(change[name], tensor, atol=1e-5)
    for name, p in supernet.model.named_parameters():
        p.data += change[name]
    for name, p in supernet.extract(config).named_parameters():
        assert torch.allclose(p, trained[name], atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_blocks_that_a_client_does_not_have_stay_as_they_are(kind: str):
    """Against a dense computation: every update laid into zeros of full size, beside a mask of what it covers."""
    supernet = make_supernet(kind, slicing=PER_HEAD)
    state = {name: p.data for name, p in supernet.model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    full = supernet.full
    layers = len(full.ffn)
    gaps = [
        SubmodelConfig(full.hidden, (0, *full.attention[1:]), (*full.ffn[:-1], 0)),
        SubmodelConfig(full.hidden, (full.attention[0], *[0] * (layers - 1)), (full.ffn[0] // 2, *[0] * (layers - 1))),
        SubmodelConfig(full.hidden, full.attention, (0,) * layers),
    ]
    updates, covered = [], {name: torch.zeros(len(gaps), *tensor.shape) for name, tensor in state.items()}
    dense = {name: torch.zeros(len(gaps), *tensor.shape) for name, tensor in state.items()}
    for number, config in enumerate(gaps):
        sent = {}
        for p in supernet.parameters:
            block = config.attention if p.block is Axis.ATTENTION else config.ffn
            if p.layer is not None and p.block is not None and not block[p.layer]:
                continue
            rows = [slice(None)] * len(p.shape)
            if Axis.FFN in p.axes:
                rows[p.axes.index(Axis.FFN)] = slice(config.ffn[p.layer or 0])
            sent[p.name] = torch.randn(state[p.name][tuple(rows)].shape, generator=generator)
            dense[p.name][number][tuple(rows)] = 2.0**number * (sent[p.name] - state[p.name][tuple(rows)])
            covered[p.name][number][tuple(rows)] = 2.0**number
        updates.append(Update(config, sent, 1, 0.0, weight=2.0**number))
        assert fault(updates[-1], Asked(config, 2.0**number), supernet) is None
    change, coverage = aggregate(state, supernet.parameters, supernet.slicing_heads, updates)
    for name in state:
        assert torch.equal(coverage[name], covered[name].sum(0)), name
        expected = dense[name].sum(0) / covered[name].sum(0).clamp(min=1)
        assert torch.allclose(change[name], expected, atol=1e-5), name
    untouched = next(p.name for p in supernet.parameters if p.layer == layers - 1 and p.axes == (Axis.FFN, Axis.HIDDEN))
    assert not coverage[untouched].any()
    assert not change[untouched].any()


def test_an_update_without_a_block_that_was_sent_is_faulty_and_one_with_too_much_too():
    supernet = make_even_supernet()
    without = SubmodelConfig(48, (48, 0), (64, 64))
    whole = {name: p.detach().clone() for name, p in supernet.model.named_parameters()}
    part = {p.name: whole[p.name] for p in supernet.parameters if p.layer != 1 or p.block is not Axis.ATTENTION}
    assert fault(Update(without, part, 1, 0.0), Asked(without), supernet) is None
    assert "other parameters" in str(fault(Update(without, whole, 1, 0.0), Asked(without), supernet))
    assert "not what it was sent" in str(fault(Update(without, part, 1, 0.0), Asked(supernet.full), supernet))


# --- the server ---


def shifted(supernet: Supernet, config: SubmodelConfig, by: float) -> Update:
    return Update(
        config, {name: p.data + by for name, p in supernet.extract(config, copy=True).named_parameters()}, 1, 0.0
    )


def test_server_update_moves_covered_entries_with_momentum_and_no_others():
    supernet = make_even_supernet()
    weights = {name: p.data for name, p in supernet.model.named_parameters()}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    momentum = {name: torch.full_like(tensor, 0.25) for name, tensor in weights.items()}
    config = SubmodelConfig(36, (32, 24), (40, 64))  # layer 0: 8 of the 12 dimensions of every head
    recipe = replace(RECIPE, server_momentum=0.5)
    server_update(supernet, momentum, [shifted(supernet, config, 1.0)], recipe)
    # covered: momentum 0.5 * 0.25 + 1, added to the weight
    for name, rows, columns in (
        ("vit.layers.0.mlp.fc1.weight", torch.arange(64) < 40, torch.arange(48) < 36),
        ("vit.layers.1.mlp.fc1.weight", torch.arange(64) < 64, torch.arange(48) < 36),
        ("vit.layers.0.attention.q_proj.weight", torch.arange(48) % 12 < 8, torch.arange(48) < 36),
        ("vit.layers.1.attention.o_proj.weight", torch.arange(48) < 36, torch.arange(48) % 12 < 6),
        ("classifier.weight", torch.ones(5, dtype=torch.bool), torch.arange(48) < 36),
    ):
        covered = rows[:, None] & columns
        assert torch.allclose(momentum[name][covered], torch.tensor(1.125), atol=1e-5)
        assert torch.allclose(weights[name][covered], before[name][covered] + 1.125, atol=1e-5)
        assert torch.equal(weights[name][~covered], before[name][~covered])
        assert bool((momentum[name][~covered] == 0.25).all())
    server_update(supernet, momentum, [shifted(supernet, supernet.space.largest(), 0.0)], recipe)
    name = "classifier.weight"  # nothing new: all entries coast on half of their momentum
    assert torch.allclose(momentum[name][:, :36], torch.tensor(0.5625), atol=1e-5)
    assert torch.allclose(momentum[name][:, 36:], torch.tensor(0.125), atol=1e-5)
    assert torch.allclose(weights[name][:, 36:], before[name][:, 36:] + 0.125, atol=1e-5)


def test_a_round_with_little_to_say_says_little():
    """With unequal weights the sum of changes is held against an average round, where the recipe divides by all."""
    supernet = make_even_supernet()
    update = replace(shifted(supernet, supernet.space.largest(), 1.0), weight=3.0)
    weights = {name: p.data for name, p in supernet.model.named_parameters()}
    for divide, expected in (("coverage", 1.0), ("even_noise", 3 / (3 * 12) ** 0.5)):
        change, _ = aggregate(weights, supernet.parameters, supernet.slicing_heads, [update], divide, 12.0)
        for name, moved in change.items():
            assert torch.allclose(moved, torch.tensor(expected), atol=1e-5), name


# --- who has which data ---

MANY_LABELS = torch.arange(1000) % 10


@pytest.mark.parametrize("dirichlet", [None, 0.05, 1.0, 100.0])
def test_partition_is_disjoint_complete_and_leaves_no_client_empty(dirichlet: float | None):
    shards = partition(MANY_LABELS, 40, dirichlet, seed=3)
    assert len(shards) == 40
    assert min(len(shard) for shard in shards) >= 1
    assert sorted(torch.cat(shards).tolist()) == list(range(1000))
    again = partition(MANY_LABELS, 40, dirichlet, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(shards, again, strict=True))
    other = partition(MANY_LABELS, 40, dirichlet, seed=4)
    assert not all(torch.equal(a, b) for a, b in zip(shards, other, strict=True))


def test_partition_with_as_many_clients_as_examples_gives_one_to_each():
    for dirichlet in (None, 0.01, 10.0):
        shards = partition(MANY_LABELS[:30], 30, dirichlet, seed=0)
        assert [len(shard) for shard in shards] == [1] * 30


def test_partition_iid_shards_are_equal_and_shuffled():
    shards = partition(MANY_LABELS, 10, None, seed=0)
    assert [len(shard) for shard in shards] == [100] * 10
    assert all(shard.tolist() != sorted(shard.tolist()) for shard in shards)
    # every client sees about ten of each label; 25 would be five standard deviations away
    assert max(int(torch.bincount(MANY_LABELS[shard], minlength=10).max()) for shard in shards) < 25


def test_partition_is_more_skewed_for_a_smaller_concentration():
    def skew(dirichlet: float | None) -> float:
        """How much of a client's data its commonest label makes up, on average over the examples."""
        shards = partition(MANY_LABELS, 10, dirichlet, seed=1)
        return sum(int(torch.bincount(MANY_LABELS[shard]).max()) for shard in shards) / 1000

    assert skew(None) < 0.2
    assert skew(100.0) < 0.2 < skew(1.0) < 0.4 < skew(0.05)


@pytest.mark.parametrize("clients", [0, -1, 1001])
def test_partition_refuses_an_impossible_number_of_clients(clients: int):
    with pytest.raises(TrainingError, match=rf"{clients} clients for 1000 examples"):
        partition(MANY_LABELS, clients, None, seed=0)


@pytest.mark.parametrize("dirichlet", [0.0, -1.0, float("nan"), float("inf")])
def test_partition_refuses_an_impossible_concentration(dirichlet: float):
    with pytest.raises(TrainingError, match="dirichlet="):
        partition(MANY_LABELS, 10, dirichlet, seed=0)


# --- who has which device ---

SHARES = {
    "xsmall": {"Raspberry Pi 4": 80, "Raspberry Pi 5": 20},
    "small": {"Raspberry Pi 4": 40, "Raspberry Pi 5": 40, "Dell XPS 15": 20},
    "medium": {"Raspberry Pi 5": 30, "Dell XPS 15": 40, "Jetson AGX Orin": 30},
    "large": {"Dell XPS 15": 20, "Jetson AGX Orin": 40, "V100": 40},
    "xlarge": {"Jetson AGX Orin": 10, "V100": 90},
    # ours; all before it are the published ones
    "large-and-small": {"Camera": 25, "Phone of 2015": 25, "Raspberry Pi 4": 25, "V100": 25},
}


@pytest.mark.parametrize("setting", SHARES)
def test_device_shares_are_those_of_the_setting(setting: str):
    caps = device_caps(setting, 100)
    counts = {device: int((caps == cap).sum()) for device, cap in DEVICE_CAPS.items()}
    assert {device: count for device, count in counts.items() if count} == SHARES[setting]
    for clients in (1, 3, 7, 33, 1000):
        assert len(device_caps(setting, clients)) == clients


def test_all_system_settings_are_tested_and_stronger_devices_may_train_more():
    assert set(SYSTEM_SETTINGS) == set(SHARES)
    assert list(DEVICE_CAPS.values()) == sorted(DEVICE_CAPS.values())
    assert DEVICE_CAPS["V100"] == 1.0


def test_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(TrainingError, match=r"'huge'.*xsmall, small, medium, large, xlarge"):
        device_caps("huge", 10)


# --- who trains what ---

FINE_SPACE = {
    "residual_hidden_space": list(range(48, 11, -2)),
    "atten_out_space": list(range(48, 7, -4)),
    "inter_hidden_space": list(range(64, 7, -2)),
}
PLAN = Recipe(clients=100, participants=10)


@pytest.fixture(scope="module")
def fine() -> Supernet:
    """From about a tenth of the full network on."""
    return make_supernet(slicing=PER_HEAD, space=FINE_SPACE)


@pytest.fixture(scope="module")
def coarse() -> Supernet:
    """Its smallest submodel is above the cap of the weakest device, and there are gaps between sizes."""
    return make_supernet(slicing=PER_HEAD, space={**EVEN_SPACE, "residual_hidden_space": [48, 40]})


def shares(supernet: Supernet, recipe: Recipe, number: int) -> list[tuple[float, float]]:
    """Size of each participant's network, and cap of its device, as shares of the full network."""
    most = supernet.space.reach("parameters")[1]
    caps = device_caps(recipe.setting, recipe.clients)
    return [
        (supernet.cost(config).parameters / most, caps[client])
        for client, config in plan_round(supernet, recipe, number)
    ]


@pytest.mark.parametrize("setting", SYSTEM_SETTINGS)
@pytest.mark.parametrize("which", ["fine", "coarse"])
def test_nobody_gets_a_network_above_the_cap_of_the_device(request, setting: str, which: str):
    supernet: Supernet = request.getfixturevalue(which)
    smallest = supernet.space.smallest()
    caps = device_caps(setting, 100)
    below = 0
    for number in range(6):
        plan = plan_round(supernet, replace(PLAN, setting=setting), number)
        assert len({client for client, _ in plan}) == len(plan) == 10
        for client, config in plan:
            assert config in supernet.space
            share = supernet.cost(config).parameters / supernet.space.reach("parameters")[1]
            below += share > caps[client]
            assert share <= caps[client] or config == smallest
    small = ("large-and-small",) if which == "fine" else ("xsmall", "small", "large-and-small")
    assert bool(below) == (setting in small)


def test_the_draws_of_a_second_part_go_on_where_those_of_the_first_ended(fine: Supernet):
    assert plan_round(fine, replace(PLAN, first_round=5), 2) == plan_round(fine, PLAN, 7) != plan_round(fine, PLAN, 2)
    with pytest.raises(TrainingError, match="first_round=-1"):
        replace(PLAN, first_round=-1)


@pytest.mark.parametrize("setting", SYSTEM_SETTINGS)
def test_one_takes_the_largest_there_is_room_for_and_one_the_smallest(fine: Supernet, setting: str):
    recipe = replace(PLAN, setting=setting)
    for number in range(6):
        plan, sizes = plan_round(fine, recipe, number), shares(fine, recipe, number)
        strongest = max(cap for _, cap in sizes)
        assert sizes[0][1] == strongest
        assert strongest - 0.02 <= sizes[0][0] <= strongest
        assert plan[-1][1] == fine.space.smallest()
        if strongest == 1.0:
            assert plan[0][1] == fine.space.largest()


@pytest.mark.parametrize("setting", ["xsmall", "small"])
def test_the_full_participant_trains_the_whole_network_whatever_its_device(fine: Supernet, setting: str):
    recipe = replace(PLAN, setting=setting, full_participant=True)
    for number in range(3):
        (_, first), *others = plan_round(fine, recipe, number)
        assert first == fine.space.largest()
        caps = device_caps(setting, 100)
        most = fine.space.reach("parameters")[1]
        assert all(fine.cost(config).parameters <= caps[client] * most for client, config in others)


def test_a_text_network_can_be_sized_by_its_macs():
    """Its look-up tables would count as parameters that no device has room for."""
    supernet = make_supernet("bert", space=FINE_SPACE)  # it takes 24 tokens, fewer than sizes are compared at
    recipe = replace(PLAN, setting="small", sized_by="macs")
    most = supernet.cost(supernet.full, 24).macs
    caps = device_caps("small", 100)
    for client, config in plan_round(supernet, recipe, 0)[:-1]:
        assert supernet.cost(config, 24).macs <= caps[client] * most


def test_one_participant_is_strong_and_the_others_are_not(fine: Supernet):
    recipe = replace(PLAN, setting="large-and-small", participants=3, one_strong=True, sizes="cap")
    strong, weak = [], []
    for number in range(40):
        (first, *others), clients = shares(fine, recipe, number), plan_round(fine, recipe, number)
        assert first == (1.0, 1.0)
        assert len({client for client, _ in clients}) == 3
        strong.append(clients[0][0])
        weak += [cap for _, cap in others]
    assert len(set(strong)) > 10, "not always the same"
    assert set(weak) == {0.05, 0.1, 0.4}
    assert min(weak.count(cap) for cap in set(weak)) > 15, "as often as there are devices of a class"
    alone = replace(recipe, setting="xlarge", participants=20)
    assert len(plan_round(fine, alone, 0)) == 20, "where there are not enough weaker devices, all may be strong"


def test_sizes_may_be_those_of_the_devices_or_spread_over_the_logarithm(fine: Supernet):
    recipe = replace(PLAN, setting="xlarge", participants=8)
    least = fine.space.reach("parameters")[0] / fine.space.reach("parameters")[1]
    found = {}
    for sizes in ("cap", "log"):
        plans = [shares(fine, replace(recipe, sizes=sizes), number) for number in range(20)]
        assert all(plan[0][0] == 1.0 for plan in plans), "the strongest has the largest"
        assert all(size <= cap for plan in plans for size, cap in plan)
        found[sizes] = [(size, cap) for plan in plans for size, cap in plan[1:]]
    assert all(size > cap - 0.03 for size, cap in found["cap"])
    counts = np.histogram(np.log([size for size, _ in found["log"]]), bins=4, range=(np.log(least), 0.0))[0]
    assert counts.sum() == 140
    assert counts.min() >= 20
    with pytest.raises(TrainingError, match=r"sizes='big'.*spread, log, cap"):
        replace(PLAN, sizes="big")


def test_a_smaller_network_takes_as_many_more_steps_as_cost_the_same(fine: Supernet):
    recipe = replace(PLAN, local_steps=8, more_steps=4.0)
    largest, smallest = fine.space.largest(), fine.space.smallest()
    half = near_share(fine.space, 0.5, np.random.default_rng(0), "macs")
    assert steps_of(fine, recipe, largest) == 8
    assert steps_of(fine, recipe, half) == 8 * fine.cost(largest, 32).macs // fine.cost(half, 32).macs == 16
    assert steps_of(fine, recipe, smallest) == 32, "ten times would be possible"
    assert steps_of(fine, replace(recipe, more_steps=1.0), smallest) == 8
    assert steps_of(fine, PLAN, smallest) is None
    for wrong in ({"more_steps": 2.0}, {"more_steps": 0.5, "local_steps": 3}):
        with pytest.raises(TrainingError, match="more_steps="):
            replace(PLAN, **wrong)


def test_without_submodels_all_train_the_whole_network_and_the_same_clients_take_part(fine: Supernet):
    whole, scaled = (plan_round(fine, replace(PLAN, setting="small", submodels=on), 5) for on in (False, True))
    assert {config for _, config in whole} == {fine.space.largest()}
    assert sorted(client for client, _ in whole) == sorted(client for client, _ in scaled)


def test_an_unknown_size_is_refused():
    with pytest.raises(TrainingError, match="sized_by='weight'"):
        replace(PLAN, sized_by="weight")


def test_the_others_spread_over_all_their_device_can_train(fine: Supernet):
    recipe = replace(PLAN, setting="xlarge")
    middle = [size for number in range(20) for size, _ in shares(fine, recipe, number)[1:-1]]
    least = fine.space.reach("parameters")[0] / fine.space.reach("parameters")[1]
    counts = np.histogram(middle, bins=4, range=(least, 1.0))[0]
    assert counts.sum() == 160
    assert counts.min() >= 20, "drawn evenly over the sizes, not over the submodels"


def test_a_size_power_draws_more_small_networks_from_the_same_devices(fine: Supernet):
    even, bent = (replace(PLAN, setting="xlarge", size_power=power) for power in (1.0, 4.0))
    least = fine.space.reach("parameters")[0] / fine.space.reach("parameters")[1]
    middle = []
    for number in range(20):
        before, after = plan_round(fine, even, number), plan_round(fine, bent, number)
        assert [client for client, _ in before] == [client for client, _ in after]
        assert (before[0], before[-1]) == (after[0], after[-1]), "the two ends stay"
        middle += [size for size, _ in shares(fine, bent, number)[1:-1]]
    quarter = np.mean(np.array(middle) < least + 0.25 * (1 - least))
    assert 0.6 < quarter < 0.85, "0.25 ** (1 / 4) = 71 % of the sizes are in the lowest quarter"


def test_a_size_power_must_be_positive():
    with pytest.raises(TrainingError, match=r"size_power=0.*positive"):
        replace(PLAN, size_power=0)


def test_plans_depend_on_seed_and_round_alone(fine: Supernet):
    plan = plan_round(fine, PLAN, 3)
    assert plan == plan_round(fine, PLAN, 3)
    assert plan != plan_round(fine, PLAN, 4)
    assert plan != plan_round(fine, replace(PLAN, seed=1), 3)


def test_few_clients_all_take_part(fine: Supernet):
    plan = plan_round(fine, replace(PLAN, clients=3, participants=10), 0)
    assert sorted(client for client, _ in plan) == [0, 1, 2]
    alone = plan_round(fine, replace(PLAN, setting="xlarge", clients=1, participants=1), 0)
    assert [config for _, config in alone] == [fine.space.largest()]


# --- a client ---


def train_locally(
    supernet: Supernet, recipe: Recipe, seed: tuple[int, ...] = (0, 1, 2), examples: int = 160, **more: Any
):
    config = SubmodelConfig(36, (40, 24), (48, 64))
    own, data = supernet.narrowed(config), learnable_split(examples, 1)
    before = evaluate(own.model, data).loss
    update = local_update(own, task_of(supernet, config, recipe.learning_rate, seed, **more), data, recipe)
    return before, evaluate(own.model, data).loss, update


def test_local_update_learns_and_leaves_the_supernet_alone():
    supernet = make_even_supernet()
    before = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    loss, trained_loss, update = train_locally(supernet, replace(RECIPE, local_epochs=3))
    assert trained_loss < 0.7 * loss
    assert update.examples == 160
    assert update.config == SubmodelConfig(36, (40, 24), (48, 64))
    assert trained_loss < update.loss < loss  # the mean over the way
    for name, p in supernet.model.named_parameters():
        assert torch.equal(p.data, before[name])
        assert not p.requires_grad
    for name, p in supernet.extract(update.config).named_parameters():
        assert update.state[name].shape == p.shape
        assert not torch.equal(update.state[name], p), f"{name} was not trained"
        assert not update.state[name].requires_grad


def test_local_update_is_deterministic():
    supernet = make_even_supernet()
    (_, _, first), (_, _, again) = (train_locally(supernet, RECIPE) for _ in range(2))
    _, _, other = train_locally(supernet, RECIPE, seed=(0, 1, 3))
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert first.loss == again.loss
    assert not all(torch.equal(first.state[name], other.state[name]) for name in first.state)


def test_local_warmup_starts_with_small_steps():
    """One batch is one step, at a fifth of the learning rate; Adam's first step has the size of that rate."""
    supernet = make_even_supernet()
    start = dict(supernet.extract(SubmodelConfig(36, (40, 24), (48, 64))).named_parameters())
    for warmup, expected in ((5, 0.2), (1, 1.0), (0, 1.0)):
        recipe = replace(RECIPE, local_warmup_steps=warmup, weight_decay=0.0, autocast=False)
        _, _, update = train_locally(supernet, recipe, examples=16)
        moved = max(float((update.state[name] - start[name]).abs().max()) for name in start)
        assert moved == pytest.approx(expected * recipe.learning_rate, rel=0.02)


class Shares(torch.nn.Module):
    """Knows nothing of its input: all that it can learn is how often labels occur."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(len(LABELS)))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.bias.expand(len(pixel_values), -1))


def test_balanced_labels_do_not_teach_the_skew():
    data = learnable_split(400, 1)  # the labels in turn
    skewed = data.subset([*range(2, 400, 5), *range(0, 100, 5)])  # 80 of label 2, 20 of label 0
    for balance, expected in ((False, [0.2, 0.0, 0.8, 0.0, 0.0]), (True, [0.5, 0.0, 0.5, 0.0, 0.0])):
        model = Shares()
        recipe = replace(RECIPE, balance_labels=balance, local_epochs=40, weight_decay=0.0)
        fit(model, skewed, recipe, make_adam(model, recipe, 0.05), torch.Generator())
        learnt = model.bias.detach().softmax(0)
        assert torch.allclose(learnt, torch.tensor(expected), atol=0.06), learnt


class Counting(Shares):
    """Notes which images it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.seen += pixel_values.flatten(1)
        return super().forward(pixel_values)


def test_local_steps_limit_an_epoch_to_new_draws_of_the_data():
    data, model = learnable_split(160, 1), Counting()
    recipe = replace(RECIPE, local_steps=3, local_epochs=2, horizontal_flip=False)
    fit(model, data, recipe, make_adam(model, recipe, 0.05), torch.Generator())
    assert len(model.seen) == 2 * 3 * RECIPE.batch_size
    first, second = (torch.stack(model.seen[start : start + 48]) for start in (0, 48))
    assert len(first.unique(dim=0)) == 48, "no example twice in an epoch"
    assert not torch.equal(first, second)
    more, again = Counting(), replace(recipe, more_steps=5.0, local_epochs=1)
    fit(more, data, again, make_adam(more, again, 0.05), torch.Generator(), steps=15)
    rounds = torch.stack(more.seen)
    assert len(rounds) == 15 * RECIPE.batch_size == 240
    assert len(rounds[:160].unique(dim=0)) == 160, "all data before any is used again"
    assert not torch.equal(rounds[:80], rounds[160:]), "in a new order"
    assert train_locally(make_even_supernet(), recipe)[2].examples == 160, "a client counts by all that it has"


# --- how fast a parameter learns, and on how much of an image ---


def test_small_matrices_learn_slower_in_proportion():
    model = make_even_supernet().extract(SubmodelConfig(48, (48, 48), (64, 64)), copy=True)
    layer = model.vit.layers[0]
    with torch.no_grad():
        layer.mlp.fc2.weight.fill_(0.005)
        layer.mlp.fc1.weight.fill_(0.5)
        layer.mlp.fc1.bias.zero_()
    for name, share in (("fc2.weight", 0.1), ("fc2.bias", 0.1), ("fc1.weight", 1.0), ("fc1.bias", 1.0)):
        assert rate_share(model, f"vit.layers.0.mlp.{name}", 0.05) == pytest.approx(share), name
        assert rate_share(model, f"vit.layers.0.mlp.{name}", None) == 1.0
    with torch.no_grad():
        model.vit.embeddings.cls_token.fill_(0.025)
    assert rate_share(model, "vit.embeddings.cls_token", 0.05) == pytest.approx(0.5)
    with pytest.raises(TrainingError, match="full_rate_rms=0"):
        Recipe(full_rate_rms=0)


def test_a_small_matrix_takes_small_steps_in_training():
    supernet = make_even_supernet()
    moved = {}
    for rms in (None, 1e3):
        config = supernet.space.largest()
        before = {name: p.detach().clone() for name, p in supernet.model.named_parameters()}
        recipe = replace(RECIPE, full_rate_rms=rms, weight_decay=0.0)
        update = local_update(
            supernet.narrowed(config), task_of(supernet, config, 1e-3, (0,)), learnable_split(64, 1), recipe
        )
        moved[rms] = {name: float((update.state[name] - before[name]).abs().max()) for name in before}
    name = "vit.layers.1.mlp.fc2.weight"
    assert 0 < moved[1e3][name] < 1e-3 * moved[None][name]


def test_fewer_patches_keep_the_class_token_and_that_share_of_the_rest():
    model = make_even_supernet().extract(make_even_supernet().space.largest())
    images = torch.rand(3, 3, 16, 16)
    whole = model.vit.embeddings(images)
    generator = torch.Generator().manual_seed(1)
    with fewer_patches(model, (whole.shape[1] - 1) // 2, generator):
        part, again = model.vit.embeddings(images), model.vit.embeddings(images)
    assert part.shape[1] == 1 + (whole.shape[1] - 1) // 2
    for image in range(3):
        assert torch.equal(part[image, 0], whole[image, 0])
        kept = [int((whole[image] == token).all(1).nonzero()[0, 0]) for token in part[image]]
        assert len(set(kept)) == len(kept), "no patch twice"
    assert not torch.equal(part, again), "drawn anew"
    assert torch.equal(model.vit.embeddings(images), whole), "and all of them afterwards"
    with fewer_patches(model, None, generator):
        assert torch.equal(model.vit.embeddings(images), whole)
    with pytest.raises(TrainingError, match="patch_share=0"):
        Recipe(patch_share=0)


def test_training_on_fewer_patches_repeats_bit_for_bit():
    first, second, other = (train_locally(make_even_supernet(), RECIPE, (seed,), patches=2)[2] for seed in (1, 1, 2))
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    assert not all(torch.equal(first.state[name], other.state[name]) for name in first.state)
