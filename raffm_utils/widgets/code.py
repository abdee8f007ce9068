"""Python that recreates the submodel that the explorer shows."""

import json
from pathlib import Path

from ..space import SubmodelConfig
from ..supernet import BUNDLED_FOLDER, Supernet, bundled

HUB_CACHE = "models--"  # how the hub's client names its folders: models--owner--name


def code_of(supernet: Supernet, config: SubmodelConfig) -> str:
    """Python code that loads the checkpoint and extracts `config`; without a folder, it assumes `supernet` exists."""
    widths = f"SubmodelConfig({config.hidden}, {config.attention}, {config.ffn})"
    if supernet.folder is None:
        return f"from raffm_utils import SubmodelConfig\n\nmodel = supernet.extract({widths})\n"
    return (
        "from raffm_utils import SubmodelConfig, Supernet\n\n"
        f"supernet = Supernet.from_pretrained({json.dumps(_checkpoint_name(supernet.folder), ensure_ascii=False)})\n"
        f"model = supernet.extract({widths})\n"
    )


def _checkpoint_name(folder: Path) -> str:
    """The name to load it with: a bundled name, a hub id, or a path."""
    if folder.parent == BUNDLED_FOLDER and folder.name in bundled():
        return folder.name
    cached = next((part for part in folder.parts if part.startswith(HUB_CACHE)), None)
    return folder.resolve().as_posix() if cached is None else cached.removeprefix(HUB_CACHE).replace("--", "/")
