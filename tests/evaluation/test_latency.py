"""Latency of one model, measured."""

import time

import pytest
import torch
from conftest import FAMILY_NAMES, TEXT_FAMILIES, make_inputs, make_supernet

from raffm_utils.errors import ElasticSpaceError
from raffm_utils.evaluation import example_inputs, measure_latency_ms


class Sleeper(torch.nn.Module):
    """Takes a known time, and keeps what it was given."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms, self.calls, self.threads, self.inference = ms, 0, set(), set()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.threads.add(torch.get_num_threads())
        self.inference.add(torch.is_inference_mode_enabled())
        time.sleep((50 if self.calls == 1 else self.ms) / 1000)  # the first run is slow, as first runs are
        return pixel_values


def test_median_of_a_known_time_per_batch_and_per_example():
    model, before = Sleeper(10).eval(), torch.get_num_threads()
    found = measure_latency_ms(model, {"pixel_values": torch.zeros(4, 1)}, threads=2, seconds=0.3, batch_size=99)
    assert 10 <= found.low_ms <= found.per_batch_ms <= found.high_ms
    assert found.per_batch_ms < 30, "the slow first run is warm-up"
    assert found.per_example_ms == found.per_batch_ms / 4
    assert (found.batch_size, found.threads) == (4, 2)
    assert 3 <= found.runs <= 30
    assert (model.threads, model.inference) == ({2}, {True})
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_made_up_inputs_fit_every_family(kind):
    model = make_supernet(kind).model
    inputs = example_inputs(model, 3, 7)
    assert set(inputs) == set(make_inputs(kind))
    assert [len(tensor) for tensor in inputs.values()] == [3] * len(inputs)
    assert all(torch.equal(inputs[name], example_inputs(model, 3, 7)[name]) for name in inputs)
    found = measure_latency_ms(model, batch_size=2, tokens=5, seconds=0.01)
    assert found.batch_size == 2
    assert 0 < found.low_ms <= found.per_batch_ms <= found.high_ms


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_made_up_texts_have_no_padding_and_fit(kind):
    supernet = make_supernet(kind)
    most = supernet.family.positions(supernet.model.config)
    ids = example_inputs(supernet.model, 40, most)["input_ids"]
    assert ids.shape == (40, most)
    assert not (ids == supernet.model.config.pad_token_id).any()
    assert 0 <= ids.min() < ids.max() < supernet.model.config.vocab_size
    for tokens in (None, 0, most + 1):
        with pytest.raises(ElasticSpaceError, match=f"tokens={tokens}.* to {most} tokens"):
            example_inputs(supernet.model, 1, tokens)


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"threads": 0}])
def test_counts_start_at_1(changes):
    with pytest.raises(ElasticSpaceError, match="=0: give at least 1"):
        measure_latency_ms(make_supernet("vit").model, seconds=0.01, **changes)
