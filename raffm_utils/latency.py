"""How long a model takes on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer
from transformers import PreTrainedModel

from .errors import ElasticSpaceError
from .families import FAMILIES


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass.

    `per_batch_ms` is the median over `runs` timed blocks, `low_ms` and `high_ms` are the quartiles;
    `per_example_ms` is the median divided by `batch_size`: throughput, which no single example may see.
    """

    per_batch_ms: float
    per_example_ms: float
    low_ms: float
    high_ms: float
    batch_size: int
    threads: int
    runs: int


def measure_latency_ms(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor] | None = None,
    *,
    batch_size: int = 1,
    threads: int = 1,
    tokens: int | None = None,
    seconds: float = 1.0,
) -> Latency:
    """Time a model in inference mode on `threads` threads for about `seconds`, after warming up.

    Without `inputs`, made-up ones are used: `batch_size` images, or texts of `tokens` tokens each, without
    padding. With `inputs`, their own batch size counts. Uses `torch.utils.benchmark`, which repeats short runs in
    blocks until its clock is precise.
    """
    inputs = example_inputs(model, batch_size, tokens) if inputs is None else inputs
    batch_size = len(next(iter(inputs.values())))
    times = timed_ms(model, inputs, threads, seconds)
    low, median, high = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    return Latency(
        float(median), float(median) / batch_size, float(low), float(high), batch_size, threads, runs=len(times)
    )


def timed_ms(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], threads: int, seconds: float) -> list[float]:
    """Milliseconds of one forward pass in every timed block; at least one."""
    timer = Timer(
        "run()",
        globals={"run": torch.inference_mode()(lambda: model(**inputs))},
        num_threads=_at_least_1(threads=threads),
    )
    return [1000 * time for time in timer.blocked_autorange(min_run_time=seconds).times]


def example_inputs(model: PreTrainedModel, batch_size: int, tokens: int | None) -> dict[str, torch.Tensor]:
    """Random inputs of the right shape; texts fill `tokens` tokens and hold no padding."""
    _at_least_1(batch_size=batch_size)
    config: Any = model.config
    family, generator = FAMILIES[config.model_type], torch.Generator().manual_seed(0)
    if family.is_image:
        size = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        pixels = torch.randn(batch_size, config.num_channels, *size, generator=generator)
        return {"pixel_values": pixels.to(model.device, model.dtype)}
    if tokens is None or not 0 < tokens <= family.positions(config):
        raise ElasticSpaceError(f"tokens={tokens}: a text model is timed at 1 to {family.positions(config)} tokens")
    ids = torch.randint(config.vocab_size - 1, (batch_size, tokens), generator=generator)
    ids += ids >= (config.pad_token_id or 0)  # any token but the padding
    ids = ids.to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _at_least_1(**values: int) -> int:
    ((name, value),) = values.items()
    if value < 1:
        raise ElasticSpaceError(f"{name}={value}: give at least 1")
    return value
