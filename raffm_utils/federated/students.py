"""Smaller networks inside a client's own, which learn from its soft answers."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from ..evaluation import logits_of
from ..space import Budget, Region, SubmodelConfig
from ..supernet import Supernet
from .images import fewer_patches

SLOTS = 8  # of equal ratio, in each half of the range of sizes


class Students:
    """Networks that share a client's weights and learn from its answers (in-place distillation, Yu & Huang 2019).

    On every batch they are the smallest network that the client holds and `number` drawn ones: the first from the
    upper half of the logarithm of size, all others from the lower. There, a slot of sizes is drawn, then a hidden
    width among those that reach it, then a submodel, each uniformly: of one size most have the same hidden width.
    """

    def __init__(
        self, own: Supernet, number: int, soft_share: float, rng: np.random.Generator, weight: float = 1.0
    ) -> None:
        self.own, self.number, self.soft_share, self.rng, self.weight = own, number, soft_share, rng, weight
        self.edges = np.geomspace(*own.space.reach("parameters"), 2 * SLOTS + 1)
        self.regions: dict[int, list[Region]] = {}

    def drawn(self) -> list[SubmodelConfig]:
        """The students of one batch; none where the client holds the smallest network itself."""
        smallest = self.own.space.smallest()
        if self.own.space.largest() == smallest:
            return []
        return [*(self._draw(SLOTS if place == 0 else 0) for place in range(self.number)), smallest]

    def _draw(self, start: int) -> SubmodelConfig:
        regions = self._regions(start + int(self.rng.integers(SLOTS)))
        return regions[int(self.rng.integers(len(regions)))].draw(self.rng)

    def _regions(self, slot: int) -> list[Region]:
        """What is as large as a slot says; where nothing is, the slots below are taken in."""
        if slot not in self.regions:
            low = slot
            while not (found := self._within(self.edges[low], self.edges[slot + 1])):
                low -= 1  # ends: the lowest slot holds the smallest network
            self.regions[slot] = found
        return self.regions[slot]

    def _within(self, low: float, high: float) -> list[Region]:
        inside = self.own.space.inside(Budget(min_parameters=np.floor(low), max_parameters=np.ceil(high)))
        return [region for region in inside.regions if region.count]

    def learn(
        self,
        inputs: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        answers: torch.Tensor,
        balance: torch.Tensor | None,
        autocast: bool,
        patches: int | None,
        generator: torch.Generator,
    ) -> None:
        """Add the gradients of the students of one batch to those of the client's network.

        A student's loss is `soft_share` times its divergence from the client's `answers` (logits), and the rest on
        the labels, weighted by `balance`; all of it counts `weight` times the client's own loss. Each sees the same
        patches, which `generator` draws.
        """
        state = generator.get_state()
        for config in self.drawn():
            student = self.own.extract(config).requires_grad_(True)
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=autocast),
                fewer_patches(student, patches, generator.set_state(state)),
            ):
                logits = logits_of(student, inputs).float()
            hard = cross_entropy(logits, labels, balance, reduction="sum") / len(labels)
            soft = kl_div(logits.log_softmax(1), answers.log_softmax(1), reduction="batchmean", log_target=True)
            (self.weight * ((1 - self.soft_share) * hard + self.soft_share * soft)).backward()
            self._add_gradients(config, student)

    def _add_gradients(self, config: SubmodelConfig, student: nn.Module) -> None:
        learning = iter(student.parameters())
        for p, whole in zip(self.own.parameters, self.own.model.parameters(), strict=True):
            widths = config.widths(p.layer)
            if p.present(widths) and (gradient := next(learning).grad) is not None and whole.grad is not None:
                part = p.part(whole.grad, widths, self.own.slicing_heads)
                part += gradient.reshape(part.shape)
