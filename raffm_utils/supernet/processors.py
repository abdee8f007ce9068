"""Image processors and tokenizers of a folder, tried before they are handed out: they fit the network, and end."""

import base64
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from ..errors import CheckpointError, shown
from ..files import MAX_TEXT_BYTES, check_ordinary
from ..space import Family

TEXT_FILES = {".json", ".txt", ".model", ".jinja"}
MORE_PIXELS = 4  # times the side of the network's pictures: as far as a picture may grow before it is cropped
MAX_GROWTH = 256  # times the length of a text: as far as it may grow before it is cut into tokens
# how much longer a step makes a text at most; steps that are not named leave its length
GROWTH = {"NFKC": 18, "NFKD": 18, "NFC": 4, "NFD": 4, "Lowercase": 3, "BertNormalizer": 3, "ByteLevel": 4}


def load_processor(folder: Path, family: Family, config: Any) -> Any:
    """The image processor or tokenizer of a folder; images are processed without torchvision, no code there is run.

    A tokenizer truncates text to the number of positions in `config`. Raises `CheckpointError` where it belongs to
    another network, or would take time or memory without bound.
    """
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if path.suffix in TEXT_FILES:
            check_ordinary(path, CheckpointError, MAX_TEXT_BYTES)
    if family.is_image:
        with _trying(f"{folder}: no usable preprocessor_config.json"):
            images = transformers.AutoImageProcessor
            processor = images.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
        _check_pictures(processor, config, folder / "preprocessor_config.json")
        return processor
    with _trying(f"{folder}: no usable tokenizer files"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(longest := tokenizer.model_max_length, int | float) or not longest >= 1:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: model_max_length={shown(longest)}: give 1 or more, or leave it out"
        )
    tokenizer.model_max_length = int(min(longest, family.positions(config)))
    _check_words(tokenizer, config, folder)
    return tokenizer


@contextmanager
def _trying(what: str) -> Iterator[None]:
    """Whatever the library raises for settings that cannot be, as one error."""
    try:
        yield
    except BaseException as error:  # the library raises many kinds; the panic of tokenizers is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(f"{what} ({reason}): copy them from the foundation model") from error


def _check_pictures(processor: Any, config: Any, path: Path) -> None:
    """Prepare a picture, if the network takes coloured ones, and compare what comes out with what it takes."""
    side = config.image_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    limit = MORE_PIXELS * max(height, width, 64)
    for key, number in _numbers(processor.to_dict()):
        if not abs(number) <= limit:
            raise CheckpointError(
                f"{path}: {key} of {number:g}, above the limit of {limit} for a network of {height} x {width} pixels: "
                "copy the file from the foundation model"
            )
    if config.num_channels != 3:  # refused where pictures are read
        return
    # of another shape than the network's, if the processor shapes it
    shaped = any(getattr(processor, key, None) for key in ("do_resize", "do_center_crop", "do_pad"))
    picture = Image.new("RGB", (width + 9, height + 2) if shaped else (width, height), (200, 90, 10))
    with _trying(f"{path} makes nothing of a picture"):
        pixels = np.asarray(processor(picture, return_tensors="np")["pixel_values"], np.float64)
    if pixels.shape != (1, 3, height, width):
        made = " x ".join(map(str, pixels.shape[-2:]))
        raise CheckpointError(
            f"{path}: makes pictures of {made} pixels, but the network takes {height} x {width}: set 'size' to that, "
            "or copy the file from the foundation model"
        )
    if not np.isfinite(pixels).all() or np.abs(pixels).max() > np.finfo(np.float32).max:
        raise CheckpointError(
            f"{path}: makes pixels that are NaN or infinite: correct image_std, image_mean or rescale_factor"
        )


def _numbers(content: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in nested settings, with their keys."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _numbers(value, key)
    elif isinstance(content, int | float):
        yield key, min(content, sys.float_info.max)


def _check_words(tokenizer: Any, config: Any, folder: Path) -> None:
    vocabulary = tokenizer.get_vocab()
    # without its files the library makes a tokenizer that knows the special tokens only
    words = vocabulary.keys() - set(tokenizer.all_special_tokens)
    if not words or (most := max(vocabulary.values())) >= config.vocab_size:
        fault = f"has tokens up to {most}, but the network {config.vocab_size}" if words else "knows no words"
        raise CheckpointError(
            f"{folder}: the tokenizer {fault}: copy tokenizer.json and tokenizer_config.json from the foundation model"
        )
    if (added := tokenizer.num_special_tokens_to_add()) >= tokenizer.model_max_length:
        raise CheckpointError(
            f"{folder}: the tokenizer adds {added} special tokens to a text, and the network takes "
            f"{tokenizer.model_max_length} in all: copy tokenizer.json from the foundation model"
        )
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return
    with _trying(f"{folder / 'tokenizer.json'} cannot be used"):
        steps = json.loads(backend.to_str())
        growth = _growth(steps.get("normalizer")) * _growth(steps.get("pre_tokenizer"))
    if growth > MAX_GROWTH:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: its steps may make a text {growth:.3g} times as long, above the limit of "
            f"{MAX_GROWTH}: copy the file from the foundation model"
        )


def _growth(step: Mapping[str, Any] | None) -> float:
    """How many times as long a normalizer or pre-tokenizer makes a text at most."""
    if step is None:
        return 1
    inner = step.get("normalizers", step.get("pretokenizers", ()))
    if step["type"] == "Replace":
        given, pattern = len(step["content"]), step["pattern"]
        # an expression may match nothing, before every sign
        return max(1, given / max(1, len(pattern["String"]))) if "String" in pattern else 1 + given
    if step["type"] == "Precompiled":  # a table: its length, an index, then all replacements with a 0 between them
        table = base64.b64decode(step["precompiled_charsmap"])
        return max(1, *(len(part) for part in table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")))
    own = GROWTH.get(step["type"], 1) + len(step.get("prepend") or "") + len(step.get("replacement") or "")
    return math.prod(map(_growth, inner), start=float(own))
