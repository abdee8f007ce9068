"""A submodel as a folder of its own: weights in exactly the narrowed shapes, loaded back without the supernet.

If the configuration of the architecture can express the widths, it is an ordinary Hugging Face folder.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ..errors import CheckpointError, DeploymentError, ElasticSpaceError
from ..files import read_json
from ..space import Family, SubmodelConfig, family_of
from ..supernet import (
    WEIGHT_FILES,
    ElasticSpec,
    Supernet,
    checkpoints,
    quiet,
    read_weights,
    read_widths,
    weights_path,
)

SUBMODEL_FILE = "submodel.json"
WEIGHTS_FILE = WEIGHT_FILES[0]
MAX_LAYERS = 1000


def widths_of(model: PreTrainedModel) -> SubmodelConfig:
    """The actual widths of a model's parameters, 0 where a block is left out.

    Layers of which nothing is left are listed where the configuration says that they were, if it does.
    """
    found = _found(model)
    try:
        said = _config_in(model.config.submodel)
    except (AttributeError, KeyError, TypeError, ElasticSpaceError):
        return found
    left = [(a, f) for a, f in zip(said.attention, said.ffn, strict=True) if a or f] or [(0, 0)]
    there = SubmodelConfig(said.hidden, *(tuple(widths) for widths in zip(*left, strict=True)))
    return said if found in (said, there) else found


def _config_in(content: Mapping[str, Any]) -> SubmodelConfig:
    return SubmodelConfig(content["hidden"], tuple(content["attention"]), tuple(content["ffn"]))


def _found(model: PreTrainedModel) -> SubmodelConfig:
    return read_widths(family_of(model.config.model_type).parameters(model))


def stock_config(model: PreTrainedModel) -> Any:
    """A configuration from which `transformers` alone builds this very network; None if there is none."""
    family, found = family_of(model.config.model_type), _found(model)
    if len(set(found.attention)) > 1 or len(set(found.ffn)) > 1:
        return None
    config = copy.deepcopy(model.config)
    _, heads, _, _ = family.widths(config)
    setattr(config, family.hidden_key, found.hidden)
    attention, ffn = found.attention[0], found.ffn[0]
    if ffn:
        setattr(config, family.ffn_key, ffn)
    if attention and (attention != found.hidden or hasattr(config, family.head_size_name)):
        setattr(config, family.head_size_name, attention // heads)
    try:
        # the architectures differ in what they read: building one, without memory, is the only sure test
        with torch.device("meta"):
            built = type(model)(config)
    except (ValueError, TypeError, RuntimeError):
        return None
    same = _shapes(built) == _shapes(model)
    return config if same and _head_sizes(built, family) == _head_sizes(model, family) else None


def _shapes(model: PreTrainedModel) -> list[tuple[str, torch.Size]]:
    return [(name, p.shape) for name, p in model.named_parameters()]


def _head_sizes(model: PreTrainedModel, family: Family) -> list[int]:
    layers = range(family.widths(model.config)[0])
    modules = (model.get_submodule(family.attention_module.format(layer=layer)) for layer in layers)
    return [int(getattr(module, family.head_size_name)) for module in modules]


def write_weights(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> bool:
    """Write configuration and weights; returns whether the folder is a stock one."""
    own: Any = copy.deepcopy(model)
    own.to("cpu", dtype)
    for name, tensor in own.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise DeploymentError(f"{name} does not fit {dtype}: export it in float32, with format 'safetensors'")
    if (config := stock_config(model)) is not None:
        own.config.__dict__.update(vars(config))
        vars(own).pop("_weight_conversions", None)  # names are written as on the hub, however they were read
        with quiet("transformers"):
            own.save_pretrained(folder)
    else:
        _write_narrowed(own, folder, dtype)
    # safetensors makes its files readable by their owner only
    (folder / WEIGHTS_FILE).chmod((folder / checkpoints.CONFIG_FILE).stat().st_mode)
    return config is not None


def _write_narrowed(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    content = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": str(dtype).split(".")[-1]}
    (folder / checkpoints.CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_submodel(folder: str | Path) -> PreTrainedModel:
    """Load the submodel of an exported folder, in float32, frozen and in eval mode; no supernet is needed.

    Raises `CheckpointError`, naming the file and the problem, for any other or a damaged folder.
    """
    folder = Path(folder).expanduser()
    content = read_submodel_file(folder)
    if content["stock"]:
        model, _ = checkpoints.load_model(folder)
        return model.eval().requires_grad_(False)
    widths = _config_in(content)
    path = weights_path(folder)
    tensors = {name: tensor.float() for name, tensor in read_weights(path).items()}
    settings = checkpoints.read_config(folder)
    with checkpoints.building(folder / checkpoints.CONFIG_FILE):
        model = _empty(settings, widths, folder)
    needed = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if needed != stored:
        names = sorted(key for key in needed | stored if needed.get(key) != stored.get(key))
        first = f"{names[0]} {stored.get(names[0], 'is missing')}, needed {needed.get(names[0], 'nothing')}"
        raise CheckpointError(f"{path}: {len(names)} tensors do not fit {SUBMODEL_FILE} ({first}): export it again")
    model.load_state_dict(tensors, assign=True)
    with checkpoints.building(folder / checkpoints.CONFIG_FILE):
        _fill_buffers(model, settings)
    return model.requires_grad_(False)


def read_submodel_file(folder: Path) -> dict[str, Any]:
    """The `submodel.json` of an exported folder."""
    path = folder / SUBMODEL_FILE
    try:
        content: dict[str, Any] = read_json(path, CheckpointError)
        if not isinstance(content["stock"], bool):
            raise TypeError(f"stock={content['stock']!r}")
        config = _config_in(content)
        for width in (config.hidden, *config.attention, *config.ffn):
            if not isinstance(width, int):
                raise TypeError(f"a width is {width!r}")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: give a folder that export_submodel wrote") from error
    except (ValueError, KeyError, TypeError, ElasticSpaceError) as error:
        raise CheckpointError(f"{path}: not a description of a submodel ({error!r}): export it again") from error
    if (layers := len(config.attention)) > MAX_LAYERS:
        raise CheckpointError(f"{path}: {layers:,} layers, above the limit of {MAX_LAYERS:,}: export it again")
    return content


def _empty(settings: Mapping[str, Any], widths: SubmodelConfig, folder: Path) -> PreTrainedModel:
    """A network of these widths that takes no memory: what it needs is compared with what is stored before."""
    config = checkpoints.make_config(settings)
    family = family_of(config.model_type)
    _, heads, _, _ = family.widths(config)
    # a stock network around it, to cut it out of: as wide as the widest layer, in whole heads
    wide = heads * -(-max(widths.hidden, *widths.attention) // heads)
    _resize(config, family, wide, max(1, *widths.ffn), len(widths.attention))
    try:
        with torch.device("meta"):
            network = checkpoints.model_class(family, config)(config)
            return Supernet(network, family, ElasticSpec.from_json({}, "")).extract(widths, copy=True).float()
    except ElasticSpaceError as error:
        raise CheckpointError(f"{folder / SUBMODEL_FILE}: {error}: export it again") from error


def _resize(config: Any, family: Family, hidden: int, ffn: int, layers: int) -> None:
    setattr(config, family.hidden_key, hidden)
    setattr(config, family.ffn_key, ffn)
    setattr(config, family.layers_key, layers)
    config.__dict__.pop(family.head_size_name, None)


def _fill_buffers(model: PreTrainedModel, settings: Mapping[str, Any]) -> None:
    """Give an `_empty` network the constants that are not stored, as the narrowest network of its settings has them."""
    config = checkpoints.make_config(settings)
    family = family_of(config.model_type)
    setattr(config, family.heads_key, 1)
    _resize(config, family, 1, 1, 1)
    # its weights are thrown away: leave no trace in the generator
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        made = dict(checkpoints.model_class(family, config)(config).named_buffers())
        for name, buffer in model.named_buffers():
            owner, _, key = name.rpartition(".")
            # what stands for a block that is left out gives 0
            setattr(model.get_submodule(owner), key, made.get(name, torch.zeros(buffer.shape)))
