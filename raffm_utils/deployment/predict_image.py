"""Classify images with an exported submodel: python predict.py model.onnx shirt.png ..."""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def upright_rgb(image: Any) -> Any:
    """Turned as its EXIF says, 8 bits a channel, transparent parts white: as the accuracy was measured."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its mode {image.mode} has no fixed white: scale it to 0 to 255 and save it with 8 bits")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def read(path: str) -> Any:
    """The picture of a file."""
    try:
        return upright_rgb(Image.open(path))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error


def prepare(images: list[Any], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """The pixels that the network was trained on; settings are in the metadata of the file."""
    size, resample = (settings["width"], settings["height"]), settings["resample"]
    pixels = np.stack([np.asarray(upright_rgb(image).resize(size, resample), np.float32) for image in images])
    values = (pixels * np.float32(settings["scale"]) - np.float32(settings["mean"])) / np.float32(settings["std"])
    return {"pixel_values": values.transpose(0, 3, 1, 2)}


def main(model: str, *paths: str) -> None:
    """Print path, most likely class and its probability."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    inputs = prepare([read(path) for path in paths], facts["preprocessing"])
    logits = session.run(None, inputs)[0]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    for path, row in zip(paths, shares / shares.sum(axis=1, keepdims=True), strict=True):
        print(path, facts["labels"][row.argmax()], f"{row.max():.4f}", sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
