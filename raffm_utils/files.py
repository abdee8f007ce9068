"""Folders that appear whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import DeploymentError

REPOSITORY = Path(__file__).resolve().parent.parent  # where the bundled checkpoints, data and figures lie
RUNS_FOLDER = REPOSITORY / "runs"  # what goes on where it stopped


@contextmanager
def staged(folder: Path, needed_bytes: int) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name at the end, when nothing went wrong.

    Raises `DeploymentError` when `folder` holds anything, when the disk has less room than is needed, and when
    writing fails; whatever the error, nothing is left behind. A killed process leaves a hidden `.part` folder.
    """
    check_target(folder)
    part = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder.parent).free) < needed_bytes:
            raise DeploymentError(
                f"{folder}: about {needed_bytes / 1e6:,.1f} MB are needed, but the disk has {free / 1e6:,.1f} MB left: "
                "make room, or ask for fewer formats"
            )
        part.mkdir()
        yield part
        check_target(folder)  # it may have been filled in the meantime
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except (OSError, SafetensorError) as error:
        raise DeploymentError(
            f"{folder} cannot be written ({error}): make room, or give a folder that can be written; nothing was left "
            "behind"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Raise `DeploymentError` unless `folder` is new or empty."""
    if not folder.is_dir():
        if folder.exists():
            raise DeploymentError(f"{folder} is a file: give the path of a new folder")
        return
    if held := sorted(path.name for path in folder.iterdir()):
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise DeploymentError(f"{folder} is not empty ({len(held)}: {shown}): give another folder, or remove it")
