"""The model card of a checkpoint that this project trained."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .evaluation import Evaluation
from .federated import Recipe
from .participation import SIZE_TOKENS
from .supernet import Supernet


def checkpoint_card(
    name: str, provenance: dict[str, Any], parts: Sequence[Recipe], supernet: Supernet, measured: dict[str, Evaluation]
) -> str:
    """The README of a trained checkpoint: what it is, how it was made, and what was measured on the test split."""
    space, recipe = supernet.space, parts[0]
    of = "" if supernet.family.is_image else f" of {SIZE_TOKENS} tokens"
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        f"datasets: [{provenance['dataset']}]",
        "---",
        f"# {name}",
        "",
        f"A scalable (super) network: {space.count():,} submodels can be cut from it and used as they are.",
        "",
        f"Foundation model: {provenance['foundation_model']}.",
        f"Trained on {provenance['dataset']} by {recipe.clients} simulated clients,",
        f"{recipe.participants} a round, {provenance['rounds']} rounds, system setting *{recipe.setting}*, "
        + ("IID shards." if recipe.dirichlet is None else f"Dirichlet({recipe.dirichlet}) label skew."),
        "",
        f"| network | parameters | without embeddings | MACs{of} "
        "| test accuracy | 95 % interval | macro-F1 | examples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, config in (("full", space.largest()), ("smallest", space.smallest())):
        cost, result = supernet.cost(config, SIZE_TOKENS), measured[size]
        lines.append(
            f"| {size} | {cost.parameters:,} | {cost.encoder_parameters:,} | {cost.macs:,} | {result.accuracy:.2%} | "
            f"{result.low:.2%} to {result.high:.2%} | {result.f1:.2%} | {result.examples:,} |"
        )
    lines += ["", f"Made by `make train NAME={name}`, with this recipe:", ""]
    for place, part in enumerate(parts):
        lines += ["And then:", ""] if place else []
        lines += ["```json", json.dumps(asdict(part), indent=1), "```", ""]
    return "\n".join(lines)
