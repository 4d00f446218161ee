"""One process at a time works in a folder: a lock that dies with its process, and says whose it is.

A second file carries no risk: the lock is the kernel's (flock), the file only says who has it, and stays where it is.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

_CANNOT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


class Taken(ValueError):
    """Another process works there."""


@contextlib.contextmanager
def locked(file: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold the lock of `file` while the block runs; the file is made if need be, and its folder with it.

    Args:
      file: where the lock lies.
      what: is locked, for the message.
      remedy: what to do where another process has it.

    Raises:
      Taken: another process, or another part of this one, has it; the message says which.
      OSError: the file cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Taken(f"{what} is in use by {_holder(descriptor)}: {remedy}") from error
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            print(
                f"{file.parent} cannot be locked ({error.strerror}): start nothing else there",
                file=sys.stderr,
            )
        _write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def _write_holder(descriptor: int) -> None:
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    # On a full disk the lock holds all the same.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
