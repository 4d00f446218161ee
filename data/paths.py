"""Paths as a user writes them: what may follow from one that names no place on this machine is refused here."""

import re
from pathlib import Path

# One letter may be a drive; a Path has dropped one of the two slashes.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(written: str | Path) -> Path:
    """The place that a user's words name, with ~ as the home folder.

    Raises:
      ValueError: nothing is named (a variable of the shell may be unset), the address is of another machine (gs://,
        s3://, http://), or there is no such user.
    """
    text = str(written)
    if not text.strip():
        raise ValueError("a path is empty: name a file or folder (is a variable of the shell unset?)")
    if _REMOTE.match(text):
        raise ValueError(
            f"{text} is a remote address, but files are read and written on this machine only: copy or mount it, and "
            "name the path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error}") from error
