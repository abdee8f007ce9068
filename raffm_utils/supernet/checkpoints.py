"""Checkpoint folders: finding them, reading them safely, writing and fingerprinting them."""

import copy
import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import CheckpointError
from ..files import REPOSITORY, parse_json, staged
from ..hub import download
from ..space import Family, family_of
from .quiet import quiet
from .spec import ElasticSpec

BUNDLED_FOLDER = REPOSITORY / "checkpoints"
SPACE_FILE, CONFIG_FILE = "elastic_space.json", "config.json"
POINTER = b"version https://git-lfs"
# what a configuration may ask for and is not given: code of the folder or of the hub (which an attention may be the
# name of), another number format, answers as tuples, of which ViT of transformers 5 makes nothing
NOT_TAKEN = frozenset({"auto_map", "attn_implementation", "experts_implementation", "quantization_config"})
NOT_TAKEN |= {"dtype", "torch_dtype", "return_dict"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def bundled() -> list[str]:
    """Names of the checkpoints that come with this repository."""
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob(f"*/{SPACE_FILE}"))


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local folder, a bundled name, or a hub id (downloaded, then cached).

    The path is absolute, so that what is read from it later is read from the same folder. `revision` is a branch, tag
    or commit on the hub; raises `CheckpointError` where there are none, as of a local folder.
    """
    if not str(name):
        raise CheckpointError(
            "the name of the checkpoint is empty: give a path, a bundled name, or '.' for this folder"
        )
    text, local = str(name), Path(os.path.abspath(os.path.expanduser(name)))
    if not local.is_dir() and text in bundled():
        local = BUNDLED_FOLDER / text
    if local.is_dir():
        if revision is not None:
            raise CheckpointError(f"revision={revision!r}: {local} has no revisions: leave it out, or give a hub id")
        return local
    links = BUNDLED_FOLDER / "published.json"
    published = json.loads(links.read_text(encoding="utf-8")) if links.is_file() else {}
    if text in published:
        raise CheckpointError(
            f"{text!r} is published, but not bundled: download the folder {published[text]} and give its path"
        )
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"no checkpoint {text!r}: it is neither a folder nor bundled (there are: {', '.join(bundled()) or 'none'})"
            "; give a path, one of these names, or a hub id such as 'owner/name'"
        )
    # no *.py: nothing from a checkpoint is ever run
    return download(text, ["*.json", "*.txt", "*.model", *WEIGHT_FILES], revision)


def name_of(folder: Path) -> str:
    """The name of a checkpoint's folder; in the hub's cache, where folders are named by commits, the repository's."""
    path = Path(os.path.abspath(folder))
    repository = path.parent.parent.name
    in_cache = path.parent.name == "snapshots" and repository.startswith("models--")
    return repository.rpartition("--")[2] if in_cache else path.name


def load_spec(folder: Path) -> ElasticSpec:
    """The elastic space of a folder: its `elastic_space.json`, or `elastic_config` in its `config.json`."""
    if (path := folder / SPACE_FILE).is_file():
        return ElasticSpec.from_file(path)
    content = read_config(folder).get("elastic_config")
    if content is None:
        raise CheckpointError(
            f"{folder}: neither {SPACE_FILE} nor 'elastic_config' in {CONFIG_FILE}: this is no scalable checkpoint; "
            f"put the {SPACE_FILE} it was trained with beside the weights"
        )
    return ElasticSpec.from_json(content, f"{folder / CONFIG_FILE}: elastic_config")


def load_model(folder: Path, attn_implementation: str | None = None) -> tuple[PreTrainedModel, Family]:
    """Load the full network of a checkpoint folder in float32, and its family; no code in the folder is run."""
    content = read_config(folder)
    family = family_of(content.get("model_type"), str(folder / CONFIG_FILE))
    path = weights_path(folder)
    tensors = read_weights(path)
    # mismatches are let through here, so that the report names them, and refused below
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        config = make_config(content)
        network = model_class(family, config)
        with quiet("transformers"), torch.device("cpu"):
            model, report = network.from_pretrained(None, config=config, state_dict=tensors, **options)
    except Exception as error:  # the library raises many kinds for settings that cannot be
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(f"{folder / CONFIG_FILE}: no network can be built ({reason}): fetch it again") from error
    vars(model).pop("_weight_conversions", None)  # names are written as on the hub, however they were read
    if attn_implementation is not None:
        _set_attention(model, attn_implementation)
    beside = {name for name in report["unexpected_keys"] if _is_beside(name, model)}
    report["unexpected_keys"] -= beside
    _check_report(report, path)
    if beside:
        warnings.warn(f"{path}: {_listed(sorted(beside))}: not part of this network, and left out", stacklevel=3)
    return model, family


def _set_attention(model: PreTrainedModel, implementation: str) -> None:
    try:
        model.set_attn_implementation(implementation)
    except Exception as error:  # ValueError, ImportError and others
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"attn_implementation={implementation!r}: {reason}: give 'eager' or 'sdpa'") from error


def _is_beside(name: str, model: PreTrainedModel) -> bool:
    """Whether a stored tensor belongs to a whole module beside the network: a pooler, the head of another task.

    All else would change what is computed: further layers, adapters, tensors inside a module of the network.
    """
    parts = name.removeprefix(f"{model.base_model_prefix}.").split(".")
    inside = {part for module in (model, model.base_model) for part, _ in module.named_children()}
    return len(parts) > 1 and parts[0] not in inside


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_report(report: dict[str, Any], path: Path) -> None:
    for fault in ("missing", "unexpected", "mismatched"):
        # a mismatch comes as (name, stored shape, needed shape)
        found = report[f"{fault}_keys"]
        if keys := sorted(k if isinstance(k, str) else f"{k[0]} {list(k[1])}, needed {list(k[2])}" for k in found):
            remedy = ", or remove them from the file if the network does without" if fault == "unexpected" else ""
            raise CheckpointError(
                f"{path}: {fault} tensors: {_listed(keys)}: it does not fit config.json; fetch both again{remedy}"
            )


def make_config(content: Mapping[str, Any]) -> Any:
    """The configuration that the content of a `config.json` describes, without what is not taken from a folder."""
    taken = {key: value for key, value in content.items() if key not in NOT_TAKEN and not key.startswith("_")}
    return transformers.AutoConfig.for_model(**taken)


def model_class(family: Family, config: Any) -> Any:
    """The model class for this configuration."""
    return getattr(transformers, family.auto_class)._model_mapping[type(config)]


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder; raises `CheckpointError` if it is missing or not a JSON object."""
    path = folder / CONFIG_FILE
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: give a folder as save_pretrained writes it") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}): fetch the file again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(content).__name__}: fetch the file again")
    return content


def weights_path(folder: Path) -> Path:
    """The weight file of a folder, safetensors first."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    parts = sorted(path.name for kind in ("safetensors", "bin") for path in folder.glob(f"*model*.{kind}*"))
    if parts:
        raise CheckpointError(
            f"{folder}: the weights are in shards or in a variant ({_listed(parts)}), not in one {WEIGHT_FILES[0]}: "
            "load the folder with transformers (variant=... if its files have one) and save it again with "
            "save_pretrained(folder, max_shard_size='100GB')"
        )
    raise CheckpointError(f"{folder}: no weights: expected {' or '.join(WEIGHT_FILES)}; fetch them into the folder")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file, all of them finite in float32; no code in the file is run."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(
                f"{path}: a pointer of Git LFS instead of the weights: run `git lfs install` and `git lfs pull` there"
            )
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _read_bin(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: unreadable, perhaps truncated ({reason}): fetch the file again") from error
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()):
        raise CheckpointError(f"{path}: expected names and tensors only: save the model's state_dict() instead")
    for key, tensor in tensors.items():
        _check_values(key, tensor, path)
    return tensors


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    # listed before anything is unpickled; files older than the zip format cannot be listed and are
    # left to weights_only, which refuses the same things while reading
    try:
        unsafe = get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:
        unsafe = []
    if unsafe:
        raise CheckpointError(
            f"{path}: this pickle would run code ({', '.join(sorted(unsafe)[:3])}): refused; "
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


def _check_values(key: str, tensor: torch.Tensor, path: Path) -> None:
    plain = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
    small = tensor.is_floating_point() and tensor.element_size() < torch.float16.itemsize
    if not plain or small or tensor.is_complex():
        kind = "without values" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        raise CheckpointError(f"{path}: {key} is no plain tensor of numbers ({kind}): save it in float32 or float16")
    if not tensor.is_floating_point():
        return
    finite = torch.isfinite(tensor.float())  # in which the network computes: 1e300 in float64 is infinite there
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise CheckpointError(
            f"{path}: {key} holds {bad} values that are NaN or infinite in float32: fetch the file again"
        )


def load_processor(folder: Path, family: Family, config: Any) -> Any:
    """The image processor or tokenizer of a folder; images are processed without torchvision, no code there is run.

    A tokenizer truncates text to the number of positions in `config`.
    """
    try:
        if family.is_image:
            images = transformers.AutoImageProcessor
            return images.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        kind = "preprocessor_config.json" if family.is_image else "tokenizer files"
        raise CheckpointError(f"{folder}: no usable {kind}: copy them from the foundation model") from error
    # without its files the library makes a tokenizer that knows the special tokens only
    words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    if not words or (most := max(tokenizer.get_vocab().values())) >= config.vocab_size:
        fault = f"has tokens up to {most}, but the network {config.vocab_size}" if words else "knows no words"
        raise CheckpointError(
            f"{folder}: the tokenizer {fault}: copy tokenizer.json and tokenizer_config.json from the foundation model"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, family.positions(config))
    return tokenizer


# what a configuration says besides how the network computes; so do all names of dropout, which eval mode has none of
# fmt: off
BOOKKEEPING = frozenset({
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id",
    "problem_type", "return_dict", "output_attentions", "output_hidden_states", "use_cache", "initializer_range",
    "tie_word_embeddings", "chunk_size_feed_forward", "pooler_act", "pooler_output_size", "encoder_stride",
})
# fmt: on


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings that decide what a network computes, as far as they are not those of its family.

    So it makes no difference whether a file spells out a default, nor whether the library has got new ones.
    """
    usual, given = type(config)().to_dict(), config.to_dict()
    kept = {key for key in usual if key not in BOOKKEEPING and "dropout" not in key}
    return {key: given[key] for key in sorted(kept) if given.get(key, usual[key]) != usual[key]}


def fingerprint(model: PreTrainedModel, spec: ElasticSpec) -> str:
    """16 hex digits that change with a weight, with how heads are sliced, and with a setting that changes answers.

    Such settings are the number of heads, the activation, the epsilon of the norms. The device makes no difference.
    """
    digest = hashlib.sha256(spec.head_slicing.encode())
    digest.update(json.dumps(_settings(model.config), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def save(folder: Path, model: PreTrainedModel, spec: ElasticSpec, processor: Any, dtype: torch.dtype) -> None:
    """Write a checkpoint folder that `load_model` and `load_spec` can read, replacing an earlier checkpoint there.

    Weights have the names that they have on the hub, as other versions of `transformers` know no others.
    Raises `CheckpointError`, and leaves `folder` unchanged, if it cannot be written or holds something else.
    """
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": str(dtype).split(".")[-1]}
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    own: Any = copy.copy(model)  # the library notes in the configuration what it writes
    vars(own)["config"] = copy.deepcopy(model.config)
    vars(own).pop("_weight_conversions", None)
    with staged(folder, error=CheckpointError, replaced=CONFIG_FILE) as part:
        with quiet("transformers"):
            own.save_pretrained(part, state_dict=tensors)
        (part / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        # safetensors makes its files readable by their owner only
        (part / WEIGHT_FILES[0]).chmod((part / CONFIG_FILE).stat().st_mode)
        (part / SPACE_FILE).write_text(json.dumps(spec.to_json(), indent=1) + "\n", encoding="utf-8")
        if processor is not None:
            processor.save_pretrained(part)
