"""The settings of a processor as plain numbers, stored inside an exported file."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..data import MAX_TOKENS, per_channel, token_ids, token_limit
from ..errors import DeploymentError
from .graphs import require

CLOSE = 1e-5  # of normalised pixel values, which reach about 3
SENTENCES = [
    "good",
    "An unusually long, winding and wordy sentence: is it cut and padded alike?",
    "été 42 " * MAX_TOKENS,
]


def settings_of(processor: Any) -> dict[str, Any]:
    """The settings of an image processor or a tokenizer, checked: with them `predict.py` gives the same tensors.

    Raises `DeploymentError` for an image processor that does more than resize, rescale and normalise, and for a
    tokenizer that `tokenizer.json` does not describe.
    """
    from transformers import BaseImageProcessor

    return _image_settings(processor) if isinstance(processor, BaseImageProcessor) else _text_settings(processor)


def write_predict(processor: Any, folder: Path) -> None:
    """Put `predict.py` beside an exported file."""
    from transformers import BaseImageProcessor

    name = "predict_image.py" if isinstance(processor, BaseImageProcessor) else "predict_text.py"
    shutil.copyfile(Path(__file__).with_name(name), folder / "predict.py")


def _image_settings(processor: Any) -> dict[str, Any]:
    require("onnxruntime")
    from PIL import Image

    from .predict_image import prepare

    try:
        height, width = int(processor.size["height"]), int(processor.size["width"])
    except (KeyError, TypeError) as error:
        raise DeploymentError(
            f"the processor resizes to {processor.size}: give one with a fixed height and width"
        ) from error
    settings = {
        "height": height,
        "width": width,
        "resample": int(processor.resample),
        "scale": float(processor.rescale_factor) if processor.do_rescale else 1.0,
        "mean": per_channel(processor.image_mean) if processor.do_normalize else [0.0] * 3,
        "std": per_channel(processor.image_std) if processor.do_normalize else [1.0] * 3,
    }
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (31, 45, 3), dtype=np.uint8)) for _ in range(2)]
    images = [*images, images[0].resize((2 * width, 2 * height))]
    wanted = processor(images, return_tensors="np")["pixel_values"]
    made = prepare(images, settings)["pixel_values"]
    if made.shape != wanted.shape or not np.allclose(made, wanted, rtol=0, atol=CLOSE):
        raise DeploymentError(
            f"{type(processor).__name__} does more than resize, rescale and normalise, which is all that predict.py "
            "can: switch that off in the processor, or export with processor=None"
        )
    return settings


def _text_settings(processor: Any) -> dict[str, Any]:
    require("onnxruntime", "tokenizers")
    from tokenizers import Tokenizer

    from .predict_text import prepare

    backend = getattr(processor, "backend_tokenizer", None)
    if backend is None:
        raise DeploymentError(
            f"{type(processor).__name__} has no tokenizer.json: load the checkpoint's tokenizer with AutoTokenizer"
        )
    settings = {
        "max_length": token_limit(processor),
        "cut": processor.truncation_side,
        "pad_id": int(processor.pad_token_id or 0),
    }
    made = prepare(SENTENCES, settings, Tokenizer.from_str(backend.to_str()))
    wanted = token_ids(processor, SENTENCES, settings["max_length"])
    if [row[mask > 0].tolist() for row, mask in zip(made["input_ids"], made["attention_mask"], strict=True)] != wanted:
        raise DeploymentError(
            f"{type(processor).__name__} cuts sentences otherwise than its tokenizer.json says: save it anew with "
            "save_pretrained, or export with processor=None"
        )
    return settings
