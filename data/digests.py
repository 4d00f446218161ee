"""Digests of what a run reads, so that one that goes on can tell whether it reads the same."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.packages import cache_dir
from data.records import Record

LARGE = 64 * 2**20
"""Bytes from which a file's digest is kept: below, hashing takes a tenth of a second."""
_SETTLED = 5.0
"""Seconds that a file must have been left alone before its times tell one content from the next: clocks are coarse."""


def records_digest(records: Iterable[Record]) -> dict[str, Any]:
    """{"records": how many, "sha256": of their columns and values in order}: of what is read, however a file wrote it."""
    total, count = hashlib.sha256(), 0
    for record in records:
        total.update(json.dumps(record.values, sort_keys=True, default=_plain).encode() + b"\n")
        count += 1
    return {"records": count, "sha256": total.hexdigest()}


def _plain(value: Any) -> Any:
    """What a TFDS record may hold besides JSON values."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content. Of a large file it is read once: kept under the cache, by the times of the file.

    The time of change of status tells, too, which a program cannot set back as it can that of modification.
    """
    stat = path.stat()
    if stat.st_size < LARGE:
        return _hashed(path)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    kept = cache_dir() / "digests" / f"{name}.json"
    about = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
    try:
        known = json.loads(kept.read_text())
        if known["about"] == about:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # Never hashed, or written by somebody else: hashed now.
    started = time.time()
    digest = _hashed(path)
    if started - max(stat.st_mtime, stat.st_ctime) > _SETTLED:
        _keep(kept, {"about": about, "sha256": digest})
    return digest


def _hashed(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(file: Path, value: dict[str, Any]) -> None:
    """What cannot be kept is computed every time."""
    partial = file.with_name(f"{file.stem}.partial-{uuid.uuid4().hex[:12]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value))
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
