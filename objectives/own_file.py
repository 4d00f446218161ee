"""A Python file that a user wrote, as a module: an experiment, or an objective to check."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

ROOMS = ("model", "objectives", "data", "train", "finetune", "configs", "benchmarks")
"""Packages of this project, which no file of a user's takes the place of."""


def load_file(file: Path, name: str) -> ModuleType:
    """Run a file as the module `name`; what lies beside it can be imported.

    Args:
      file: the file.
      name: what the module is called, for as long as the process lives.

    Raises:
      ValueError: it is no Python file, or running it fails; with the line that failed.
    """
    if file.suffix != ".py":
        raise ValueError(f"{file} is no Python file: its name must end in .py")
    if name.partition(".")[0] in ROOMS or name in sys.stdlib_module_names:
        raise ValueError(f"{file} would take the place of the module {name}: call it otherwise")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        # Behind all others: no file there takes the place of a module that something else means.
        sys.path.append(folder)
    before = sys.modules[name] if name in sys.modules else None
    # Dataclasses look their own module up while they are made, and a run keeps the text of a class's module.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _forget(name, before, failure(file, error)) from error
    return module


def call(module: ModuleType, function: str, file: Path) -> Any:
    """What a function without arguments of a user's file gives.

    Raises:
      ValueError: it fails; with the line that failed.
    """
    try:
        return getattr(module, function)()
    except Exception as error:
        raise failure(file, error) from error


def _forget(name: str, before: ModuleType | None, error: ValueError) -> ValueError:
    """The error, after a module that came to nothing has left its place."""
    del sys.modules[name]
    if before is not None:
        sys.modules[name] = before
    return error


def failure(file: Path, error: Exception) -> ValueError:
    """What went wrong in a user's file, with the line of it: of whatever it raises."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return ValueError(f"{error.filename}, line {error.lineno}: {error.msg}")
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _is(frame.filename, file)]
    where = f"{file}, line {own[-1]}" if own else str(file)
    said = " ".join(str(error).split("\n"))
    if isinstance(error, ValueError):
        return ValueError(f"{where}: {said}")
    return ValueError(f"{where}: {type(error).__name__}: {said}{_taken(file, error)}")


def _is(filename: str, file: Path) -> bool:
    return Path(filename).resolve() == file.resolve()


def _taken(file: Path, error: Exception) -> str:
    """Where a file beside has the name of one of our packages, and that was imported instead."""
    named: Any = error.name if isinstance(error, ImportError) else None
    room = (named or "").partition(".")[0]
    beside = file.parent / f"{room}.py"
    return (
        f"; {room} is a package of this project: call {beside} otherwise"
        if room in ROOMS and beside.exists()
        else ""
    )
