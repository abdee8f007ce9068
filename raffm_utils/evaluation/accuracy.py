"""Accuracy of a submodel with its interval, and resumable sweeps over many submodels."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from ..data import DATASETS
from ..errors import CheckpointError, DataError, SweepError, whole_number
from ..space import METRICS, SubmodelConfig, near_share
from ..supernet import Supernet
from .answers import check_colours, class_names, in_eval_mode, logits_of
from .interval import Interval
from .paired import pack
from .sweep_file import SweepRow, append, check_writable, repair

if TYPE_CHECKING:
    from ..data import Split


@dataclass(frozen=True)
class Evaluation(Interval):
    """What was measured; `low` and `high` are the 95 % Wilson interval of `accuracy`, all three from 0 to 1.

    `f1` is the macro average over the classes that occur, `loss` the mean cross-entropy in nats. `right` says which
    examples were answered rightly, for `compare` (None: not kept), and `data_fingerprint` which they were.
    """

    f1: float
    loss: float
    examples: int
    examples_per_second: float
    data_fingerprint: str = field(default="", repr=False)
    right: str | None = field(default=None, repr=False)


def evaluate(
    model: PreTrainedModel,
    data: "Split",
    *,
    batch_size: int = 128,
    autocast: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a classifier in eval mode on every example of a split, on the device where the model is.

    A model in training mode stays in it, and may be trained or evaluated by other threads at the same time.
    `autocast` computes in bfloat16: for a quick look while training, never for numbers to report.
    `on_progress(done, total)` is called after every batch and may raise to cancel. Raises `DataError` or
    `CheckpointError` when data and model do not fit together.

    Example:
        >>> supernet = Supernet.from_pretrained("vit-small-fashion-mnist-large-budget")
        >>> data = load_split("fashion_mnist", "test", limit=100, processor=supernet.processor)
        >>> evaluate(supernet.extract(supernet.full), data).examples
        100
    """
    from sklearn.metrics import f1_score

    _check_fit(model, data)
    parts: list[torch.Tensor] = []
    loss, done, start = 0.0, 0, time.perf_counter()
    bfloat16 = torch.autocast(model.device.type, torch.bfloat16, enabled=autocast)
    model = in_eval_mode(model)
    with torch.inference_mode(), bfloat16:
        for inputs, truth in data.batches(batch_size):
            logits = checked_logits(model, inputs, data.name, len(data.label_names))
            loss += float(torch.nn.functional.cross_entropy(logits, truth, reduction="sum"))
            parts.append(torch.stack([truth, logits.argmax(dim=1)]))
            done += len(truth)
            if on_progress is not None:
                on_progress(done, len(data))
    seconds = time.perf_counter() - start
    truth, predicted = torch.cat(parts, dim=1)
    right = (truth == predicted).numpy()
    f1 = float(f1_score(truth.numpy(), predicted.numpy(), average="macro", zero_division=0.0))
    return Evaluation(
        **vars(Interval.wilson(int(right.sum()), done)),
        f1=f1,
        loss=loss / done,
        examples=done,
        examples_per_second=done / max(seconds, 1e-9),
        data_fingerprint=data.fingerprint,
        right=pack(right),
    )


def _check_fit(model: PreTrainedModel, data: "Split") -> None:
    if not len(data):
        raise DataError(f"{data.name}/{data.split} holds no examples: there is nothing to measure")
    check_colours(model)
    named = class_names(model)
    if (given := len(named)) != (needed := len(data.label_names)):
        raise CheckpointError(
            f"the model has {given} classes, but {data.name} has {needed}: evaluate it on the data it was trained for"
        )
    if named != list(data.label_names) and sorted(named) == sorted(data.label_names):
        raise CheckpointError(
            f"the model numbers its classes as {', '.join(named)}, but {data.name} as "
            f"{', '.join(data.label_names)}: put id2label and the rows of the classifier in that order"
        )


def _check_independence(supernet: Supernet, data: "Split") -> None:
    trained_on = supernet.spec.provenance.get("dataset")
    if data.name in DATASETS and trained_on in DATASETS[data.name].same_source:
        raise DataError(
            f"{supernet.name} was trained on {trained_on}, which comes from the same source as {data.name} and holds "
            f"many of its test examples: score it on {trained_on}, or take a checkpoint trained on {data.name}"
        )


def checked_logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor], source: str, classes: int) -> torch.Tensor:
    """Logits (examples, classes) on the CPU in float32; raises if the inputs do not fit or a logit is not finite."""
    if model.main_input_name not in inputs:
        raise DataError(
            f"{source} gives {', '.join(inputs)}, but {type(model).__name__} takes {model.main_input_name}: "
            "evaluate image models on images and text models on text"
        )
    logits = logits_of(model, inputs).float().cpu()
    if logits.shape[1:] != (classes,):
        raise CheckpointError(
            f"{type(model).__name__} gives logits of shape {tuple(logits.shape)}, but its configuration names "
            f"{classes} classes: make id2label name every row of the classifier"
        )
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).any(dim=1).sum())
        raise CheckpointError(
            f"the logits of {bad} of {len(logits)} examples are not finite: the weights are damaged or have diverged"
        )
    return logits


def sweep(
    supernet: Supernet,
    configs: Iterable[SubmodelConfig],
    data: "Split",
    path: str | Path,
    *,
    batch_size: int = 128,
    workers: int = 2,
    seed: int | None = None,
    progress: bool = True,
) -> list[SweepRow]:
    """Evaluate submodels and append each, in order, to the file `path` once measured; returns their rows in order.

    Rows already in the file are not measured again, so an interrupted sweep can simply be restarted. A
    configuration given twice is measured once. `workers` submodels are measured side by side, each on its share of the
    threads, which one alone would keep less busy. `seed`, stored in the rows, is the seed that the configurations
    were drawn with. Raises `SweepError` when the file holds rows of another checkpoint, of other data, or at another
    token count, and `DataError` when the checkpoint may have been trained on the examples it would be scored on.

    Example:
        configs = spread_over_size(supernet.space, 12, np.random.default_rng(0))
        rows = sweep(supernet, configs, data, "runs/sweep.jsonl")  # again: returns the same rows at once
    """
    from tqdm.auto import tqdm

    _check_independence(supernet, data)
    path, costs = Path(path).expanduser(), {config: supernet.cost(config) for config in configs}
    seed = None if seed is None else whole_number(SweepError, seed=seed)
    belongs: dict[str, Any] = {
        "fingerprint": supernet.fingerprint(),
        "dataset": data.name,
        "split": data.split,
        "examples": len(data),
        "data_fingerprint": data.fingerprint,
        "tokens": supernet.costs.tokens,
    }
    rows = {row.config: row for row in repair(path, belongs)}
    device, libraries = (
        str(supernet.model.device),
        f"torch {torch.__version__}, transformers {transformers.__version__}",
    )
    left = [config for config in costs if config not in rows]
    if left:
        check_writable(path)

    def measure(config: SubmodelConfig) -> tuple[Evaluation, float]:
        start = time.perf_counter()
        return evaluate(supernet.extract(config), data, batch_size=batch_size), time.perf_counter() - start

    with (
        _side_by_side(workers, supernet.model.device) as each,
        tqdm(initial=len(costs) - len(left), total=len(costs), unit="submodel", disable=not progress) as bar,
    ):
        for config, (measured, seconds) in zip(left, each(measure, left), strict=True):
            rows[config] = SweepRow(
                checkpoint=supernet.name,
                config=config,
                **{metric: getattr(costs[config], metric) for metric in METRICS},
                **belongs,
                **{name: getattr(measured, name) for name in ("accuracy", "low", "high", "f1", "loss", "right")},
                seed=seed,
                device=device,
                seconds=round(seconds, 3),
                libraries=libraries,
            )
            append(path, rows[config])
            bar.update()
            bar.set_postfix(accuracy=f"{measured.accuracy:.3f}")
    return [rows[config] for config in costs]


@contextmanager
def _side_by_side(workers: int, device: torch.device) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` whose calls share the processor; what has not begun is dropped when it is left by an error.

    For one worker, and on an accelerator, which one submodel keeps busy, it is the ordinary `map`.
    """
    if whole_number(SweepError, 1, workers=workers) == 1 or device.type != "cpu":
        yield map
        return
    threads, pool = torch.get_num_threads(), ThreadPoolExecutor(workers)
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def ends(supernet: Supernet) -> dict[str, SubmodelConfig]:
    """The submodels to judge a checkpoint by: the full network, a fixed random one of half its size, the smallest."""
    half = near_share(supernet.space, 0.5, np.random.default_rng(0), supernet.family.size_metric)
    return {"full": supernet.space.largest(), "half": half, "smallest": supernet.space.smallest()}
