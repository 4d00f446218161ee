"""A folder that is filled beside its place and moved there once complete; what killed processes left of such is removed."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from data.folder_lock import Taken, locked

_OLD = 24 * 3600.0
"""Seconds after which what nobody locks is left over, where an older version or a disk without locks left it."""


@contextlib.contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside `final`, to be filled and moved there in the block; what is left of it is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(final)
    partial = final.with_name(f"{final.name}.partial-{uuid.uuid4().hex[:12]}")
    lock = _lock_of(partial)
    # The lock first: a folder without one is nobody's.
    with locked(lock, str(partial), "choose another place"):
        try:
            partial.mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)


def remove_left_over(final: Path) -> None:
    """Remove what processes that are gone left beside `final`."""
    beginning = f"{final.name}.partial-"
    for path in [path for path in final.parent.iterdir() if path.name.startswith(beginning)]:
        if path.suffix == ".lock":
            with contextlib.suppress(Taken, OSError), locked(path, str(path), ""):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        elif not _lock_of(path).exists():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _OLD:
                    _remove(path)


def _lock_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.lock")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)
