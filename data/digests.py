"""Digests of what a run reads, so that one that goes on can tell whether it reads the same."""

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.files import LARGE, keep_json, sha256, touched
from data.packages import cache_dir
from data.records import Record

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
    """SHA-256 of a file's content. Of a large file it is read once: kept under the cache until the file is touched."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return sha256(path)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    kept = cache_dir() / "digests" / f"{name}.json"
    about = touched(path)
    try:
        known = json.loads(kept.read_text())
        if known["about"] == about:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # Never hashed, or written by somebody else: hashed now.
    started = time.time()
    digest = sha256(path)
    if started - max(stat.st_mtime, stat.st_ctime) > _SETTLED:
        keep_json(kept, {"about": about, "sha256": digest})
    return digest
