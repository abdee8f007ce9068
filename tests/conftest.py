"""Small random supernets and splits that the tests share."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from raffm_utils.space import FAMILIES, SubmodelConfig
from raffm_utils.supernet import CONTIGUOUS, PER_HEAD, ElasticSpec, Supernet

torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other

GOLDEN = Path(__file__).resolve().parent / "golden"
GOLDEN_NAMES = ("vit-legacy", "bert-legacy")
SPACE = {
    "residual_hidden_space": [48, 36, 25],
    # a list of its own for every layer, one of them irregular
    "atten_out_space": [[48, 32, 20], [48, 44, 24], [48, 12]],
    "inter_hidden_space": [[64, 40, 7], [64, 63, 33, 32], [64]],
}
HEADS = 4
FAMILY_NAMES = tuple(FAMILIES)
TEXT_FAMILIES = tuple(kind for kind, family in FAMILIES.items() if not family.is_image)
SLICINGS = (PER_HEAD, CONTIGUOUS)


def make_model(kind: str, *, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A tiny classifier in which every parameter is random, those of the norms too."""
    common: dict[str, Any] = dict(
        hidden_size=48, intermediate_size=64, num_attention_heads=HEADS, num_hidden_layers=3, num_labels=5
    )
    own: dict[str, Any] = dict(vocab_size=60, max_position_embeddings=24)
    if kind == "vit":
        own = dict(image_size=16, patch_size=8)
    elif kind == "distilbert":  # the library knows the other three names as well
        own |= dict(hidden_dim=common.pop("intermediate_size"))
    config = transformers.AutoConfig.for_model(kind, **(common | own | changes))
    model: Any = getattr(transformers, FAMILIES[kind].auto_class).from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            norm = "norm" in name.lower() and name.endswith("weight")
            p.copy_(1 + 0.4 * noise if norm else noise * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5))
    return model.eval()


def make_supernet(
    kind: str = "vit", slicing: str = PER_HEAD, *, seed: int = 0, space: dict[str, Any] | None = None, **changes: Any
) -> Supernet:
    """A supernet around `make_model`, with different choices in every layer unless `space` says otherwise."""
    content = {**(SPACE if space is None else space), "head_slicing": slicing}
    return Supernet(make_model(kind, seed=seed, **changes), FAMILIES[kind], ElasticSpec.from_json(content, "test"))


def make_inputs(kind: str, *, batch: int = 3, seed: int = 1, tokens: int = 9) -> dict[str, torch.Tensor]:
    """Random model inputs; sentences are padded to different lengths."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "vit":
        return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=generator)}
    ids = torch.randint(2, 60, (batch, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - 2 * (torch.arange(batch) % 4)[:, None]).long()
    pad = 1 if kind == "roberta" else 0  # RoBERTa numbers positions by where the padding is
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


WORDS = ("a", "good", "bad", "film", "very", ".")


def make_tokenizer(kind: str, **changes: Any) -> Any:
    """A tokenizer of the kind's own: whole words, and for RoBERTa bytes too, which know everything."""
    kinds: Any = transformers  # whose stubs know neither all of its names nor lists of merges
    if kind == "roberta":
        merges = [(word[:end], word[end]) for word in WORDS for end in range(1, len(word))]
        merges += [("Ġ", word) for word in WORDS]  # how a space is written
        signs = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), *map("".join, merges), "<mask>"]
        vocab = {sign: i for i, sign in enumerate(signs)}
        return kinds.RobertaTokenizerFast(vocab=vocab, merges=merges, **changes)
    vocab = {sign: i for i, sign in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    return kinds.BertTokenizerFast(vocab=vocab, **changes)


def write_text_checkpoint(folder: Path, kind: str, **changes: Any) -> Path:
    """A folder as the library's `save_pretrained` writes it, with a tokenizer and an elastic space."""
    own: dict[str, Any] = dict(vocab_size=300, num_labels=2, id2label=dict(enumerate(("negative", "positive"))))
    make_model(kind, **(own | changes)).save_pretrained(folder)
    make_tokenizer(kind).save_pretrained(folder)
    (folder / "elastic_space.json").write_text(json.dumps({**SPACE, "head_slicing": PER_HEAD}))
    return folder


def some_configs(supernet: Supernet, count: int, seed: int = 0) -> list[SubmodelConfig]:
    """The smallest, the largest and a few random submodels."""
    rng = np.random.default_rng(seed)
    space = supernet.space
    return [space.smallest(), space.largest(), *(space.sample(None, rng) for _ in range(count - 2))]


def with_blocks_left_out(supernet: Supernet, seed: int = 0) -> list[SubmodelConfig]:
    """Random submodels of three layers with blocks left out: single ones, whole layers, the first, the last, all."""
    rng = np.random.default_rng(seed)
    masks = [
        ((1, 0, 1), (1, 1, 1)),
        ((1, 1, 1), (1, 0, 1)),
        ((0, 1, 1), (1, 1, 0)),
        ((1, 0, 1), (1, 0, 1)),
        ((0, 1, 1), (0, 1, 0)),
        ((0, 0, 1), (0, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
    ]
    found = []
    for masks_of in masks:
        whole = supernet.space.sample(None, rng)
        attention, ffn = (
            tuple(width * mask for width, mask in zip(widths, masks, strict=True))
            for widths, masks in zip((whole.attention, whole.ffn), masks_of, strict=True)
        )
        found.append(SubmodelConfig(whole.hidden, attention, ffn))
    return found


@dataclass
class TensorSplit:
    """A split made of given tensors, with what `evaluate` and `sweep` use of the real one."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    label_names: tuple[str, ...] = tuple("abcde")
    name: str = "made_up"
    split: str = "test"
    fingerprint: str = "0123456789abcdef"
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, order: Any = None) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for part in torch.arange(len(self)).split(batch_size):
            self.asked.append(len(part))
            yield {name: tensor[part] for name, tensor in self.inputs.items()}, self.labels[part]


def make_split(kind: str = "vit", examples: int = 30, seed: int = 3, **changes: Any) -> Any:
    """Random examples with random labels."""
    labels = torch.randint(0, 5, (examples,), generator=torch.Generator().manual_seed(seed))
    return TensorSplit(make_inputs(kind, batch=examples, seed=seed), labels, **changes)


@pytest.fixture(params=[(kind, slicing) for kind in FAMILY_NAMES for slicing in SLICINGS], ids="-".join)
def kind_and_supernet(request: pytest.FixtureRequest) -> tuple[str, Supernet]:
    """Every family with both ways to slice heads."""
    kind, slicing = request.param
    return kind, make_supernet(kind, slicing)


@pytest.fixture(params=GOLDEN_NAMES)
def golden(request: pytest.FixtureRequest) -> Path:
    """A checkpoint folder as the reference implementation writes it."""
    return GOLDEN / request.param
