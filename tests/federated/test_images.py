"""How a client sees its images: mirrored and moved."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.federated import LABELS, RECIPE, learnable_split
from torch import nn

from raffm_utils.errors import TrainingError
from raffm_utils.federated import fit, make_adam, shifted


class Seen(nn.Module):
    """A classifier that notes the images that it has seen."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(len(LABELS)))
        self.images: set[tuple[float, ...]] = set()

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.images |= {tuple(image.tolist()) for image in pixel_values.flatten(1)}
        return SimpleNamespace(logits=self.scores.expand(len(pixel_values), -1))


def test_each_image_is_moved_on_its_own_by_whole_pixels_and_its_edge_is_repeated():
    images = torch.rand(200, 2, 9, 7)
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    seen = set()
    for moved, wide in zip(shifted(images, 2, torch.Generator().manual_seed(0)), padded, strict=True):
        places = {
            (2 - top, 2 - left)
            for top in range(5)
            for left in range(5)
            if torch.equal(moved, wide[:, top : top + 9, left : left + 7])
        }
        assert len(places) == 1
        seen |= places
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_a_recipe_that_moves_images_trains_on_moved_ones():
    data, seen = learnable_split(32, 1), {}
    for most in (0, 3):
        model = Seen()
        recipe = replace(RECIPE, local_steps=1, batch_size=32, random_shift=most, horizontal_flip=False)
        fit(model, data, recipe, make_adam(model, recipe, 0.05), torch.Generator().manual_seed(2))
        seen[most] = model.images
    assert len(seen[0]) == len(seen[3]) == 32
    assert len(seen[0] & seen[3]) < 8, "one in 49 stays where it is"


def test_a_negative_shift_is_refused():
    with pytest.raises(TrainingError, match="random_shift=-1"):
        replace(RECIPE, random_shift=-1)
