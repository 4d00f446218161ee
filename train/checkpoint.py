"""Checkpoints: Orbax behind one thin door. Saves in the background, hashes what it saved, restores only what is whole.

Layout of a run folder: `checkpoints/<step>/{params,train,host}` and, once committed, `checkpoints/<step>/hashes.json`;
`best/<step>/` likewise. `params` holds {trainable, frozen}, `train` optimizer state and step, `host` the loop's own numbers
(early stopping). Hand-offs read `params` alone.
"""

import concurrent.futures
import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from data.files import check_regular, said, sha256
from train.describe import read_json, write_json
from train.state import TrainState
from train.tree import path_names

Tree = Any
HASHES = "hashes.json"
_SLOWEST = 50e6
"""Bytes a second in which a disk is read at least."""
_TEMPORARY = "orbax-checkpoint-tmp"
# What Orbax and TensorStore raise where a file cannot be written, or holds what it should not: none is their own.
_RAISED = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, EOFError, ImportError)


class SaveFailed(OSError):
    """A checkpoint could not be written: where, why, how much room it takes, and what there is instead. One line."""


class Checkpoints:
    """The checkpoints of one folder."""

    def __init__(self, folder: Path, keep: int, hashing: Callable[[float], None] = lambda seconds: None):
        """`keep`: how many of the newest stay. `hashing` is told, from a thread, how long it may take to read a save."""
        self.folder = folder.absolute()
        self.notices: list[str] = []
        self._named: frozenset[int] = frozenset()
        # They report every save at INFO, and a failed one as several tracebacks before it is raised.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # Orbax would drop old steps before the new one is hashed, and a kill in between would leave none: see _commit.
        options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=True)
        self._keep, self._hashing = keep, hashing
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=("params", "train", "host")
        )
        self._hasher = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint-hash")
        self._pending: concurrent.futures.Future[None] | None = None
        self._failed = False

    def save(
        self, step: int, state: TrainState, host: dict[str, Any], committed: Callable[[], None] | None = None
    ) -> None:
        """Start saving; returns once the arrays have been copied off the devices. Saving a step twice is a no-op.

        Args:
          step: its number.
          state: canonical, on devices.
          host: JSON values beside it.
          committed: called by process 0, from another thread, once all is on disk.

        Raises:
          SaveFailed: this save, or the one before it, could not be written.
        """
        self.wait()
        if step in saved_steps(self.folder):
            return
        tree = nested(state)
        params = {k: tree.pop(k) for k in ("trainable", "frozen") if k in tree}
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, tree)))
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(params), train=ocp.args.PyTreeSave(tree), host=ocp.args.JsonSave(host)
        )
        with self._saving(step, needed):
            self._manager.save(step, args=items)
        self._pending = self._hasher.submit(self._commit, step, needed, committed)

    @contextlib.contextmanager
    def _saving(self, step: int, needed: int) -> Iterator[None]:
        """Whatever fails in the block is one error that says what there is to know."""
        try:
            yield
        except _RAISED as error:
            self._failed = True
            try:
                room = f"{shutil.disk_usage(self.folder).free:,} are free there"
            except OSError as gone:
                room = said(gone)
            # Of a best checkpoint that could not be saved, the run still has its newest one.
            folders = (self.folder, self.folder.with_name("checkpoints"))
            marks = [f / str(s) / HASHES for f in folders for s in saved_steps(f)]
            whole = next((mark.parent for mark in marks if mark.exists()), None)
            last = f"the last good one is {whole}" if whole else "there is no earlier one"
            raise SaveFailed(
                f"{self.folder / str(step)} could not be saved: it takes {needed:,} bytes, {room}; {last}. The reason: "
                f"{_reason(error)}"
            ) from error

    def _commit(self, step: int, needed: int, committed: Callable[[], None] | None) -> None:
        with self._saving(step, needed):
            self._manager.wait_until_finished()
            if jax.process_index() > 0:
                return
            self._hashing(needed / _SLOWEST)
            write_hashes(self.folder / str(step))
            for old in saved_steps(self.folder)[self._keep :]:
                if old not in self._named:
                    self._drop(old)
            self._forget_set_aside(step)
            if committed is not None:
                committed()

    def keep_named(self, step: int) -> Callable[[], None]:
        """Keep this step however old it is, beside the one before it; to be called when that one is named nowhere any more.

        What a run calls its best is named by its checkpoints: until the next of them is on disk, a kill leads back to the
        one before, which names another.
        """
        self._named |= {step}

        def only() -> None:
            self._named = frozenset({step})
            for old in saved_steps(self.folder):
                if old < step:
                    self._drop(old)

        return only

    def has_named(self, step: int) -> bool:
        """Whether a step that a checkpoint of the run names is there; keeps it if so, and else says that it is gone.

        Raises:
          ValueError: it is there, but damaged.
        """
        folder = self.folder / str(step)
        if not folder.exists():
            self.notices.append(
                f"{folder}, the best of this run, is gone: its best is the best of what follows"
            )
            return False
        if damage := damaged_file(folder):
            raise ValueError(
                f"{damage}: it is the best of this run so far; put the file back, or move {folder} away to go on without it"
            )
        self.keep_named(step)
        return True

    def _drop(self, step: int) -> None:
        # Unmarked first: what a kill leaves of it must not look like a damaged checkpoint.
        (self.folder / str(step) / HASHES).unlink(missing_ok=True)
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def wait(self) -> None:
        """Until the last save is on disk and hashed; raises what went wrong there."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Finish the last save and stop the threads."""
        try:
            self.wait()
        finally:
            self._hasher.shutdown(wait=not self._failed)
            # After a failed save its threads may never end.
            if not self._failed:
                self._manager.close()

    def newest(self) -> int | None:
        """The newest step whose files are all as they were saved; damaged ones are moved aside and named.

        Raises:
          ValueError: there are committed checkpoints, but none of them is whole.
        """
        newest = newest_whole(self.folder, self.notices)
        self._wait_for_process_0("looked at")
        if jax.process_index() == 0:
            self._clear_temporary()
            for step in saved_steps(self.folder):
                if newest is None or step > newest:
                    finished = (self.folder / str(step) / HASHES).exists()
                    self._set_aside(step, "" if finished else "-unfinished")
        self._wait_for_process_0("settled")
        return newest

    def discard_after(self, step: int) -> None:
        """Move aside what is newer than `step`: the run goes on from there and will save those steps again."""
        if jax.process_index() == 0:
            self._clear_temporary()
            for later in saved_steps(self.folder):
                if later > step:
                    self._set_aside(later, "-later")
        self._wait_for_process_0("settled")

    def _clear_temporary(self) -> None:
        """What Orbax had not given its name yet."""
        for temporary in self.folder.glob(f"*{_TEMPORARY}*"):
            shutil.rmtree(temporary)

    def any_whole(self) -> bool:
        """Whether there is a step whose files are all as they were saved; nothing is moved."""
        try:
            return newest_whole(self.folder, self.notices) is not None
        except ValueError:
            return False

    def _wait_for_process_0(self, what: str) -> None:
        """Every process sees the folder as process 0 left it."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self.folder.name} {what}")
        self._manager.reload()

    def _set_aside(self, step: int, why: str) -> None:
        target = self.folder.parent / "set_aside" / f"{self.folder.name}-{step}{why}"
        target.parent.mkdir(exist_ok=True)
        free = next(t for i in range(10_000) if not (t := target.with_name(f"{target.name}-{i}")).exists())
        (self.folder / str(step)).rename(free)
        self.notices.append(f"moved {self.folder.name}/{step} to {free.relative_to(self.folder.parent)}")

    def _forget_set_aside(self, step: int) -> None:
        """What was set aside whole or unfinished has been computed again by now; what was damaged stays."""
        aside = self.folder.parent / "set_aside"
        for why in ("unfinished", "later"):
            for old in aside.glob(f"{self.folder.name}-*-{why}-*"):
                number = old.name.removeprefix(f"{self.folder.name}-").partition("-")[0]
                if number.isdecimal() and int(number) <= step:
                    shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):
            aside.rmdir()

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step`, in the shapes and shardings of `abstract`, whatever devices it was saved on."""
        tree = nested(abstract)
        params = {k: tree.pop(k) for k in ("trainable", "frozen") if k in tree}
        with _reading(self.folder / str(step)):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=_restore_args(params), train=_restore_args(tree), host=ocp.args.JsonRestore()
                ),
            )
            leaves = {**flat(restored["params"]), **flat(restored["train"])}
            state = jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_names(path)], abstract)
        return state, dict(restored["host"])


@contextlib.contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    """Its files are as they were saved, but what they hold may still be something else than this version reads."""
    try:
        yield
    except _RAISED as error:
        raise ValueError(f"{checkpoint} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line, and not all of a library's own."""
    text = said(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0][:300]


def _restore_args(abstract: Tree) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        abstract, restore_args=jax.tree.map(lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding), abstract)
    )


def saved_steps(folder: Path) -> list[int]:
    """Steps with a folder, newest first."""
    names = [path.name for path in folder.glob("*")]
    return sorted((int(n) for n in names if n.isdecimal() and str(int(n)) == n), reverse=True)


def newest_whole(folder: Path, notices: list[str]) -> int | None:
    """The newest step whose hashes hold; a line to `notices` for every newer one that was passed over."""
    committed = 0
    for step in saved_steps(folder):
        if not (folder / str(step) / HASHES).exists():
            notices.append(f"{folder / str(step)} was never completed (the process ended while saving it)")
            continue
        committed += 1
        damage = damaged_file(folder / str(step))
        if damage is None:
            return step
        notices.append(f"{damage}: not using {folder.name}/{step}")
    if committed:
        raise ValueError(f"no checkpoint in {folder} is whole:\n  " + "\n  ".join(notices))
    return None


def write_hashes(folder: Path) -> None:
    """Record the SHA-256 of every file, which is what makes a checkpoint count as committed."""
    write_json(folder / HASHES, {name: sha256(folder / name) for name in _files(folder)})


def _files(folder: Path) -> list[str]:
    """Relative paths of all that is in a checkpoint but folders and its hashes."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(str(path) for path in paths if str(path) != HASHES)


def damaged_file(folder: Path) -> str | None:
    """A line naming the first file that is missing, altered or not of the checkpoint, or None."""
    try:
        digests = read_json(folder / HASHES)
        found = set(_files(folder))
        if not _is_manifest(digests):
            return f"{folder / HASHES} is damaged: it does not list a checkpoint's files with their SHA-256"
        for name, digest in digests.items():
            if name not in found:
                if (folder / name).is_dir():
                    return f"{folder / name} is damaged: it is a folder, not a file"
                return f"{folder / name} is missing"
            check_regular(folder / name)
            if sha256(folder / name) != digest:
                size = (folder / name).stat().st_size
                return f"{folder / name} is damaged ({size} bytes, its hash differs)"
        if unnamed := sorted(found - digests.keys()):
            return f"{folder / HASHES} does not name {unnamed[0]}, which is there: one of them is not of this checkpoint"
    except OSError as error:
        return said(error)
    except ValueError as error:
        return str(error)
    return None


def _is_manifest(digests: Any) -> bool:
    """Whether a value is what `write_hashes` writes: relative paths that stay inside, each with a digest."""
    return (
        isinstance(digests, dict)
        and any(name.startswith("params/") for name in digests)
        and all(_stays_inside(name) and isinstance(digest, str) for name, digest in digests.items())
    )


def _stays_inside(name: str) -> bool:
    path = Path(name)
    return "\0" not in name and not path.is_absolute() and ".." not in path.parts and str(path) == name


def load_params(folder: Path, step: int) -> dict[str, Tree]:
    """{trainable, frozen} of one checkpoint as numpy trees, each leaf as it was saved."""
    source = (folder / str(step) / "params").absolute()
    with _reading(source), ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(source).item_metadata
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
        return dict(reader.restore(source, args=ocp.args.PyTreeRestore(restore_args=as_numpy)))


def nested(tree: Tree) -> dict[str, Any]:
    """Any tree as nested dicts by path names: what is stored depends on names only, not on Python classes."""
    root: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *parents, last = path_names(path)
        node = root
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return root


def flat(tree: Tree) -> dict[tuple[str, ...], Any]:
    """Leaves by path names."""
    return {path_names(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
