"""Small supernets, data and stand-ins for the tests of the budget explorer."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from raffm_utils import Supernet
from raffm_utils.budget import Affine
from raffm_utils.families import FAMILIES
from raffm_utils.space import SubmodelConfig
from raffm_utils.space_file import ElasticSpec

CLASSES = 3
SHAPE = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, num_labels=CLASSES)
SPACE = {
    "residual_hidden_space": [16, 12, 8],
    "atten_out_space": [16, 12, 8, 4],
    "inter_hidden_space": [32, 24, 16, 8],
    "head_slicing": "per_head",
}


def image_supernet() -> Supernet:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **SHAPE))
    return Supernet(model, FAMILIES["vit"], ElasticSpec.from_json(SPACE, "test"))


def text_supernet() -> Supernet:
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **SHAPE))
    return Supernet(model, FAMILIES["bert"], ElasticSpec.from_json(SPACE, "test"))


@dataclass
class Images:
    """Stands in for a `Split`."""

    rows: int = 40
    name: str = "pictures"
    split: str = "test"
    label_names: tuple[str, ...] = ("LABEL_0", "LABEL_1", "LABEL_2")

    def __len__(self) -> int:
        return self.rows

    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        pixels = torch.randn(self.rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(self.rows) % CLASSES
        parts = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
        return (({"pixel_values": x}, y) for x, y in parts)


class BrokenImages(Images):
    def batches(self, batch_size: int):
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


class FlatLatency:
    """A latency model: whole nanoseconds, whatever machine runs the tests."""

    tokens = None

    def affine(self, hidden: int) -> Affine:
        return Affine(1_000_000 + 10_000 * hidden, 1_000, 500)


class WidePredictor:
    """A predictor that likes wide FFNs; stands in for an `AccuracyPredictor`."""

    def __init__(self, note: str = "") -> None:
        self.note = note

    def predict(self, config: SubmodelConfig) -> Any:
        accuracy = 0.5 + 0.004 * sum(config.ffn)
        return SimpleNamespace(accuracy=accuracy, low=accuracy - 0.02, high=accuracy + 0.01, note=self.note)


@dataclass
class FakeSearch:
    """Stands in for the module `search`: what it is asked is kept, what it answers was drawn at random."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def best_submodel(self, space, predictor, budget):
        self.asked.append(("best", budget))
        return max((space.sample(budget, np.random.default_rng(i)) for i in range(50)), key=lambda c: sum(c.ffn))

    def best_submodels(self, space, predictor, budget, number, rng):
        self.asked.append(("bests", budget, number))
        return [space.sample(budget, rng) for _ in range(number)]

    def largest_submodel(self, space, budget, metric, tokens):
        self.asked.append(("largest", budget, metric, tokens))
        drawn = (space.sample(budget, np.random.default_rng(i)) for i in range(50))
        return max(drawn, key=lambda config: space.cost_of(config, metric, tokens))
