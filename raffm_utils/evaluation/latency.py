"""Latency of models on this machine."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.benchmark import Timer
from transformers import PreTrainedModel

from ..errors import ElasticSpaceError, RaffmError, whole_number
from ..files import cache_folder
from ..space import AffineLatency, ElasticSpace, Rng, SubmodelConfig, Timed, generator, spread_over_size
from ..supernet import Supernet
from ..writing import write_atomically
from .answers import in_eval_mode
from .example_inputs import example_inputs


@dataclass(frozen=True)
class MeasuredLatency:
    """Milliseconds of one forward pass.

    `per_batch_ms` is the median over `runs` timed blocks, `low_ms` and `high_ms` are the quartiles;
    `per_example_ms` is the median divided by `batch_size`: a measure of throughput, not of waiting time.
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
) -> MeasuredLatency:
    """Time a model in inference mode on `threads` threads for about `seconds`, after warming up.

    Without `inputs`, made-up ones are used: `batch_size` images, or texts of `tokens` tokens each, without
    padding. With `inputs`, their own batch size counts. Uses `torch.utils.benchmark`, which repeats short runs in
    blocks until its clock is precise.
    """
    inputs = example_inputs(model, batch_size, tokens) if inputs is None else inputs
    batch_size = len(next(iter(inputs.values())))
    times = timed_ms(model, inputs, threads, seconds)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    return MeasuredLatency(
        float(median), float(median) / batch_size, float(low), float(high), batch_size, threads, runs=len(times)
    )


def timed_ms(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], threads: int, seconds: float) -> list[float]:
    """Milliseconds of one forward pass in eval mode in every timed block; at least one."""
    model = in_eval_mode(model)
    timer = Timer(
        "run()",
        globals={"run": torch.inference_mode()(lambda: model(**inputs))},
        num_threads=whole_number(ElasticSpaceError, 1, threads=threads),
    )
    return [1000 * time for time in timer.blocked_autorange(min_run_time=seconds).times]


Pairs = list[tuple[SubmodelConfig, float]]


def _cache_path(supernet: Supernet, settings: Mapping[str, Any]) -> Path:
    """The file of these weights and settings on this machine with these libraries."""
    key = {
        "machine": [platform.node(), platform.machine(), processor_name(), os.cpu_count()],
        "libraries": [torch.__version__, transformers.__version__],
        "device": str(supernet.model.device),
        "attention": getattr(supernet.model.config, "_attn_implementation", None),
        "fingerprint": supernet.fingerprint(),
        "space": repr(supernet.space),
        **settings,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"latency-{digest}.json"


def _read_cache(path: Path, space: ElasticSpace) -> tuple[Pairs, Pairs] | None:
    """(fitted, held out) as they were measured; None if the cache holds nothing usable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fitted, held_out = (_pairs(content[key], space) for key in ("measured", "held_out"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RaffmError):
        return None  # missing or broken: measured again, and written anew
    return (fitted, held_out) if fitted else None


def _write_cache(
    path: Path, measured: Iterable[tuple[SubmodelConfig, float]], held_out: Iterable[tuple[SubmodelConfig, float]]
) -> None:
    """Store measurements atomically; a folder that cannot be written to is ignored."""
    content = {
        key: [{**vars(config), "ms": ms} for config, ms in pairs]
        for key, pairs in (("measured", measured), ("held_out", held_out))
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")


def _pairs(rows: Any, space: ElasticSpace) -> Pairs:
    found = []
    for row in rows:
        config = SubmodelConfig(int(row["hidden"]), tuple(row["attention"]), tuple(row["ffn"]))
        ms = float(row["ms"])
        if config not in space or not 0 < ms < float("inf"):
            raise ValueError(row)
        found.append((config, ms))
    return found


def processor_name() -> str:
    """The processor, as Linux names it; elsewhere as Python does."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


BLOCK_SECONDS = 0.03  # of one submodel, before it is another's turn
KEPT_BELOW = 0.10  # a model with a larger error was measured on a busy machine and is not kept
CONTROL_SECONDS = 0.2  # of each of two submodels that tell whether kept measurements still hold


class LatencyModel(AffineLatency):
    """Latency of every submodel on this machine, fitted to a few measured ones (see `space.AffineLatency`)."""

    @classmethod
    def fit(
        cls,
        supernet: Supernet,
        *,
        batch_size: int = 1,
        threads: int = 1,
        tokens: int | None = None,
        submodels: int = 20,
        held_out: int = 10,
        seconds: float = 30.0,
        cache: bool = True,
        rng: Rng | None = None,
        progress: bool = True,
    ) -> "LatencyModel":
        """Measure `submodels` submodels for the fit and `held_out` others to test it, in about `seconds`.

        All take turns in random order, repeatedly, so that a change in the machine's speed affects all of them
        alike. Up to ten are corners of the space; the others are spread evenly over MACs. With `cache`, the
        measurements are stored in `files.cache_folder()` for this machine, checkpoint and setting, unless the
        held-out error is above 10 %. They are reused if the fastest and the slowest submodel still run at the same
        speed, within 10 %; otherwise everything is measured again. `tokens` replaces `Supernet.tokens`.

        Example:
            supernet.latency = LatencyModel.fit(supernet)
            supernet.space.count(Budget(max_latency_ms=5))
        """
        if submodels < 1 or held_out < 1:
            raise ElasticSpaceError(f"submodels={submodels}, held_out={held_out}: give at least 1 of each")
        tokens = supernet.tokens if tokens is None or supernet.family.is_image else tokens
        settings = {"batch_size": batch_size, "threads": threads, "tokens": tokens}
        path = _cache_path(supernet, {**settings, "submodels": submodels, "held_out": held_out})
        if cache and (kept := _read_cache(path, supernet.space)):
            fitted, others = (tuple(Timed(*pair) for pair in pairs) for pairs in kept)
            model = cls(fitted, others, batch_size, threads, tokens)
            if model._still_holds(supernet):
                return model
        rng = generator(0 if rng is None else rng)
        space = supernet.space.under(tokens=tokens)
        chosen = _chosen(space, submodels, rng)
        apart = [c for c in spread_over_size(space, held_out, rng, "macs") if c not in chosen]
        times = _measure(supernet, [*chosen, *apart], batch_size, threads, tokens, seconds, rng, progress)
        timed = [tuple(Timed(config, times[config]) for config in configs) for configs in (chosen, apart)]
        model = cls(timed[0], timed[1], batch_size, threads, tokens)
        if cache and model.held_out_error <= KEPT_BELOW:
            _write_cache(path, *timed)
        return model

    def _still_holds(self, supernet: Supernet) -> bool:
        inputs = example_inputs(supernet.model, self.batch_size, self.tokens)
        ordered = sorted(self.measured, key=lambda timed: timed.measured_ms)
        ratios = [
            np.median(timed_ms(supernet.extract(config), inputs, self.threads, CONTROL_SECONDS)) / measured_ms
            for config, measured_ms in (ordered[0], ordered[-1])
        ]
        return abs(float(np.mean(ratios)) - 1) <= KEPT_BELOW


def _chosen(space: ElasticSpace, number: int, rng: np.random.Generator) -> list[SubmodelConfig]:
    attention, ffn = ([tuple(c[end] for c in axis) for end in (0, -1)] for axis in (space.attention, space.ffn))
    # with all blocks as narrow as they can be, which tells what a block costs from what its width does
    deep = [tuple(min(filter(None, c), default=0) for c in axis) for axis in (space.attention, space.ffn)]
    corners = [
        SubmodelConfig(hidden, *widths)
        for hidden in (space.hidden[0], space.hidden[-1])
        for widths in (*product(attention, ffn), tuple(deep))
    ]
    corners = list(dict.fromkeys(corners))[:number]
    spread = spread_over_size(space, number - len(corners), rng, "macs") if number > len(corners) else []
    return list(dict.fromkeys([*corners, *spread]))


def _measure(
    supernet: Supernet,
    configs: list[SubmodelConfig],
    batch_size: int,
    threads: int,
    tokens: int | None,
    seconds: float,
    rng: np.random.Generator,
    progress: bool,
) -> dict[SubmodelConfig, float]:
    """Median milliseconds of every submodel; each is timed at least twice, in turn, until the time is up."""
    from tqdm.auto import tqdm

    inputs = example_inputs(supernet.model, batch_size, tokens)
    times: dict[SubmodelConfig, list[float]] = {config: [] for config in configs}
    turns = chain.from_iterable(rng.permutation(len(configs)) for _ in count())
    start, least = time.perf_counter(), 2 * len(configs)
    with tqdm(total=100, desc="measuring latencies", unit="%", disable=not progress) as bar:
        for done, number in enumerate(turns):
            passed = time.perf_counter() - start
            share = min(passed / seconds, done / least)
            bar.update(min(100, int(100 * share)) - bar.n)
            if share >= 1:
                break
            # extracted anew, which takes milliseconds: all at once might not fit into memory
            model = supernet.extract(configs[number])
            times[configs[number]].append(float(np.median(timed_ms(model, inputs, threads, BLOCK_SECONDS))))
    return {config: float(np.median(found)) for config, found in times.items()}
