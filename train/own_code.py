"""Classes of a run that are in a user's own file: their text is kept with the run, and only a reader's word runs it.

A checkpoint is data. What it stores decides which text must be there, never what is imported: a module is taken from a file
that the reader named, from what the reader's program has imported already, or from the reader's own folders.
"""

import dataclasses
import hashlib
import importlib.util
import logging
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

ROOMS = ("model", "objectives", "data", "train", "finetune")
"""Packages of this project: types in them need no code beside the run."""
SHORT = 16
"""Digits of a hash that a message shows."""

log = logging.getLogger(__name__)


def kept_code(description: Any) -> dict[str, dict[str, str]]:
    """Module -> file, sha256 and text, for every module outside our rooms that an encoded value has a type of."""
    modules = sorted({kind.partition(":")[0] for kind in _types(description)})
    kept = {}
    for name in modules:
        file = _file(sys.modules[name]) if _is_own(name) and name in sys.modules else None
        if file is not None:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            kept[name] = {"file": file.name, "sha256": digest, "text": content.decode("utf-8")}
    return kept


def check_code(description: Mapping[str, Any]) -> None:
    """Raise ValueError if what a description keeps of code is not as `kept_code` gives it."""
    kept = description["code"] if "code" in description else {}
    names = {"file", "sha256", "text"}
    right = isinstance(kept, dict) and all(
        isinstance(entry, dict) and entry.keys() == names and all(isinstance(v, str) for v in entry.values())
        for entry in kept.values()
    )
    if not right:
        raise ValueError("its entry code holds no files with their SHA-256 and text")


def _types(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and "type" in value and isinstance(value["type"], str):
        yield value["type"]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _types(inner)


def _is_own(module: str) -> bool:
    return module.split(".")[0] not in ROOMS


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnCode:
    """What a run keeps of its own code, and the files that whoever opens it named."""

    kept: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """As `kept_code` gave it."""
    files: tuple[Path, ...] = ()

    def module(self, kind: str) -> ModuleType:
        """The module of a stored type that is not ours.

        Raises:
          ValueError: there is no file with the text that the run was made with; what to do is said in one line.
        """
        name = kind.partition(":")[0]
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"the stored configuration names {kind!r}, which is no class of a module")
        if name not in self.kept:
            return self._unchecked(kind, name)
        wanted = self.kept[name]["sha256"]
        named = {file: _sha256(file) for file in self.files}
        if name in sys.modules:
            return _imported(kind, wanted, named=wanted in named.values())
        for file, found in named.items():
            if found == wanted:
                return _load(name, file)
        importable = {file: _sha256(file) for file in _importable(name)}
        for file, found in importable.items():
            if found == wanted:
                log.warning(
                    f"{kind}: using {file}, whose text is the one that the run keeps (sha256 {wanted[:SHORT]}...)"
                )
                return _load(name, file)
        raise ValueError(self._missing(kind, name, named | importable))

    def _missing(self, kind: str, name: str, others: Mapping[Path, str]) -> str:
        """What to do where no file has the text of the run, naming those that have another."""
        kept = self.kept[name]
        changed = "".join(f"; {file} has {found[:SHORT]}..." for file, found in others.items())
        return (
            f"the stored configuration names {kind!r}, of {kept['file']} with sha256 {kept['sha256'][:SHORT]}...{changed}: "
            "name that file with --code, or write the text that config.json keeps under code into one and name it"
        )

    def _unchecked(self, kind: str, name: str) -> ModuleType:
        """Older versions kept no code: then a file named by the reader is taken at its word."""
        for file in self.files:
            if file.stem == name.split(".")[-1].removeprefix("experiment_"):
                log.warning(f"{kind}: using {file}; the run keeps no hash to check it by")
                return (
                    _imported(kind, _sha256(file), named=True) if name in sys.modules else _load(name, file)
                )
        raise ValueError(
            f"the stored configuration names {kind!r}, which is none of this project's types, and keeps no code of it: "
            "name the file that defines it with --code"
        )


def _imported(kind: str, wanted: str, *, named: bool) -> ModuleType:
    """A module that the reader's program has imported before, if it has the right text and is the reader's own.

    With `named` the reader has named its text, wherever it lies.
    """
    name = kind.partition(":")[0]
    module = sys.modules[name]
    file = _file(module)
    if file is None or (_is_installed(file) and not named):
        raise ValueError(f"the stored configuration names {kind!r}, which is no file of yours but {module}")
    if (found := _sha256(file)) != wanted:
        raise ValueError(
            f"the stored configuration names {kind!r} with sha256 {wanted[:SHORT]}..., but this process has imported "
            f"{file}, which has {found[:SHORT]}...: open the run in a process of its own"
        )
    return module


def _importable(name: str) -> Iterator[Path]:
    """Files that an import of this name could mean in the reader's own folders; nothing is imported to find out."""
    if name.split(".")[0] in sys.stdlib_module_names:
        return
    folders = [Path.cwd()]
    if "PYTHONPATH" in os.environ:
        folders += [Path(folder) for folder in os.environ["PYTHONPATH"].split(os.pathsep) if folder]
    for folder in folders:
        file = folder.joinpath(*name.split(".")).with_suffix(".py")
        if file.is_file() and not _is_installed(file):
            yield file


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    resolved = file.resolve()
    if {"site-packages", "dist-packages"} & set(resolved.parts):
        return True
    return any(
        resolved.is_relative_to(Path(sysconfig.get_path(kind)).resolve()) for kind in ("stdlib", "platstdlib")
    )


def _file(module: ModuleType) -> Path | None:
    """Where a module was read from; None for what is built in or typed into a notebook."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _load(name: str, file: Path) -> ModuleType:
    """Run a file under the name that it had when the run was made."""
    if name == "__main__":
        raise ValueError(
            f"{file} was itself the program that made the run: move its classes into another file"
        )
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up while they are made.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"--code names {file}, which is not there")
    return hashlib.sha256(file.read_bytes()).hexdigest()
