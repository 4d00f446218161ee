"""Paths as a user writes them: what may follow from one that names no place on this machine is refused here."""

import re
from pathlib import Path

import tyro

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


class NoPath(Exception):
    """Words that name no place here, on their way out of tyro, which would print a box for a ValueError."""


def path_options() -> tyro.constructors.ConstructorRegistry:
    """For tyro: options that are a Path are read as `local_path` does, which raises NoPath."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=_read,
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _read(words: list[str]) -> Path:
    try:
        return local_path(words[0])
    except ValueError as error:
        raise NoPath(str(error)) from error
