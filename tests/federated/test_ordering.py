"""The change of basis before training: nothing changes at full width, and narrowing costs less."""

import pytest
import torch
from conftest import FAMILY_NAMES, make_split, make_supernet
from helpers.federated import EVEN_SPACE, learnable_split, make_even_supernet, one_thread  # noqa: F401

from raffm_utils.data import Split
from raffm_utils.errors import CheckpointError
from raffm_utils.federated import concentrate
from raffm_utils.federated.ordering import _head_linears
from raffm_utils.space import Axis, SubmodelConfig
from raffm_utils.supernet import Supernet

LAYERS, HEADS, HEAD_SIZE = 2, 4, 12


@pytest.fixture(scope="module")
def data() -> Split:
    return learnable_split(150, 4)


@torch.no_grad()
def logits(supernet: Supernet, data: Split, config: SubmodelConfig | None = None) -> torch.Tensor:
    inputs, _ = next(iter(data.batches(len(data))))
    return supernet.extract(config or supernet.full)(**inputs).logits


def inputs_of(supernet: Supernet, data: Split, name: str, *, output: bool = False) -> torch.Tensor:
    """What a module takes in (or puts out), one row per token."""
    found: list[torch.Tensor] = []
    module = supernet.model.get_submodule(name)
    handle = module.register_forward_hook(lambda m, x, y: found.append(y if output else x[0]))
    inputs, _ = next(iter(data.batches(len(data))))
    with torch.no_grad():
        supernet.model(**inputs)
    handle.remove()
    return found[0].flatten(0, -2)


def assert_falling(values: torch.Tensor) -> None:
    """Along the last dimension, up to rounding."""
    assert bool((values[..., 1:] <= values[..., :-1] * (1 + 1e-3) + 1e-4 * values.max()).all()), values


@pytest.mark.parametrize("seed", range(3))
def test_the_full_network_computes_what_it_did(data, seed: int):
    supernet = make_even_supernet(seed)  # norms and biases are random here
    before = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    expected = logits(supernet, data)
    concentrate(supernet, data)
    got = logits(supernet, data)
    assert float((got - expected).norm() / expected.norm()) < 1e-4
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-4
    moved = {name for name, p in supernet.model.named_parameters() if not torch.allclose(p.data, before[name])}
    assert moved == set(before), "everything takes part in the change of basis"
    assert not any(p.requires_grad for p in supernet.model.parameters())


def test_the_full_network_computes_what_it_did_on_other_data_and_when_rotated_twice(data):
    supernet, other = make_even_supernet(), learnable_split(60, 11)
    expected = logits(supernet, other)
    for _ in range(2):
        concentrate(supernet, data)
        assert float((logits(supernet, other) - expected).norm() / expected.norm()) < 1e-4


def test_layers_of_different_choices_and_one_head_work(data):
    for supernet in (make_supernet(), make_even_supernet(num_attention_heads=1)):
        expected = logits(supernet, data)
        concentrate(supernet, data)
        assert float((logits(supernet, data) - expected).norm() / expected.norm()) < 1e-4


def test_every_axis_is_sorted_from_strong_to_weak(data):
    supernet = make_even_supernet()
    concentrate(supernet, data)
    for layer in range(LAYERS):
        prefix = f"vit.layers.{layer}"
        output = supernet.model.get_submodule(f"{prefix}.attention.o_proj").weight
        assert_falling(output.norm(dim=0).unflatten(0, (HEADS, HEAD_SIZE)))
        for name in ("q_proj", "k_proj", "v_proj"):
            module = supernet.model.get_submodule(f"{prefix}.attention.{name}")
            # second moments of what it puts out, where a constant input of 1 carries the bias on its own
            rows = inputs_of(supernet, data, f"{prefix}.attention.{name}")
            scale = (rows.square().sum(0) / len(data)).mean().rsqrt()
            energy = (scale * (rows @ module.weight.T)).square().sum(0) / len(data) + module.bias.square()
            assert_falling(energy.unflatten(0, (HEADS, HEAD_SIZE)))
        hidden = inputs_of(supernet, data, f"{prefix}.mlp.fc2")
        weight = supernet.model.get_submodule(f"{prefix}.mlp.fc2").weight
        # not measured again after the rotation: a rotation changes neither activity nor norm, the mean's removal little
        assert_falling(hidden.square().sum(0).sqrt() * weight.norm(dim=0))


def test_the_first_channels_carry_the_principal_variance(data):
    """The best any choice of channels could do is the sum of the largest eigenvalues."""
    supernet = make_even_supernet()
    names = [f"vit.layers.{i}.layernorm_{where}" for i in range(LAYERS) for where in ("before", "after")]

    def moment() -> torch.Tensor:
        rows = torch.cat([inputs_of(supernet, data, name, output=True) for name in [*names, "vit.layernorm"]])
        return rows.T @ rows

    before = moment().diagonal()
    concentrate(supernet, data)
    after = moment()
    best = torch.linalg.eigvalsh(after).flip(0)
    for width in (12, 24, 36):
        share = after.diagonal()[:width].sum() / after.trace()
        assert share > before[:width].sum() / before.sum() + 0.1
        assert share > 0.9 * best[:width].sum() / best.sum()


def test_a_planted_rank_in_v_and_o_survives_narrowing(data):
    """With V O of rank 2 in every head, and attention weights that are equal, two dimensions a head are enough."""
    supernet, generator = make_even_supernet(), torch.Generator().manual_seed(8)
    for layer in range(LAYERS):
        attention = supernet.model.get_submodule(f"vit.layers.{layer}.attention")
        for module in (attention.q_proj, attention.k_proj):
            module.weight.zero_(), module.bias.zero_()
        weight = attention.v_proj.weight.view(HEADS, HEAD_SIZE, -1)
        mix = torch.randn(HEADS, HEAD_SIZE, 2, generator=generator)
        weight.copy_(mix @ torch.randn(HEADS, 2, weight.shape[-1], generator=generator) * 0.1)
    narrow = SubmodelConfig(48, (2 * HEADS,) * LAYERS, (64,) * LAYERS)
    expected, before = logits(supernet, data), logits(supernet, data, narrow)
    assert float((before - expected).norm() / expected.norm()) > 0.05
    concentrate(supernet, data)
    assert float((logits(supernet, data, narrow) - expected).norm() / expected.norm()) < 1e-4


def test_idle_neurons_come_last(data):
    supernet, generator = make_even_supernet(), torch.Generator().manual_seed(8)
    for layer in range(LAYERS):
        idle = torch.randperm(64, generator=generator)[:40]
        supernet.model.get_submodule(f"vit.layers.{layer}.mlp.fc2").weight[:, idle] = 0
    narrow = SubmodelConfig(48, (48,) * LAYERS, (24,) * LAYERS)
    expected, before = logits(supernet, data), logits(supernet, data, narrow)
    assert float((before - expected).norm() / expected.norm()) > 0.05
    concentrate(supernet, data)
    assert float((logits(supernet, data, narrow) - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_low_rank_stream_makes_narrowing_less_harmful(data, seed: int):
    """All that writes to the residual stream stays in 12 of its 48 directions, none of which is a channel."""
    supernet = make_even_supernet(seed)
    basis = torch.linalg.qr(torch.randn(48, 12, generator=torch.Generator().manual_seed(8)))[0]
    projection = basis @ basis.T
    writers = {"cls_token": 2, "position_embeddings": 2, "projection.weight": 0, "projection.bias": 0}
    writers |= {"o_proj.weight": 0, "o_proj.bias": 0, "fc2.weight": 0, "fc2.bias": 0}
    for name, p in supernet.model.named_parameters():
        for end, dim in writers.items():
            if name.endswith(end):
                p.copy_(torch.tensordot(projection, p, dims=([1], [dim])).movedim(0, dim))
    narrow = SubmodelConfig(24, (48,) * LAYERS, (64,) * LAYERS)
    expected = logits(supernet, data)

    def agreement() -> float:
        """Correlation of logits, which does not see that norms over fewer channels scale differently."""
        got = logits(supernet, data, narrow)
        centred = [part - part.mean(0) for part in (got, expected)]
        return float(torch.nn.functional.cosine_similarity(*(part.flatten() for part in centred), dim=0))

    before = agreement()
    concentrate(supernet, data)
    assert agreement() > before + 0.2


def assert_refused(supernet: Supernet, match: str) -> None:
    before = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    with pytest.raises(CheckpointError, match=match):
        concentrate(supernet, learnable_split(10, 0))
    assert all(torch.equal(p.data, before[name]) for name, p in supernet.model.named_parameters())


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_NAMES if kind != "vit"])
def test_norms_after_the_blocks_leave_the_full_network_as_it_was(kind: str):
    supernet, data = make_supernet(kind), make_split(kind)
    before = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    expected = logits(supernet, data)
    concentrate(supernet, data)
    got = logits(supernet, data)
    assert float((got - expected).norm() / expected.norm()) < 1e-4
    moved = {name for name, p in supernet.model.named_parameters() if not torch.equal(p.data, before[name])}
    assert moved
    for layer in range(supernet.layers):
        output = supernet.model.get_submodule(_head_linears(supernet, layer)[-1]).weight
        assert_falling(output.norm(dim=0).unflatten(0, (supernet.heads, -1)))


def test_sorting_channels_makes_narrowing_less_harmful_where_norms_stand_after_the_blocks():
    """Half of the channels are planted to carry little, and are read little."""
    supernet, data = make_supernet("bert", space=EVEN_SPACE), make_split("bert", examples=60)
    weak = torch.randperm(48, generator=torch.Generator().manual_seed(4))[:24]
    for p, tensor in zip(supernet.parameters, supernet.model.parameters(), strict=True):
        for dim, axis in enumerate(p.axes):
            if axis is Axis.HIDDEN:
                tensor.data.index_copy_(dim, weak, 0.05 * tensor.data.index_select(dim, weak))
    narrow = SubmodelConfig(24, (48,) * 3, (64,) * 3)
    expected = logits(supernet, data)
    before = float((logits(supernet, data, narrow) - expected).norm())
    concentrate(supernet, data)
    assert float((logits(supernet, data, narrow) - expected).norm()) < 0.5 * before


def test_layers_without_biases_are_refused():
    assert_refused(make_even_supernet(qkv_bias=False), r"layers\.0\.attention\.q_proj has no bias.*magnitude_scores")
