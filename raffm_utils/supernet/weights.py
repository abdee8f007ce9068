"""Weight files: found, bounded by what their headers say, and read without running anything in them."""

import io
import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CheckpointError
from ..files import check_ordinary, read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # behind the name of a weight file: which shard has which of its tensors
ZIP = b"PK\x03\x04"
SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
POINTER = b"version https://git-lfs"
INDICES = ("position_ids", "token_type_ids")  # whole numbers that older folders hold beside the weights
MAX_TENSORS = 10_000  # 600 layers of the families that there are; their header is a tenth of what it may be
MAX_HEADER_BYTES = 8 * 2**20
# all that a state dict of plain tensors is made of; torch would take more, some of which allocates what it is told to
PLAIN = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
PLAIN |= {f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int")}
PLAIN |= {f"torch {kind}Storage" for kind in ("Short", "Char", "Byte", "Bool")}


def weights_path(folder: Path) -> Path:
    """The weight file of a folder, or the index of its shards; safetensors first."""
    for name in WEIGHT_FILES:
        for path in (folder / name, folder / f"{name}{INDEX}"):
            if path.exists() or path.is_symlink():
                check_ordinary(path, CheckpointError)
                return path
    there = sorted(path.name for kind in ("safetensors", "bin") for path in folder.glob(f"*model*.{kind}*"))
    if there:
        raise CheckpointError(
            f"{folder}: no {' or '.join(WEIGHT_FILES)}, but a variant, or shards without an index ({listed(there)}): "
            "fetch the index, or load the folder with transformers (variant=...) and save it again with save_pretrained"
        )
    raise CheckpointError(f"{folder}: no weights: expected {' or '.join(WEIGHT_FILES)}; fetch them into the folder")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    content = read_json(index, CheckpointError)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{index}: no 'weight_map' of names and files: restore the file from its source")
    kind = index.name.removesuffix(INDEX).rpartition(".")[2]
    names = sorted(set(named.values()))
    for name in names:
        if not re.fullmatch(rf"[\w-][\w.-]*\.{kind}", name):
            raise CheckpointError(
                f"{index}: names {listed([name])}, which is no .{kind} file of this folder: restore it from its source"
            )
        try:
            check_ordinary(index.with_name(name), CheckpointError)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{index}: {name}, one of {len(names)} shards, is not there: fetch it into the folder"
            ) from error
    return [index.with_name(name) for name in names]


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(name if len(name) <= 120 else f"{name[:117]}..." for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file, or of all shards of an index, all of them finite in float32.

    No code in a file is run. What it may make of itself is bounded by its size, before anything is read: compressed
    parts, tensors of more values than are stored, and millions of names are refused.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in _shards(path) if path.name.endswith(INDEX) else [path]:
        part = _read_file(file)
        if twice := sorted(tensors.keys() & part.keys()):
            raise CheckpointError(
                f"{file}: {listed(twice)}: in another shard as well: save the network again with save_pretrained"
            )
        tensors |= part
        _check_number(len(tensors), path)
    return tensors


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    _check_kind(path)
    try:
        if path.suffix == ".safetensors":
            _check_header(path)
            tensors = load_file(path)
        else:
            tensors = _read_bin(path)
    except (
        SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, RecursionError, zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: unreadable, perhaps truncated ({reason}): fetch the file again") from error
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()):
        raise CheckpointError(f"{path}: expected names and tensors only: save the model's state_dict() instead")
    _check_number(len(tensors), path)
    _check_stored(tensors, path)
    for key, tensor in tensors.items():
        _check_values(key, tensor, path)
    return tensors


def _check_kind(path: Path) -> None:
    """Raise for what is often found in place of a weight file, which fetching it in the same way would not cure."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(POINTER):
        raise CheckpointError(
            f"{path}: a pointer of Git LFS instead of the weights: run `git lfs install` and `git lfs pull` there"
        )
    if start.lstrip().startswith(b"<"):
        raise CheckpointError(
            f"{path}: a web page instead of the weights: sign in, or fetch it with huggingface-cli download"
        )
    safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES
    if path.suffix == ".safetensors" and start.startswith(ZIP):
        raise CheckpointError(f"{path}: an archive as torch.save writes it: rename it to {WEIGHT_FILES[1]}")
    if path.suffix != ".safetensors" and safetensors:
        raise CheckpointError(f"{path}: holds safetensors: rename it to {WEIGHT_FILES[0]}")


def _check_number(tensors: int, path: Path) -> None:
    if tensors > MAX_TENSORS:
        raise CheckpointError(
            f"{path}: {tensors:,} tensors, above the limit of {MAX_TENSORS:,}: save the weights of one network alone"
        )


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: a header of {size / 1e6:,.1f} MB, above the limit of {MAX_HEADER_BYTES / 1e6:.1f} MB: if the "
                "file is whole, save the weights of one network alone, without metadata"
            )
        # the library reads it again; this one is for the number, of which its time is more than a multiple
        _check_number(len(json.loads(file.read(size))), path)


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP  # as torch tells the two formats apart
    # listed before anything is unpickled; weights_only then refuses the same things while reading
    for pickled in _zipped(path) if zipped else _legacy(path):
        if more := _globals(pickled) - PLAIN:
            raise CheckpointError(
                f"{path}: refused: this pickle holds more than plain tensors "
                f"({listed(sorted(name.replace(' ', '.') for name in more))}), which could run code; "
                "ask its author for model.safetensors"
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: it is no plain pickle of tensors ({str(error).splitlines()[0][:160]}); "
            "it may be truncated or would run code; ask its author for model.safetensors"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}: save the model's state_dict() instead")
    return content


class _Bounded(io.FileIO):
    """A file of which no more than a header is read at once, whatever size the file says that its directory has."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_HEADER_BYTES:
            raise ValueError(f"a directory of {size:,} bytes")
        return super().read(size)


def _zipped(path: Path) -> Iterator[BinaryIO]:
    """The pickles in a zip archive in which everything is stored once, as it is, as torch does it."""
    with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        total, size = sum(entry.file_size for entry in entries), path.stat().st_size
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or total > size or archive.comment or len({entry.filename for entry in entries}) < len(entries):
            raise CheckpointError(
                f"{path}: an archive of {size / 1e6:,.1f} MB that unpacks to {total / 1e6:,.1f} MB, or holds a name "
                "twice: torch packs nothing; save it again with torch.save"
            )
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                _check_pickle(entry.file_size, path)
                yield io.BytesIO(archive.read(entry))


def _check_pickle(size: int, path: Path) -> None:
    if size > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: {size / 1e6:,.1f} MB besides the values of tensors, above the limit of "
            f"{MAX_HEADER_BYTES / 1e6:.1f} MB: save the model's state_dict() alone"
        )


def _legacy(path: Path) -> Iterator[BinaryIO]:
    """The pickles at the start of a file in the format before zip: magic number, version, system, content, names."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_HEADER_BYTES))
    for _ in range(5):
        yield head


def _globals(pickled: BinaryIO) -> set[str]:
    """What a pickle would look up by name: functions and classes."""
    found = set()
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("GLOBAL", "INST"):
            found.add(str(argument))
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "OBJ"):
            found.add(operation.name)  # made up while reading: not told here
    return found


def _check_stored(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raise where there are more values than are stored: of one number, a view has as many as one likes."""
    total = 0
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta:
            continue
        needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        total += needed
        if needed > stored:
            raise CheckpointError(
                f"{path}: {listed([key])} {list(tensor.shape)} needs {needed:,} bytes, of which {stored:,} are stored: "
                "save it with .contiguous()"
            )
    if total > 2 * (size := path.stat().st_size):  # some networks have one tensor under two names
        raise CheckpointError(
            f"{path}: {total / 1e6:,.1f} MB of tensors share {size / 1e6:,.1f} MB: save them with .clone()"
        )


def _check_values(key: str, tensor: torch.Tensor, path: Path) -> None:
    plain = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
    small = tensor.is_floating_point() and tensor.element_size() < torch.float16.itemsize
    if not plain or small or tensor.is_complex():
        kind = "without values" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        raise CheckpointError(
            f"{path}: {listed([key])} is no plain tensor of numbers ({kind}): save it in float32 or float16"
        )
    if not tensor.is_floating_point():
        if key.endswith(INDICES) and tensor.dtype != torch.bool:
            return
        raise CheckpointError(
            f"{path}: {listed([key])} is in {tensor.dtype}, which are no weights by themselves: turn the quantization "
            "back (dequantize() in transformers) and save it in float32 or float16"
        )
    finite = torch.isfinite(tensor.float())  # in which the network computes: 1e300 in float64 is infinite there
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise CheckpointError(
            f"{path}: {listed([key])} holds {bad} values that are NaN or infinite in float32: take a checkpoint from "
            "before the training went astray"
        )
