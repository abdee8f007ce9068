"""Model-ready tensors of raw examples, made once by a processor and then cached on disk."""

import hashlib
import json
import os
import threading
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import DataError
from ..files import CACHE_VARIABLE, cache_folder
from ..writing import replacing

if TYPE_CHECKING:
    import datasets


ENCODING_VERSION = 3  # part of every cache key: raise it when the tensors that this file makes change
CHUNK = 500  # examples encoded at a time
MAX_TOKENS = 512


def digest(*parts: str | bytes) -> str:
    """One hash of all parts that also depends on the boundaries between them."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


def token_limit(tokenizer: Any) -> int:
    """The number of tokens to which sentences are truncated."""
    return int(min(tokenizer.model_max_length, MAX_TOKENS))


_one_at_a_time = threading.Lock()


def token_ids(tokenizer: Any, sentences: list[str], limit: int | None = None) -> list[list[int]]:
    """The token ids of sentences, special tokens included, cut to `limit` of them; threads take turns.

    Raises `DataError` where the tokenizer panics, as when a regular expression in it tries too many ways to match.
    """
    cut = {} if limit is None else {"truncation": True, "max_length": limit}
    try:
        with _one_at_a_time:  # a tokenizer keeps the truncation of a call in itself
            found: list[list[int]] = tokenizer(sentences, verbose=False, **cut)["input_ids"]
    except BaseException as error:  # the panic is none of the kinds that people catch
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the tokenizer gives up on one of {len(sentences)} sentences ({reason}): copy tokenizer.json from the "
            "foundation model"
        ) from error
    return found


def whole_signs(text: str) -> str:
    """The text with U+FFFD in place of every half surrogate pair, which is no sign and which no tokenizer takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def per_channel(value: Any) -> list[float]:
    """A mean or standard deviation of a processor for red, green and blue; one number stands for all three."""
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf" or numbers.shape not in ((), (3,)):
        raise DataError(
            f"{value!r} is no mean or deviation of pixels in red, green and blue: give one number, or three"
        )
    return np.broadcast_to(numbers, 3).astype(float).tolist()


def upright_rgb(image: Any) -> Any:
    """A picture as networks get it: turned as its EXIF says, 8 bits a channel, transparent parts white.

    Raises `ValueError` for more than 8 bits, which Pillow would clip at 255. `predict_image.py` does the same.
    """
    from PIL import Image, ImageOps

    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its mode {image.mode} has no fixed white: scale it to 0 to 255 and save it with 8 bits")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _chunks(rows: int) -> Iterable[int]:
    from tqdm.auto import tqdm

    return tqdm(range(0, rows, CHUNK), desc="encoding", unit=f"x{CHUNK}", disable=rows <= 5000)


@dataclass(frozen=True)
class Pixels:
    """Resized images as bytes; they are rescaled and normalised when a batch is asked for."""

    column: ClassVar[str] = "image"
    pixels: torch.Tensor  # uint8, (examples, 3, height, width)
    processor: Any

    @staticmethod
    def feature() -> Any:
        import datasets

        return datasets.Image()

    @staticmethod
    def settings(processor: Any) -> str:
        """The settings of the processor that determine the tensors; refuses one that is not for images."""
        from transformers import BaseImageProcessor

        if not isinstance(processor, BaseImageProcessor):
            raise DataError(
                f"images need an image processor, not a {type(processor).__name__}: pass the one "
                "that belongs to the model: supernet.processor, or AutoImageProcessor.from_pretrained(...)"
            )
        return json.dumps([type(processor).__name__, processor.to_dict()], sort_keys=True, default=str)

    @classmethod
    def encode(cls, raw: "datasets.Dataset", processor: Any) -> dict[str, torch.Tensor]:
        """The images as the processor resizes and crops them."""
        from PIL import Image

        pixels = torch.empty(0, dtype=torch.uint8, device="cpu")
        for start in _chunks(len(raw)):
            try:
                images = [upright_rgb(image) for image in raw[start : start + CHUNK]["image"]]
                batch = processor(images, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
                if start == 0:
                    pixels = torch.empty((len(raw), *batch.shape[1:]), dtype=torch.uint8, device="cpu")
                if batch.shape[1:] != pixels.shape[1:]:
                    raise ValueError(f"shapes {tuple(pixels.shape[1:])} and {tuple(batch.shape[1:])}")
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise DataError(
                    f"one of the images {start} to {start + CHUNK} cannot be read or resized ({error}); "
                    "replace the data file, or use a processor that resizes to a fixed height and width"
                ) from error
            pixels[start : start + CHUNK] = batch
        return {"pixels": pixels}

    @classmethod
    def restore(cls, tensors: dict[str, torch.Tensor], rows: int, processor: Any) -> Self:
        """From what `encode` gave; `KeyError` or `ValueError` if it is something else."""
        pixels = tensors["pixels"]
        if pixels.ndim != 4 or len(pixels) != rows or pixels.dtype != torch.uint8:
            raise ValueError(f"holds {pixels.dtype} of shape {tuple(pixels.shape)} for {rows} images")
        return cls(pixels, processor)

    def order(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(rows), device="cpu")

    def batch(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Exactly what the processor would give."""
        values = self.pixels[rows].to(torch.float32)
        if self.processor.do_rescale:
            values *= self.processor.rescale_factor
        if self.processor.do_normalize:
            values -= _per_channel(self.processor.image_mean)
            values /= _per_channel(self.processor.image_std)
        return {"pixel_values": values}


@dataclass(frozen=True)
class Tokens:
    """Concatenated token ids of varying length; a batch is padded only to its own longest sentence."""

    column: ClassVar[str] = "sentence"
    ids: torch.Tensor  # int32, all tokens of all examples
    lengths: torch.Tensor  # int64, (examples,)
    starts: torch.Tensor  # int64, (examples,)
    pad_id: int

    @staticmethod
    def feature() -> Any:
        import datasets

        return datasets.Value("string")

    @staticmethod
    def check(processor: Any) -> None:
        """Raise `DataError` unless `processor` is a tokenizer."""
        from transformers import PreTrainedTokenizerBase

        if not isinstance(processor, PreTrainedTokenizerBase):
            raise DataError(
                f"sentences need a tokenizer, not a {type(processor).__name__}: pass the one that belongs to "
                "the model: supernet.processor, or AutoTokenizer.from_pretrained(...)"
            )

    @classmethod
    def settings(cls, processor: Any) -> str:
        """The settings of the tokenizer that determine the tokens; refuses anything else."""
        cls.check(processor)
        backend = getattr(processor, "backend_tokenizer", None)
        state = json.loads(backend.to_str()) if backend is not None else {**processor.init_kwargs}
        # A tokenizer remembers the padding and truncation of its last call: they would change the key.
        state = {key: value for key, value in state.items() if key not in ("padding", "truncation")}
        cut = [token_limit(processor), processor.truncation_side, processor.pad_token_id]
        parts = [type(processor).__name__, sorted(processor.get_vocab().items()), cut, state]
        return json.dumps(parts, sort_keys=True, default=str)

    @classmethod
    def encode(cls, raw: "datasets.Dataset", processor: Any) -> dict[str, torch.Tensor]:
        """The tokens of the sentences, special tokens included."""
        limit = token_limit(processor)
        ids: list[list[int]] = []
        for start in _chunks(len(raw)):
            ids += token_ids(processor, list(raw[start : start + CHUNK]["sentence"]), limit)
        if not all(ids):
            raise DataError(f"sentence {ids.index([])} has no tokens: remove it, or let the tokenizer add special ones")
        return cls._joined(ids)

    @classmethod
    def of(cls, ids: list[list[int]], processor: Any) -> Self:
        """From the token ids of every sentence."""
        return cls.restore(cls._joined(ids), len(ids), processor)

    @staticmethod
    def _joined(ids: list[list[int]]) -> dict[str, torch.Tensor]:
        return {
            "ids": torch.tensor([token for row in ids for token in row], dtype=torch.int32, device="cpu"),
            "lengths": torch.tensor([len(row) for row in ids], dtype=torch.int32, device="cpu"),
        }

    @classmethod
    def restore(cls, tensors: dict[str, torch.Tensor], rows: int, processor: Any) -> Self:
        """From what `encode` gave; `KeyError` or `ValueError` if it is something else."""
        ids, lengths = tensors["ids"], tensors["lengths"].long()
        if lengths.shape != (rows,) or ids.shape != (int(lengths.sum()),):
            raise ValueError(
                f"holds {tuple(lengths.shape)} sentences and {tuple(ids.shape)} tokens for {rows} sentences"
            )
        return cls(ids, lengths, lengths.cumsum(0) - lengths, processor.pad_token_id or 0)

    def order(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.argsort(self.lengths[rows], stable=True)

    def batch(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        lengths = self.lengths[rows]
        spans = zip(self.starts[rows].tolist(), lengths.tolist(), strict=True)
        sentences = [self.ids[start : start + length].long() for start, length in spans]
        ids = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=self.pad_id)
        columns = torch.arange(ids.shape[1], device="cpu")
        return {"input_ids": ids, "attention_mask": (columns < lengths[:, None]).long()}


Encoding = Pixels | Tokens


def _per_channel(values: Any) -> torch.Tensor:
    return torch.tensor(per_channel(values), dtype=torch.float32, device="cpu").view(-1, 1, 1)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    return " ".join(f"{name} {zlib.crc32(tensors[name].numpy().data)}" for name in sorted(tensors))


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a cache file, memory-mapped; `ValueError` unless they are those that were written."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if (file.metadata() or {}).get("checksum") != _checksum(tensors):
            raise ValueError("its content has changed since it was written")
    return tensors


def encode_cached(
    encoding: type[Pixels] | type[Tokens], raw: "datasets.Dataset", processor: Any, fingerprint: str
) -> Encoding:
    """Tensors from the cache, filled on first use; they are memory-mapped rather than read."""
    versions = [f"{library} {version(library)}" for library in ("transformers", "tokenizers", "pillow")]
    folder = cache_folder()
    path = folder / f"{digest(fingerprint, str(ENCODING_VERSION), *versions)[:40]}.safetensors"
    if os.path.exists(path):  # unlike `Path.exists`, no for a name that cannot be
        try:
            return encoding.restore(_read(path), len(raw), processor)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({error}) and is made again", stacklevel=3)
    try:
        with replacing(path) as part:  # two processes at once both end with a whole file
            tensors = encoding.encode(raw, processor)
            save_file(tensors, part, metadata={"checksum": _checksum(tensors)})
        return encoding.restore(_read(path), len(raw), processor)
    except (SafetensorError, OSError) as error:
        message = f"cannot write the cache {folder} ({error}); set {CACHE_VARIABLE} to another folder"
        raise DataError(message) from error
