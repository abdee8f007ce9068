"""Measured latencies, kept in the user's cache folder from one session to the next."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from .errors import RaffmError
from .space import ElasticSpace, SubmodelConfig
from .supernet import Supernet

Pairs = list[tuple[SubmodelConfig, float]]


def path(supernet: Supernet, settings: Mapping[str, Any]) -> Path:
    """The file of these weights and settings on this machine with these libraries."""
    key = {
        "machine": [platform.node(), platform.machine(), processor_name(), os.cpu_count()],
        "libraries": [torch.__version__, transformers.__version__],
        "device": str(supernet.model.device),
        "attention": getattr(supernet.model.config, "_attn_implementation", None),
        "fingerprint": supernet.fingerprint,
        "space": repr(supernet.space),
        **settings,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "raffm_utils" / f"latency-{digest}.json"


def read(path: Path, space: ElasticSpace) -> tuple[Pairs, Pairs] | None:
    """(fitted, held out) as they were measured; None where nothing usable is kept."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fitted, held_out = (_pairs(content[key], space) for key in ("measured", "held_out"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RaffmError):
        return None  # missing or broken: measured again, and written anew
    return (fitted, held_out) if fitted else None


def write(
    path: Path, measured: Iterable[tuple[SubmodelConfig, float]], held_out: Iterable[tuple[SubmodelConfig, float]]
) -> None:
    """Keep measurements, all or nothing; a folder that cannot be written to is no error."""
    content = {
        key: [{**vars(config), "ms": ms} for config, ms in pairs]
        for key, pairs in (("measured", measured), ("held_out", held_out))
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)


def _pairs(rows: Any, space: ElasticSpace) -> Pairs:
    found = []
    for row in rows:
        config = SubmodelConfig(int(row["hidden"]), tuple(row["attention"]), tuple(row["ffn"]))
        ms = float(row["ms"])
        if config not in space or not 0 < ms < float("inf"):
            raise ValueError(row)
        found.append((config, ms))
    return found


def processor_name() -> str:
    """The processor, as Linux names it; elsewhere as Python does."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
