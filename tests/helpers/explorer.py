"""Small supernets, data and stand-ins for the tests of the budget explorer."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from raffm_utils import Supernet
from raffm_utils.evaluation import SweepRow
from raffm_utils.search import AccuracyPredictor
from raffm_utils.space import FAMILIES, METRICS, Affine, AffineLatency
from raffm_utils.supernet import ElasticSpec

CLASSES = 3
SHAPE: dict[str, Any] = dict(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, num_labels=CLASSES
)
SPACE = {
    "residual_hidden_space": [16, 12, 8],
    "atten_out_space": [16, 12, 8, 4],
    "inter_hidden_space": [32, 24, 16, 8],
    "head_slicing": "per_head",
}


def image_supernet(**space: list[int]) -> Supernet:
    """A small ViT; `space` replaces some of its choices."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **SHAPE))
    return Supernet(model, FAMILIES["vit"], ElasticSpec.from_json({**SPACE, **space}, "test"))


def text_supernet() -> Supernet:
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **SHAPE))
    return Supernet(model, FAMILIES["bert"], ElasticSpec.from_json(SPACE, "test"))


@dataclass
class Images:
    """Stands in for a `Split`."""

    rows: int = 40
    name: str = "pictures"
    split: str = "test"
    fingerprint: str = "pictures-test"
    label_names: tuple[str, ...] = ("LABEL_0", "LABEL_1", "LABEL_2")

    def __len__(self) -> int:
        return self.rows

    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        pixels = torch.randn(self.rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(self.rows) % CLASSES
        parts = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
        return (({"pixel_values": x}, y) for x, y in parts)


class BrokenImages(Images):
    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        raise RuntimeError("the <disk> is gone")


@dataclass
class SlowImages(Images):
    """Gives its second batch only when `go` is set."""

    rows: int = 100
    asked: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for number, batch in enumerate(super().batches(batch_size)):
            if number:
                self.asked.set()
                assert self.go.wait(60)
            yield batch


class FlatLatency(AffineLatency):
    """A latency model: whole nanoseconds, whatever machine runs the tests."""

    def __init__(self) -> None:
        super().__init__((), ())

    def affine(self, hidden: int) -> Affine:
        return Affine(1_000_000 + 10_000 * hidden, 1_000, 0, 500, 0)


def made_rows(supernet: Supernet, number: int = 60, split: str = "validation") -> list[SweepRow]:
    """Rows of a sweep that never ran: wide FFNs are good, chance adds a little."""
    rng, rows = np.random.default_rng(0), []
    for config in dict.fromkeys(supernet.space.sample(None, rng) for _ in range(number)):
        cost = supernet.cost(config)
        accuracy = 0.65 + 0.25 * sum(config.ffn) / sum(supernet.full.ffn) + rng.normal(0, 0.02)
        given: dict[str, Any] = dict(
            checkpoint="test",
            fingerprint="f" * 16,
            dataset="pictures",
            split=split,
            data_fingerprint="0" * 16,
            examples=500,
            accuracy=accuracy,
            low=accuracy - 0.04,
            high=accuracy + 0.03,
            f1=accuracy,
            loss=0.5,
            seed=0,
            device="cpu",
            seconds=0.1,
            libraries="",
            tokens=supernet.tokens,
        )
        rows.append(SweepRow(config=config, **given, **{metric: getattr(cost, metric) for metric in METRICS}))
    return rows


def made_predictor(supernet: Supernet) -> AccuracyPredictor:
    """A predictor that knows wide FFNs to be good."""
    return AccuracyPredictor.fit(made_rows(supernet), supernet.space)
