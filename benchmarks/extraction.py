"""How long it takes to cut one submodel out of a ViT-base-sized supernet, three ways, in one run.

(a) `Supernet.extract`; (b) `copy.deepcopy` of the full network, which every copying approach pays at least;
(c) the obvious way: deepcopy, build every narrowed layer with its ordinary constructor, fresh initialisation
included, and copy the slices over. Also how much memory 1,000 extractions leave behind, and how long it takes to
count the submodels inside a joint budget and to draw one of them; also where every block may be left out, for 12 and 48
layers.
"""

import argparse
import copy
import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from torch import nn

from raffm_utils import Budget, SubmodelConfig, Supernet
from raffm_utils.search import largest_submodel
from raffm_utils.space import VIT, CostModel, ElasticSpace
from raffm_utils.supernet import CONTIGUOUS, PER_HEAD, ElasticSpec

HEADS = 12
FFN = list(range(3072, 1855, -64))
# the spaces of the published ViT-base checkpoints, which slice contiguously; per_head is this repository's way
SPACES = {
    "first": {"inter_hidden_space": FFN, "atten_out_space": list(range(768, 599, -12))},
    "later": {"inter_hidden_space": FFN, "residual_hidden_space": list(range(768, 551, -24))},
}


def make_supernet(space: str, slicing: str) -> Supernet:
    """A random network of the size of ViT-base/16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels: dict[str, Any] = {"num_labels": 10}
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**labels))
    spec = ElasticSpec.from_json({**SPACES[space], "head_slicing": slicing}, "the published space")
    return Supernet(model, VIT, spec)


def kept(width: int, slicing: str) -> torch.Tensor:
    """The rows of Q, K and V that attention of this width keeps."""
    rows = torch.arange(768)
    return rows.view(HEADS, -1)[:, : width // HEADS].flatten() if slicing == PER_HEAD else rows[:width]


def narrowed_linear(old: nn.Linear, rows: torch.Tensor, columns: torch.Tensor) -> nn.Linear:
    """A new layer, initialised as usual, with the kept weights copied in."""
    new = nn.Linear(len(columns), len(rows))
    new.weight.data.copy_(old.weight.data[rows][:, columns])
    new.bias.data.copy_(old.bias.data[rows])
    return new


def narrowed_norm(old: nn.LayerNorm, rows: torch.Tensor) -> nn.LayerNorm:
    new = nn.LayerNorm(len(rows), eps=old.eps)
    new.weight.data.copy_(old.weight.data[rows])
    new.bias.data.copy_(old.bias.data[rows])
    return new


def obvious_way(supernet: Supernet, config: SubmodelConfig) -> nn.Module:
    """Way (c): the same submodel as `extract` gives, through new layers."""
    model = copy.deepcopy(supernet.model)
    hidden, vit = torch.arange(config.hidden), model.vit
    old = vit.embeddings.patch_embeddings.projection
    new = nn.Conv2d(3, config.hidden, kernel_size=old.kernel_size, stride=old.stride)
    new.weight.data.copy_(old.weight.data[hidden])
    assert new.bias is not None
    new.bias.data.copy_(old.bias.data[hidden])
    vit.embeddings.patch_embeddings.projection = new
    for name in ("cls_token", "position_embeddings"):
        setattr(vit.embeddings, name, nn.Parameter(getattr(vit.embeddings, name).data[..., hidden].clone()))
    for layer, attention_width, ffn_width in zip(vit.layers, config.attention, config.ffn, strict=True):
        inside, ffn = kept(attention_width, supernet.spec.head_slicing), torch.arange(ffn_width)
        attention = layer.attention
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(attention, name, narrowed_linear(getattr(attention, name), inside, hidden))
        attention.o_proj = narrowed_linear(attention.o_proj, hidden, inside)
        attention.head_dim = attention_width // HEADS
        attention.scaling = attention.head_dim**-0.5
        layer.mlp.fc1 = narrowed_linear(layer.mlp.fc1, ffn, hidden)
        layer.mlp.fc2 = narrowed_linear(layer.mlp.fc2, hidden, ffn)
        layer.layernorm_before = narrowed_norm(layer.layernorm_before, hidden)
        layer.layernorm_after = narrowed_norm(layer.layernorm_after, hidden)
    vit.layernorm = narrowed_norm(vit.layernorm, hidden)
    model.classifier = narrowed_linear(model.classifier, torch.arange(10), hidden)
    return model


def check_same(supernet: Supernet, config: SubmodelConfig) -> None:
    """The obvious way and `extract` must give the same submodel, or their times say nothing."""
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = (m(pixel_values=pixels).logits for m in (supernet.extract(config), obvious_way(supernet, config)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def median_ms(act: Callable[[SubmodelConfig], object], configs: list[SubmodelConfig]) -> float:
    """Median time of one call in milliseconds; what it returns is freed outside the clock."""
    times = []
    for config in configs:
        start = time.perf_counter()
        made = act(config)
        times.append(1000 * (time.perf_counter() - start))
        del made
    return statistics.median(times)


def growth(supernet: Supernet, configs: list[SubmodelConfig], number: int) -> float:
    """By how much `number` extractions grow resident memory, in % of the weights."""
    process = psutil.Process(os.getpid())
    for i in range(20):
        supernet.extract(configs[i % len(configs)])
    gc.collect()
    before = process.memory_info().rss
    for i in range(number):
        supernet.extract(configs[i % len(configs)])
    return 100 * (process.memory_info().rss - before) / supernet.cost(supernet.full).weight_bytes


def reaches(supernet: Supernet) -> dict[str, tuple[float, float]]:
    """What parameters and MACs reach from and to."""
    return {name: supernet.space.reach(name) for name in ("parameters", "macs")}


def measure(space: str, slicing: str, repeats: int, extractions: int) -> None:
    """Time the three ways on one space, count and draw inside a budget, and print all of it."""
    supernet = make_supernet(space, slicing)
    rng = np.random.default_rng(0)
    configs = [supernet.space.sample(None, rng) for _ in range(repeats)]
    fewer = configs[: max(3, repeats // 3)]
    check_same(supernet, configs[0])
    a = median_ms(supernet.extract, configs)
    b = median_ms(lambda _: copy.deepcopy(supernet.model), fewer)
    c = median_ms(lambda config: obvious_way(supernet, config), fewer)
    grown = growth(supernet, configs, extractions)
    row = f"{space:<6} {slicing:<13} {a:>8.2f} ms {b:>10.1f} ms {c:>9.1f} ms {b / a:>6.1f} {c / a:>6.1f}"
    print(f"{row}  {grown:+.2f} % of the weights after {extractions} extractions", flush=True)
    limits: dict[str, Any] = {f"max_{name}": 0.3 * low + 0.7 * high for name, (low, high) in reaches(supernet).items()}
    budget, whole = Budget(**limits), supernet.space
    # counted by another space, which remembers nothing yet; drawn with what is inside the budget remembered
    count = median_ms(lambda _: replace(whole).count(budget), configs)
    draw = median_ms(lambda _: whole.sample(budget, rng), configs)
    print(f"{'':20} count {count:.2f} ms, draw {draw:.2f} ms, of {whole.count():,} submodels", flush=True)


# 14 x 12 choices in every layer, each with 0 among them
WITHOUT_BLOCKS = {"attention": (*range(384, 71, -24)[:13], 0), "ffn": (*range(1536, 127, -128)[:11], 0)}


def measure_left_out(layers: int, hidden_widths: int, repeats: int) -> None:
    """Time counts, draws and exact search under parameters and MACs where any block may be left out."""
    with torch.device("meta"):
        sizes: dict[str, Any] = dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=10)
        config = transformers.ViTConfig(num_hidden_layers=1, image_size=70, patch_size=14, **sizes)
        model = transformers.ViTForImageClassification(config)
    costs = CostModel(VIT.parameters(model), patches=VIT.patches(model.config))
    attention, ffn = ((WITHOUT_BLOCKS[axis],) * layers for axis in ("attention", "ffn"))
    space = ElasticSpace(tuple(range(384, 0, -24))[:hidden_widths], attention, ffn, costs)
    limits: dict[str, Any] = {f"max_{name}": 0.45 * space.reach(name)[1] for name in ("parameters", "macs")}
    budget, rng = Budget(**limits), np.random.default_rng(0)
    inside = space.inside(budget)
    times = {}
    for name, act in (
        ("count", lambda: replace(space).count(budget)),  # another space, which remembers nothing yet
        ("draw", lambda: inside.draw(rng)),
        ("largest", lambda: largest_submodel(replace(space), budget)),
    ):
        times[name] = median_ms(lambda _, act=act: act(), [space.largest()] * repeats)  # type: ignore[misc]
    shown = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
    share = inside.count / space.count()
    print(f"{layers} layers, {hidden_widths} hidden widths: {shown}; {share:.1%} of {space.count():.3e} submodels fit")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30, help="calls of (a); (b) and (c) are called a third as often")
    parser.add_argument("--extractions", type=int, default=1000, help="extractions in the memory test")
    parser.add_argument("--threads", type=int, help="threads of torch; by default as many as it chooses")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    print("space  head slicing  (a) extract  (b) deepcopy  (c) obvious    b/a    c/a  growth")
    for space, slicing in itertools.product(SPACES, (CONTIGUOUS, PER_HEAD)):
        measure(space, slicing, arguments.repeats, arguments.extractions)
    print("any block may be left out:")
    for layers, hidden_widths in itertools.product((12, 48), (6, 14)):
        measure_left_out(layers, hidden_widths, 9)


if __name__ == "__main__":
    main()
