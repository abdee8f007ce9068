"""The lines of Python that recreate a submodel."""

import json
from pathlib import Path

from .checkpoints import BUNDLED_FOLDER, bundled
from .space import SubmodelConfig
from .supernet import Supernet

HUB_CACHE = "models--"  # how the hub's client names its folders: models--owner--name


def code_of(supernet: Supernet, config: SubmodelConfig) -> str:
    """Python that loads the checkpoint and cuts `config` out of it; a supernet from no folder has to be there."""
    widths = f"SubmodelConfig({config.hidden}, {config.attention}, {config.ffn})"
    if supernet.folder is None:
        return f"from raffm_utils import SubmodelConfig\n\nmodel = supernet.extract({widths})\n"
    return (
        "from raffm_utils import SubmodelConfig, Supernet\n\n"
        f"supernet = Supernet.from_pretrained({json.dumps(_name(supernet.folder), ensure_ascii=False)})\n"
        f"model = supernet.extract({widths})\n"
    )


def _name(folder: Path) -> str:
    """What to load it by: a bundled name, a hub id, or a path."""
    if folder.parent == BUNDLED_FOLDER and folder.name in bundled():
        return folder.name
    cached = next((part for part in folder.parts if part.startswith(HUB_CACHE)), None)
    return folder.resolve().as_posix() if cached is None else cached.removeprefix(HUB_CACHE).replace("--", "/")
