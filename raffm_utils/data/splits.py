"""Named datasets, cut into splits that a model can be trained or evaluated on.

`train` and `validation` are cut from the published train split, so `test` is never touched by training or
selection.
"""

import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError, whole_number
from .encoding import Encoding, digest, encode_cached
from .sources import DATASETS, VALIDATION_FILE, has_validation, read_published

if TYPE_CHECKING:
    import datasets


SPLITS = ("train", "validation", "test")
SPLIT_SEED = 20240  # cuts validation from train; changing it makes old accuracies incomparable


def _content(raw: "datasets.Dataset", column: str) -> str:
    """Hash of the inputs, in order, so that a changed file, even of a single image, is never taken for the old one."""
    sha = hashlib.sha256()
    for table in raw.select_columns(column).with_format("arrow").iter(1000):
        for value in table[column].to_pylist():
            stored = value.encode() if isinstance(value, str) else value["bytes"] or _file(value["path"])
            sha.update(len(stored).to_bytes(8, "little") + stored)
    return sha.hexdigest()


def _file(path: str | None) -> bytes:
    try:
        return Path(path or "").read_bytes()
    except OSError as error:
        raise DataError(
            f"the image {path!r} cannot be read ({error}): put it there, or store images in the data file"
        ) from error


@dataclass(frozen=True, eq=False)
class Split(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples of one split: `raw` rows to look at and, with a processor, tensors for a model."""

    name: str
    split: str
    labels: torch.Tensor  # int64
    label_names: tuple[str, ...]
    raw: "datasets.Dataset"  # columns `image` or `sentence`, and `label`
    fingerprint: str  # of the examples themselves, their order, and the processor
    rows: torch.Tensor  # where the examples lie in `encoded`, which subsets share
    encoded: Encoding | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of {len(self)}")
        position %= len(self)
        inputs = self._encoded().batch(self.rows[position : position + 1])
        return {**{key: value[0] for key, value in inputs.items()}, "labels": int(self.labels[position])}

    def _encoded(self) -> Encoding:
        if self.encoded is None:
            raise DataError(
                f"{self.name}/{self.split} was loaded without a processor, so it has no tensors: call "
                f"load_split({self.name!r}, {self.split!r}, processor=...)"
            )
        return self.encoded

    def _positions(self, indices: Any) -> torch.Tensor:
        positions = torch.as_tensor(indices, device="cpu")
        if positions.numel() == 0:
            return torch.empty(0, dtype=torch.int64, device="cpu")
        low, high = positions.min().item(), positions.max().item()
        whole = not positions.is_floating_point() and positions.dtype != torch.bool
        if positions.ndim != 1 or not whole or low < 0 or high >= len(self):
            raise DataError(
                f"{low} to {high} ({positions.dtype}, shape {tuple(positions.shape)}) do not number examples "
                f"of {self.name}/{self.split}: give whole numbers from 0 to {len(self) - 1} in one dimension"
            )
        return positions.long()

    def subset(self, indices: Any) -> "Split":
        """The examples at these positions, in this order; tensors are shared, not copied."""
        positions = self._positions(indices)
        return replace(
            self,
            labels=self.labels[positions],
            raw=self.raw.select(positions.tolist()),
            fingerprint=digest(self.fingerprint, positions.numpy().tobytes()),
            rows=self.rows[positions],
        )

    def grouped(self, order: torch.Tensor, batch_size: int, batches: int = 4) -> torch.Tensor:
        """The same order, except that every few batches are sorted by length, which saves most of the padding."""
        parts = self._positions(order).split(whole_number(DataError, 1, batch_size=batch_size) * batches)
        return torch.cat([part[self._encoded().order(self.rows[part])] for part in parts]) if len(order) else order

    def batches(
        self, batch_size: int, order: torch.Tensor | None = None
    ) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """(model inputs, labels) in the given order; by default as stored, sentences from short to long."""
        encoded, batch_size = self._encoded(), whole_number(DataError, 1, batch_size=batch_size)
        positions = encoded.order(self.rows) if order is None else self._positions(order)
        # Not a generator function: a wrong argument is reported here, not at the first batch.
        parts = positions.split(batch_size) if len(positions) else ()
        return ((encoded.batch(self.rows[part]), self.labels[part]) for part in parts)


def split_indices(rows: int, validation_size: int) -> dict[str, np.ndarray]:
    """The rows of a published train split that are `train`, and those that are `validation`, in stored order."""
    # RandomState, because its stream is frozen by numpy's policy, while that of a Generator may change.
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(rows)
    size = min(validation_size, rows // 10)
    return {"validation": np.sort(shuffled[:size]), "train": np.sort(shuffled[size:])}


def load_split(name: str, split: str, *, limit: int | None = None, processor: Any = None) -> Split:
    """Load a split of a named dataset, or its first `limit` examples, encoded by `processor` if one is given.

    If there are fewer than `limit`, all are taken. `validation` is a fixed random part of the published train
    split and `train` the rest of it. For `sst2`, `test` is the published validation split. Local files are named
    after the published splits.

    Example:
        >>> data = load_split("fashion_mnist", "test", limit=100)
        >>> len(data), data.label_names[0]
        (100, 'T-shirt/top')
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}; known are {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r} of {name}; known are {', '.join(SPLITS)}")
    limit = None if limit is None else whole_number(DataError, limit=limit)
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit} leaves no example of {name}/{split}; give 1 or more, or None for all")
    spec = DATASETS[name]
    settings = "" if processor is None else spec.encoding.settings(processor)
    cut_off = split == "validation" and has_validation(name)
    raw = read_published(name, spec.test_from if split == "test" else VALIDATION_FILE if cut_off else "train")
    if split != "test" and not cut_off:
        raw = raw.select(split_indices(len(raw), spec.validation_size)[split])
    if limit is not None:
        raw = raw.select(range(min(limit, len(raw))))
    labels = torch.tensor(raw.select_columns("label").with_format("arrow")[:]["label"].to_numpy(), device="cpu")
    content = _content(raw, spec.encoding.column)
    fingerprint = digest(name, split, labels.numpy().tobytes(), content, settings)
    encoded = None if processor is None else encode_cached(spec.encoding, raw, processor, fingerprint)
    rows = torch.arange(len(labels), device="cpu")
    return Split(name, split, labels, spec.label_names, raw, fingerprint, rows, encoded)
