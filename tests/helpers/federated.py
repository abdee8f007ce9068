"""A learnable split and a tiny federation that the tests of training share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import make_supernet
from transformers import ViTImageProcessorPil

from raffm_utils.data import Pixels, Split
from raffm_utils.federated import Recipe, RoundResult, Task
from raffm_utils.space import SubmodelConfig
from raffm_utils.supernet import Supernet

LABELS = tuple("abcde")
EVEN_SPACE = {
    "residual_hidden_space": [48, 36, 24],
    "atten_out_space": [48, 40, 32, 24],
    "inter_hidden_space": [64, 56, 48, 40, 32],
}
RECIPE = Recipe(
    setting="large",
    clients=8,
    participants=4,
    rounds=8,
    batch_size=16,
    learning_rate=3e-3,
    cosine_rounds=8,
    cooldown_rounds=2,
    average_rounds=3,
    horizontal_flip=True,
    autocast=False,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these are much slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_processor() -> ViTImageProcessorPil:
    """Of the tiny ViT in conftest."""
    return ViTImageProcessorPil(size={"height": 16, "width": 16}, do_convert_rgb=True)


def make_even_supernet(seed: int = 0, **changes: Any) -> Supernet:
    """A tiny ViT of two layers with the same choices in both."""
    return make_supernet(seed=seed, space=EVEN_SPACE, **({"num_hidden_layers": 2} | changes))


def task_of(
    supernet: Supernet, config: SubmodelConfig, learning_rate: float, seed: tuple[int, ...], **more: Any
) -> Task:
    """What a client is asked that gets `config` of this supernet."""
    names = tuple(p.name for p in supernet.parameters if p.present(config.widths(p.layer)))
    return Task(config, names, learning_rate, seed, **more)


def learnable_split(examples: int, seed: int, split: str = "train", name: str = "made_up") -> Split:
    """Noisy 16x16 images; the class decides which colour each of the four patches has."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % len(LABELS)
    prototypes = torch.rand(len(LABELS), 3, 2, 2, generator=torch.Generator().manual_seed(99))
    images = prototypes[labels].repeat_interleave(8, -1).repeat_interleave(8, -2)
    noisy = (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    raw = datasets.Dataset.from_dict({"image": list(range(examples)), "label": labels.tolist()})
    encoded = Pixels((255 * noisy).to(torch.uint8), make_processor())
    fingerprint = f"{name}-{split}-{examples}-{seed}"
    return Split(name, split, labels, LABELS, raw, fingerprint, torch.arange(examples), encoded)


def run_tiny(
    folder: Path, *, workers: int = 2, recipe: Recipe = RECIPE, **options: Any
) -> tuple[Supernet, list[RoundResult]]:
    """A federation from the same start every time; returns the trained supernet and its rows."""
    from raffm_utils.federated import simulation

    supernet = make_even_supernet()
    train, validation = learnable_split(240, 1), learnable_split(100, 2, "validation")
    return supernet, simulation.run(supernet, train, validation, recipe, folder, workers=workers, **options)
