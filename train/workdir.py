"""A run folder belongs to one experiment: it says which, and refuses another."""

import contextlib
import functools
import logging
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from data.files import check_writable, writing
from data.folder_lock import locked
from data.prepare import TOKENIZER_FILE
from data.seals import sealed
from data.tokenizer import Tokenizer, load_tokenizer
from train.describe import differences, read_description, taken_from, write_json
from train.inputs import INPUTS, changed, same, unknown
from train.migrations import migrate
from train.own_code import check_code, kept_code

MAY_CHANGE = ("launcher", "log_every", "save_every", "keep", "companions", "framing")
"""What a resumed run may have anew, because it does not change its numbers: fields of an experiment (of companions where
they lie, not what they are), and the name of what stands around texts, which older runs lack; theirs stays as it is."""
log = logging.getLogger(__name__)
LOCK = "run.lock"
_WRITTEN_FIRST = (TOKENIZER_FILE, "config.json.tmp", LOCK)
_PATTERNS = "*?[\\"
"""Characters that Orbax takes for a pattern: it would write a checkpoint there and not find its parts again."""


def check_place(workdir: Path) -> None:
    """Raise ValueError or OSError where no run folder can be, or another process has it; cheap, before any data is read."""
    absolute = workdir.absolute()
    if found := sorted(set(_PATTERNS) & set(str(absolute))):
        raise ValueError(
            f"{absolute} has {' '.join(found)} in its name, which checkpoints cannot: choose another"
        )
    check_writable(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file, not a run folder: choose another")
    if jax.process_index() == 0 and (workdir / LOCK).exists():
        with alone(workdir):
            pass


@contextlib.contextmanager
def occupied(workdir: Path) -> Iterator[None]:
    """The run folder is this process's own while the block runs; of several processes of one run, the first one's.

    Raises:
      ValueError: another process works there (the message names it), or the folder holds files of something else.
    """
    check_place(workdir)
    if jax.process_index() > 0:
        yield
        return
    _refuse_foreign(workdir)
    with alone(workdir):
        yield


def alone(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of a folder; ValueError where another process has it."""
    return locked(workdir / LOCK, str(workdir), "wait until it ends, or choose another folder")


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
        lines, other = _differences_from(workdir, described)
        if other and not lines:
            raise ValueError(
                f"{workdir} was made with other inputs: {'; '.join(other)}: put back what it read, or choose another "
                "--workdir"
            )
        if lines := [*lines, *other]:
            raise ValueError(
                f"{workdir} holds another experiment; choose another --workdir, or undo:\n  "
                + "\n  ".join(lines[:20])
            )
        if tokenizer is not None:
            _check_tokenizer(workdir / TOKENIZER_FILE, tokenizer)
        return
    _refuse_foreign(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        with writing(workdir / TOKENIZER_FILE):
            tokenizer.save(workdir / TOKENIZER_FILE)
    write_json(workdir / "config.json", sealed({**described, "versions": versions()}))


def _check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """The run's own copy must be what it was; one that is gone is written again."""
    if not os.path.lexists(path):
        print(f"{path} is missing: written again", file=sys.stderr)
        with writing(path):
            tokenizer.save(path)
    found = load_tokenizer(path).fingerprint
    if found != tokenizer.fingerprint:
        raise ValueError(
            f"{path} is damaged: it is {found[:16]}..., but the run was made with {tokenizer.fingerprint[:16]}...; delete "
            "it, and the same command writes it again"
        )


def _refuse_foreign(workdir: Path) -> None:
    if (workdir / "config.json").exists() or not workdir.exists():
        return
    # A kill between the first files leaves some of them; they are written again.
    if any(file.name not in _WRITTEN_FIRST for file in workdir.iterdir()):
        raise ValueError(
            f"{workdir} is not empty but has no config.json, so it is not a run folder: choose another"
        )


def _differences_from(workdir: Path, described: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Where the run that the folder holds is another one than this, whatever version wrote it: values, and inputs."""
    tokenizer = functools.partial(load_tokenizer, workdir / TOKENIZER_FILE)
    path = workdir / "config.json"
    with taken_from(path):
        stored, notices = migrate(read_description(path), tokenizer)
        check_code(stored)
    if notices:
        log.warning(f"{workdir} goes on as a run of an older version: {'; '.join(notices)}")
    stored.pop("versions", None)
    before = stored.pop(INPUTS, {})
    now = {name: value for name, value in described.items() if name != INPUTS}
    inputs = described[INPUTS] if INPUTS in described else {}
    with taken_from(path):
        if names := unknown(before, inputs):
            log.warning(
                f"{workdir} goes on; an older version made it and kept no digest of {', '.join(names)}: "
                "whether they are what they were cannot be said"
            )
        # Older versions kept no code. Where there is some, a line that shows two whole files would help nobody.
        code = _hashes(stored["code"]) if "code" in stored else _hashes(now["code"])
        lines = differences({**stored, "code": code}, {**now, "code": _hashes(now["code"])})
        # Where an input lies, and how that is written, is nobody's business while its content is the same.
        may_change = (*MAY_CHANGE, *same(before, inputs))
        return [line for line in lines if not _may_change(line, may_change)], changed(before, inputs, now)


def _hashes(code: dict[str, Any]) -> dict[str, str]:
    return {module: kept["sha256"] for module, kept in code.items()}


def _may_change(line: str, fields: Iterable[str]) -> bool:
    path = line.split(":")[0].removeprefix("experiment.")
    return any(path == name or path.startswith(f"{name}.") for name in fields)


def versions() -> dict[str, str]:
    """What the run was made with: a number without it cannot be repeated."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "grain")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": platform.machine(),
    }
