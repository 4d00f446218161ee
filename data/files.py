"""Files as a user's disk has them: read only where they are regular files and of a size that fits, and what the system says
about them in one line. Knows no format.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGE = 64_000_000
"""Bytes from which a file is hashed again only when it was `touched`: below, hashing takes a tenth of a second."""
LARGEST_JSON = 200_000_000
"""Bytes of a JSON file of ours that are read at most."""
NO_ARRAY = (
    *(
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        SyntaxError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
    ),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What NumPy raises for a damaged .npy or .npz: it reads a header as Python, and a shape as it comes."""
_REMEDIES = {
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.EFBIG: "raise the limit on the size of a file, or choose another place",
    errno.EACCES: "look at its owner and permissions, or choose another place",
    errno.EPERM: "look at its owner and permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOTDIR: "a part of that path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link there leads to itself",
}


def said(error: OSError) -> str:
    """What the system says, in one line: the path, the reason and, where there is one, what to do.

    >>> said(OSError(errno.ENOSPC, "No space left on device", "runs/a"))
    'runs/a: No space left on device: make room there, or choose another place'
    """
    if error.strerror is None or error.errno is None:
        # Written by us or by a library, for people.
        return " ".join(str(error).split()) or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    parts = [" -> ".join(names), error.strerror, _REMEDIES[error.errno] if error.errno in _REMEDIES else ""]
    return ": ".join(part for part in parts if part)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails while writing names the file: a full disk says of no open file which one it is."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None or error.strerror is None:
            raise OSError(f"{path} cannot be written: {said(error)}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(path: Path) -> None:
    """Raise ValueError or OSError if no file or folder can be made or changed there; nothing is made."""
    absolute = path.absolute()
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to {os.readlink(path)}, which is not there")
    there = next(place for place in (absolute, *absolute.parents) if place.exists())
    if there != absolute and not there.is_dir():
        raise ValueError(f"{there} is a file, so there can be no {path}: choose another place")
    if not os.access(there, os.W_OK):
        why = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(why, os.strerror(why), str(there))


def check_regular(path: Path) -> os.stat_result:
    """The state of a file that can be read to its end.

    Raises:
      FileNotFoundError: there is nothing of that name, or a link that leads nowhere.
      ValueError: there is a folder, a pipe or a device.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{path} is {_kind(state.st_mode)}, not a file")
    return state


def _kind(mode: int) -> str:
    for kind, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if kind(mode):
            return name
    return "a device"


def read_file(path: Path, largest: int) -> bytes:
    """All bytes of a regular file; ValueError if it has more than `largest`."""
    size = check_regular(path).st_size
    if size > largest:
        raise ValueError(f"{path} has {size:,} bytes, at most {largest:,} are read")
    return path.read_bytes()


def sha256(path: Path) -> str:
    """Of a regular file's bytes, in hex."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def touched(path: Path) -> list[int]:
    """Numbers that the system changes when a regular file is written to; not all of them can be set back."""
    state = check_regular(path)
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]


def keep_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one; what cannot be kept is computed every time."""
    partial = path.with_name(f"{path.stem}.partial-{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value) + "\n")
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def bytes_below(folder: Path) -> int:
    """Sizes of all files below a folder, whatever happens to them meanwhile."""
    total = 0
    for inner, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(inner, name)).st_size
    return total
