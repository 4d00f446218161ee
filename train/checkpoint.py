"""Checkpoints: Orbax behind one thin door. Saves in the background, hashes what it saved, restores only what is whole.

Layout of a run folder: `checkpoints/<step>/{params,train,host}` and, once committed, `checkpoints/<step>/hashes.json`;
`best/<step>/` likewise. `params` holds {trainable, frozen}, `train` optimizer state and step, `host` the loop's own numbers
(early stopping). Hand-offs read `params` alone.
"""

import concurrent.futures
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train.describe import read_json, write_json
from train.state import TrainState
from train.tree import path_names

Tree = Any
HASHES = "hashes.json"


class Checkpoints:
    """The checkpoints of one folder."""

    def __init__(self, folder: Path, keep: int):
        """`keep`: how many of the newest stay."""
        self.folder = folder.absolute()
        self.notices: list[str] = []
        # Orbax and absl report every save at INFO; a run's own lines should not drown in them.
        logging.getLogger("absl").setLevel(logging.ERROR)
        # Orbax would drop old steps before the new one is hashed, and a kill in between would leave none: see _commit.
        options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=True)
        self._keep = keep
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=("params", "train", "host")
        )
        self._hasher = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint-hash")
        self._pending: concurrent.futures.Future[None] | None = None

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Start saving; returns once the arrays have been copied off the devices. Saving a step twice is a no-op."""
        self.wait()
        if step in saved_steps(self.folder):
            return
        tree = nested(state)
        params = {k: tree.pop(k) for k in ("trainable", "frozen") if k in tree}
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(params), train=ocp.args.PyTreeSave(tree), host=ocp.args.JsonSave(host)
        )
        self._manager.save(step, args=items)
        self._pending = self._hasher.submit(self._commit, step)

    def _commit(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            write_hashes(self.folder / str(step))
            for old in saved_steps(self.folder)[self._keep :]:
                # Unmarked first: what a kill leaves of it must not look like a damaged checkpoint.
                (self.folder / str(old) / HASHES).unlink(missing_ok=True)
                shutil.rmtree(self.folder / str(old))

    def wait(self) -> None:
        """Until the last save is on disk and hashed; raises what went wrong there."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Finish the last save and stop the threads."""
        self.wait()
        self._hasher.shutdown()
        self._manager.close()

    def newest(self) -> int | None:
        """The newest step whose files are all as they were saved; damaged ones are moved aside and named.

        Raises:
          ValueError: there are committed checkpoints, but none of them is whole.
        """
        newest = newest_whole(self.folder, self.notices)
        if jax.process_index() == 0:
            for step in saved_steps(self.folder):
                if newest is None or step > newest:
                    self._set_aside(step)
        self._wait_for_process_0()
        return newest

    def discard_after(self, step: int) -> None:
        """Move aside what is newer than `step`: the run goes on from there and will save those steps again."""
        if jax.process_index() == 0:
            for later in saved_steps(self.folder):
                if later > step:
                    self._set_aside(later)
        self._wait_for_process_0()

    def _wait_for_process_0(self) -> None:
        """Every process sees the folder as process 0 left it."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self.folder.name} settled")
        self._manager.reload()

    def _set_aside(self, step: int) -> None:
        target = self.folder.parent / "set_aside" / f"{self.folder.name}-{step}"
        target.parent.mkdir(exist_ok=True)
        free = next(t for i in range(10_000) if not (t := target.with_name(f"{target.name}-{i}")).exists())
        (self.folder / str(step)).rename(free)
        self.notices.append(f"moved {self.folder.name}/{step} to {free.relative_to(self.folder.parent)}")

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step`, in the shapes and shardings of `abstract`, whatever devices it was saved on."""
        tree = nested(abstract)
        params = {k: tree.pop(k) for k in ("trainable", "frozen") if k in tree}
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=_restore_args(params), train=_restore_args(tree), host=ocp.args.JsonRestore()
            ),
        )
        leaves = {**flat(restored["params"]), **flat(restored["train"])}
        state = jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_names(path)], abstract)
        return state, dict(restored["host"])


def _restore_args(abstract: Tree) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        abstract, restore_args=jax.tree.map(lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding), abstract)
    )


def saved_steps(folder: Path) -> list[int]:
    """Steps with a folder, newest first."""
    return sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)


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
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != HASHES)
    write_json(folder / HASHES, {str(p.relative_to(folder)): _sha256(p) for p in files})


def damaged_file(folder: Path) -> str | None:
    """A line naming the first file that is missing or altered, or None."""
    for name, digest in read_json(folder / HASHES).items():
        if not (folder / name).exists():
            return f"{folder / name} is missing"
        if _sha256(folder / name) != digest:
            return f"{folder / name} is damaged ({(folder / name).stat().st_size} bytes, its hash differs)"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_params(folder: Path, step: int) -> dict[str, Tree]:
    """{trainable, frozen} of one checkpoint as numpy trees, each leaf as it was saved."""
    with ocp.PyTreeCheckpointer() as reader:
        source = (folder / str(step) / "params").absolute()
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
