"""A run folder belongs to one experiment: it says which, and refuses another."""

import functools
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from data.prepare import TOKENIZER_FILE
from data.tokenizer import Tokenizer, load_tokenizer
from train.describe import differences, read_json, write_json
from train.migrations import migrate
from train.own_code import kept_code

MAY_CHANGE = ("launcher", "log_every", "save_every", "keep", "companions", "framing")
"""What a resumed run may have anew, because it does not change its numbers: fields of an experiment (of companions where
they lie, not what they are), and the name of what stands around texts, which older runs lack; theirs stays as it is."""
log = logging.getLogger(__name__)
_WRITTEN_FIRST = (TOKENIZER_FILE, "config.json.tmp")


def claim(workdir: Path, description: dict[str, Any], tokenizer: Tokenizer | None) -> None:
    """Make `workdir` the folder of this run, or check that it already is.

    Args:
      workdir: the run folder.
      description: encoded `experiment`, `model`, `objective`, `adapter`, and what else a hand-off needs.
      tokenizer: stored as `tokenizer.model`, its fingerprint in the description; None where no ids are read.

    Raises:
      ValueError: the folder holds another experiment, or files of something else.
    """
    if jax.process_index() == 0:
        _claim(workdir, description, tokenizer)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir claimed")


def _claim(workdir: Path, description: dict[str, Any], tokenizer: Tokenizer | None) -> None:
    described = {**description, "code": kept_code(description)}
    if tokenizer is not None:
        described["tokenizer"] = tokenizer.fingerprint
    if (workdir / "config.json").exists():
        lines = _differences_from(workdir, described)
        if lines:
            raise ValueError(
                f"{workdir} holds another experiment; choose another --workdir, or undo:\n  "
                + "\n  ".join(lines[:20])
            )
        return
    # A kill between the two files below leaves the first; it is written again.
    if workdir.exists() and any(file.name not in _WRITTEN_FIRST for file in workdir.iterdir()):
        raise ValueError(
            f"{workdir} is not empty but has no config.json, so it is not a run folder: choose another"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(workdir / TOKENIZER_FILE)
    write_json(workdir / "config.json", {**described, "versions": versions()})


def _differences_from(workdir: Path, described: dict[str, Any]) -> list[str]:
    """Where the run that the folder holds is another one than this, whatever version wrote it."""
    tokenizer = functools.partial(load_tokenizer, workdir / TOKENIZER_FILE)
    stored, notices = migrate(read_json(workdir / "config.json"), tokenizer)
    if notices:
        log.warning(f"{workdir} goes on as a run of an older version: {'; '.join(notices)}")
    stored.pop("versions")
    # Older versions kept no code. Where there is some, a line that shows two whole files would help nobody.
    code = _hashes(stored["code"]) if "code" in stored else _hashes(described["code"])
    lines = differences({**stored, "code": code}, {**described, "code": _hashes(described["code"])})
    return [line for line in lines if not _may_change(line)]


def _hashes(code: dict[str, Any]) -> dict[str, str]:
    return {module: kept["sha256"] for module, kept in code.items()}


def _may_change(line: str) -> bool:
    path = line.split(":")[0].removeprefix("experiment.")
    return any(path == name or path.startswith(f"{name}.") for name in MAY_CHANGE)


def versions() -> dict[str, str]:
    """What the run was made with: a number without it cannot be repeated."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "grain")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": platform.machine(),
    }
