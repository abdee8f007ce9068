"""The sweep file: one JSON line per evaluated submodel, append-only."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import DataError, ElasticSpaceError, SweepError
from ..files import parse_json
from ..space import SubmodelConfig
from ..writing import opened_alone, sync_folder
from .interval import Interval
from .paired import unpack

ENDS = "ends"  # the subfolder of figures/data with full, half and smallest networks on whole splits
_BLOCKS = ("attention", "ffn")
_SHARE, _AT_LEAST_0, _AT_LEAST_1 = (0.0, 1.0), (0.0, math.inf), (1, math.inf)
_LIMITS: dict[str, tuple[float, float]] = {  # of the fields of a row
    **dict.fromkeys(("accuracy", "low", "high", "f1"), _SHARE),
    **dict.fromkeys(("loss", "seconds", "macs"), _AT_LEAST_0),
    **dict.fromkeys(("parameters", "encoder_parameters", "weight_bytes", "tokens", "examples"), _AT_LEAST_1),
}
_ROUNDING = 1e-9
_ROW_START = b'{"checkpoint": '  # how every row begins
_BLANK = b"\0 \t\r"  # between rows: a crash of the machine may leave zeros


@dataclass(frozen=True)
class SweepRow(Interval):
    """One submodel evaluated once: a line of a sweep file.

    `macs` are of one example of `tokens` tokens, None where no count was given; `seed` is what the
    configurations were drawn with; `accuracy` to `loss`, and `right`, are as in `Evaluation`. `encoder_parameters`
    (see `Cost`) and `right` are None in rows older than these fields.
    """

    checkpoint: str
    fingerprint: str
    config: SubmodelConfig
    parameters: int
    macs: int | None
    weight_bytes: int
    tokens: int | None
    dataset: str
    split: str
    data_fingerprint: str
    examples: int
    f1: float
    loss: float
    seed: int | None
    device: str
    seconds: float
    libraries: str
    encoder_parameters: int | None = None
    right: str | None = field(default=None, repr=False)

    @classmethod
    def from_json(cls, line: bytes, where: str) -> "SweepRow":
        """Read one line; `where` names it in a `SweepError`."""
        try:
            content = parse_json(line)
            for width, least in ((content["hidden"], 1), *((width, 0) for key in _BLOCKS for width in content[key])):
                if type(width) is not int or width < least:
                    raise ValueError(f"a width of {width!r}")
            config = SubmodelConfig(content["hidden"], *(tuple(content[key]) for key in _BLOCKS))
            values = {**_DEFAULTS, **content, "config": config}
            for item in fields(cls):
                kind: Any = int | float if item.type is float else item.type
                value, limits = values[item.name], _LIMITS.get(item.name)
                fits = isinstance(value, kind) and not isinstance(value, bool)
                if not fits or (limits and value is not None and not limits[0] <= value <= limits[1]):
                    raise ValueError(f"{item.name}={value!r}")
            if not values["low"] - _ROUNDING <= values["accuracy"] <= values["high"] + _ROUNDING:
                raise ValueError(f"accuracy={values['accuracy']!r} outside {values['low']!r} to {values['high']!r}")
            if values["right"] is not None:
                hits = int(unpack(values["right"], values["examples"]).sum())
                if hits != round(values["accuracy"] * values["examples"]):
                    raise ValueError(f"right={values['right'][:20]!r}... holds {hits} right answers")
        except KeyError as error:
            raise SweepError(f"{where}: {error} is missing: remove the line, or the file to start anew") from error
        except (ValueError, TypeError, RecursionError, ElasticSpaceError, DataError) as error:
            raise SweepError(
                f"{where}: not a row of a sweep ({error}): remove the line, or the file to start anew"
            ) from error
        return cls(**{item.name: values[item.name] for item in fields(cls)})

    def to_json(self) -> bytes:
        """The line to write, newline included; inverse of `from_json`."""
        content = asdict(self)
        widths = content.pop("config")
        start = {key: content.pop(key) for key in ("checkpoint", "fingerprint")}
        return json.dumps({**start, **widths, **content}, allow_nan=False).encode() + b"\n"


_DEFAULTS = {item.name: item.default for item in fields(SweepRow) if item.default is not MISSING}


def read_sweep(path: str | Path) -> list[SweepRow]:
    """Read the rows of a sweep file, each submodel once; an incomplete last line is ignored.

    Raises `SweepError`, naming the line, if the file is missing or holds anything else.
    """
    path = Path(path).expanduser()
    try:
        return _parse(path).rows
    except FileNotFoundError as error:
        seen_from = "" if path.is_absolute() else f" (seen from {Path.cwd()}; the notebooks are run in notebooks/)"
        raise SweepError(f"{path} does not exist{seen_from}: make it with sweep(...)") from error


def repair(path: Path, belongs: Mapping[str, object]) -> list[SweepRow]:
    """Prepare a file for appending by removing an incomplete last line; returns its rows.

    Raises `SweepError`, and leaves the file alone, when a row differs from `belongs` (field -> value).
    """
    if not _exists(path):
        return []
    try:
        content = _parse(path)
    except FileNotFoundError:  # another sweep only tried whether it can be written
        return []
    _check(content.rows, path, belongs)
    if content.mended:
        return content.rows
    with _appending(path) as handle:
        content = _mend(handle, path)  # read again: another process may have been faster
    _check(content.rows, path, belongs)
    return content.rows


def _check(rows: Iterable[SweepRow], path: Path, belongs: Mapping[str, object]) -> None:
    for row in rows:
        for key, value in belongs.items():
            if (found := getattr(row, key)) != value:
                raise SweepError(
                    f"{path} holds rows with {key}={found!r}, not {value!r}: give another path, or remove the file"
                )


def check_writable(path: Path) -> None:
    """Raise `SweepError` unless rows can be appended to the file, which need not exist."""
    new = not _exists(path)
    with _appending(path) as handle:
        if new and not os.fstat(handle).st_size:
            path.unlink()  # nobody else has written to it, nor can before it is unlocked


def append(path: Path, row: SweepRow) -> None:
    """Append a row and wait until it is on disk."""
    line = row.to_json()
    with _appending(path) as handle:
        size = os.fstat(handle).st_size
        if not _ends_a_line(handle, size):  # another sweep was killed while it wrote
            size = _mend(handle, path).whole_bytes
        _write(handle, line, size)
        if not size:
            sync_folder(path.parent)


@dataclass(frozen=True)
class _Content:
    """What a file holds: its rows, up to where they reach, and whether a row can be appended as it is."""

    rows: list[SweepRow]
    whole_bytes: int
    mended: bool


def _parse(path: Path) -> _Content:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise SweepError(f"{path} cannot be read ({error}): give the path of a file that can be") from error
    *lines, tail = content.split(b"\n")
    rows = [
        SweepRow.from_json(text, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if (text := line.strip(_BLANK))
    ]
    text, whole = tail.strip(_BLANK), len(content) - len(tail)
    try:
        if text:
            rows.append(SweepRow.from_json(text, f"{path}, line {len(lines) + 1}"))
            whole += len(tail.rstrip(_BLANK))
    except SweepError:
        if not (text.startswith(_ROW_START) or _ROW_START.startswith(text)):
            raise  # no file of ours: nothing may be cut off
    unique: dict[object, SweepRow] = {}
    for row in rows:
        unique.setdefault((row.fingerprint, row.data_fingerprint, row.tokens, row.config), row)
    return _Content(list(unique.values()), whole, mended=not tail)


def _mend(handle: int, path: Path) -> _Content:
    """Cut off what is no whole row behind the last one, and end that with a line end."""
    content = _parse(path)
    os.ftruncate(handle, content.whole_bytes)
    if not _ends_a_line(handle, content.whole_bytes):
        _write(handle, b"\n", content.whole_bytes)
        return replace(content, whole_bytes=content.whole_bytes + 1)
    os.fsync(handle)
    return content


def _ends_a_line(handle: int, size: int) -> bool:
    return not size or (os.lseek(handle, size - 1, os.SEEK_SET) >= 0 and os.read(handle, 1) == b"\n")


@contextmanager
def _appending(path: Path) -> Iterator[int]:
    """The handle to append with, while no other process does; what the system refuses is a `SweepError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened_alone(path) as handle:
            yield handle
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # as of a name that is too long
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> SweepError:
    return SweepError(f"{path} cannot be written ({error}): make room, or give a path in a folder of your own")


def _write(handle: int, data: bytes, size: int) -> None:
    """Append to a file of that size, all or nothing, and wait until it is on disk."""
    try:
        if (written := os.write(handle, data)) != len(data):
            raise OSError(f"{written} of {len(data)} bytes could be written")
        os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, size)
        raise
