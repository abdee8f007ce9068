"""The classifier of a supernet, before and after federated training."""

from typing import cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from ..data import Split
from ..evaluation import logits_of
from ..supernet import Supernet


@torch.no_grad()
def fit_classifier(supernet: Supernet, data: Split, scale: float = 8.0, ridge: float = 0.01) -> None:
    """Set the classifier by least squares on the foundation model's features, and `scale` it to logits.

    The moments needed are sums over clients, so one round is enough and no example is shared. Starting from fitted
    logits keeps the first training steps from distorting the features.
    """
    features: list[torch.Tensor] = []
    classifier = cast(nn.Linear, supernet.model.get_submodule(supernet.family.classifier))
    handle = classifier.register_forward_pre_hook(lambda module, x: features.append(x[0]))
    order = torch.arange(len(data))
    for inputs, _ in data.batches(128, order):
        supernet.model(**inputs)
    handle.remove()
    x = torch.cat(features).double()
    y = one_hot(data.labels, len(data.label_names)).double()
    mean, share = x.mean(0), y.mean(0)
    moment = (x - mean).T @ (x - mean) / len(x)
    moment += ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    weight = torch.linalg.solve(moment, (x - mean).T @ (y - share) / len(x)).T * scale
    classifier.weight.copy_(weight)
    classifier.bias.copy_(-weight @ mean)


@torch.no_grad()
def calibrate_classifier(supernet: Supernet, validation: Split) -> float:
    """Scale the classifier so that its probabilities are calibrated; returns the temperature (Guo et al. 2017).

    The temperature minimises the cross-entropy of the full and the smallest network together. No answer changes.
    """
    logits: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    for config in (supernet.space.largest(), supernet.space.smallest()):
        model = supernet.extract(config)
        for inputs, truth in validation.batches(128):
            logits.append(logits_of(model, inputs))
            labels.append(truth)
    z, y = torch.cat(logits), torch.cat(labels)
    temperatures = torch.logspace(-1, 2, 301)
    temperature = min(temperatures.tolist(), key=lambda t: float(cross_entropy(z / t, y)))
    for parameter in supernet.model.get_submodule(supernet.family.classifier).parameters():
        parameter.div_(temperature)
    return temperature
