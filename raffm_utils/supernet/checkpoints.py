"""Checkpoint folders: finding them, reading them safely, writing and fingerprinting them."""

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import CheckpointError, printable, shown
from ..files import REPOSITORY, read_json
from ..hub import download
from ..space import Family, family_of
from ..writing import staged
from .quiet import quiet
from .spec import ElasticSpec
from .weights import SHARDS, WEIGHT_FILES, listed, read_weights, weights_path

MORE_LABELS, MORE_PARAMETERS = 1000, 2**20  # that a config.json may ask for beyond what is stored, to be told by name
BUNDLED_FOLDER = REPOSITORY / "checkpoints"
SPACE_FILE, CONFIG_FILE = "elastic_space.json", "config.json"
# what a configuration may ask for and is not given: code of the folder or of the hub (which an attention may be the
# name of), another number format, answers as tuples, of which ViT of transformers 5 makes nothing
NOT_TAKEN = frozenset({"auto_map", "attn_implementation", "experts_implementation", "quantization_config"})
NOT_TAKEN |= {"dtype", "torch_dtype", "return_dict"}


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
    if not os.path.isdir(local) and text in bundled():
        local = BUNDLED_FOLDER / text
    if os.path.isdir(local):  # unlike a Path, not troubled by a name that the system refuses
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
            f"no checkpoint {shown(text)}: it is neither a folder nor bundled (there are: "
            f"{', '.join(bundled()) or 'none'}); give a path, one of these names, or a hub id such as 'owner/name'"
        )
    # no *.py: nothing from a checkpoint is ever run
    return download(text, ["*.json", "*.txt", "*.model", *WEIGHT_FILES, *SHARDS], revision)


def name_of(folder: Path) -> str:
    """The name of a checkpoint's folder; in the hub's cache, where folders are named by commits, the repository's."""
    path = Path(os.path.abspath(folder))
    repository = path.parent.parent.name
    in_cache = path.parent.name == "snapshots" and repository.startswith("models--")
    return repository.rpartition("--")[2] if in_cache else path.name


def load_spec(folder: Path) -> ElasticSpec:
    """The elastic space of a folder: its `elastic_space.json`, or `elastic_config` in its `config.json`."""
    if (path := folder / SPACE_FILE).exists() or path.is_symlink():
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
    family, path = family_of(content.get("model_type"), str(folder / CONFIG_FILE)), weights_path(folder)
    model, report = _build(content, family, path)
    vars(model).pop("_weight_conversions", None)  # names are written as on the hub, however they were read
    if attn_implementation is not None:
        _set_attention(model, attn_implementation)
    beside = {name for name in report["unexpected_keys"] if _is_beside(name, model)}
    report["unexpected_keys"] -= beside
    _check_report(report, path)
    if beside:
        warnings.warn(
            f"{path}: {printable(listed(sorted(beside)))}: not part of this network, and left out", stacklevel=3
        )
    return model, family


def load_encoder(folder: Path, labels: Mapping[str, Any]) -> tuple[PreTrainedModel, Family]:
    """Load the encoder of any folder of a known family in float32, with an untrained classifier for these labels.

    `labels` are `id2label` and `label2id`. A folder is read as carefully as one of a scalable network.
    """
    content = {key: value for key, value in read_config(folder).items() if key != "num_labels"} | dict(labels)
    family, path = family_of(content.get("model_type"), str(folder / CONFIG_FILE)), weights_path(folder)
    model, report = _build(content, family, path)
    encoder = {name for name in report["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")}
    needed = {name for name in encoder if ".pooler." not in name}  # which the training of some encoders does without
    _check_report({"missing_keys": needed, "unexpected_keys": (), "mismatched_keys": report["mismatched_keys"]}, path)
    return model, family


def _build(content: Mapping[str, Any], family: Family, path: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A network with the weights of a file or an index, and the library's report on which of them fitted."""
    tensors = read_weights(path)
    _check_size(path.parent, content, family, tensors)
    # mismatches are let through here, so that the report names them
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with building(path.with_name(CONFIG_FILE)), quiet("transformers"), torch.device("cpu"):
        config = make_config(content)
        model, report = model_class(family, config).from_pretrained(None, config=config, state_dict=tensors, **options)
    return model, report


def _check_size(folder: Path, content: Mapping[str, Any], family: Family, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a `config.json` of a much larger network than there are weights for, before any of it is built.

    Where both are near each other, the report says which tensors do not fit.
    """
    path, belongs = folder / CONFIG_FILE, "take the config.json that belongs to the weights"
    rows = sum("{layer}" in row.name for row in family.rows)
    for key in (family.layers_key, "num_hidden_layers"):
        layers = content.get(key)
        if isinstance(layers, int) and layers * rows > 2 * len(tensors):
            raise CheckpointError(
                f"{path}: {key}={layers}: they take {layers * rows:,} tensors, {len(tensors):,} are stored: {belongs}"
            )
    labels, classifier = content.get("num_labels"), tensors.get(f"{family.classifier}.weight")
    if isinstance(labels, int) and classifier is not None and labels > 2 * len(classifier) + MORE_LABELS:
        raise CheckpointError(f"{path}: num_labels={labels}, but the weights tell {len(classifier)} apart: {belongs}")
    with building(path), quiet("transformers"), torch.device("meta"):
        config = make_config(content)
        needed = sum(p.numel() for p in model_class(family, config)(config).parameters())
    stored = sum(tensor.numel() for tensor in tensors.values())
    if needed > 2 * stored + MORE_PARAMETERS:
        raise CheckpointError(
            f"{path}: describes a network of {needed:,} parameters, but {stored:,} are stored: {belongs}"
        )


@contextmanager
def building(path: Path) -> Iterator[None]:
    """Whatever the library raises for settings that cannot be, as one error that names their file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the library raises many kinds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(
            f"{path}: no network can be built ({reason}): correct it, or take the one that belongs to the weights"
        ) from error


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


def _check_report(report: dict[str, Any], path: Path) -> None:
    for fault in ("missing", "unexpected", "mismatched"):
        # a mismatch comes as (name, stored shape, needed shape)
        found = report[f"{fault}_keys"]
        if keys := sorted(k if isinstance(k, str) else f"{k[0]} {list(k[1])}, needed {list(k[2])}" for k in found):
            remedy = "take both from one place"
            remedy += ", or remove them from the file if the network does without" if fault == "unexpected" else ""
            raise CheckpointError(f"{path}: {fault} tensors: {listed(keys)}: it does not fit config.json; {remedy}")


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
        content = read_json(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: give a folder as save_pretrained writes it") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected an object, got {type(content).__name__}: restore the file from its source"
        )
    return content


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
