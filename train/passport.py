"""The leaf-by-leaf account of a hand-off: what was restored, what was not, and why. Anything unexplained is
an error.

It is given an opened run and the network to fill.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.table import Table

from model.network import Network
from train.adapter import Params
from train.checkpoint import flat
from train.describe import write_json
from train.restore import Source
from train.tree import nest

Status = Literal["restored", "resized", "re-initialised", "dropped"]
POSITIONS = ("backbone", "embed", "positions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What happened to one leaf."""

    path: str
    status: Status
    why: str
    shape: tuple[int, ...]
    """Its shape in the new network; where it was dropped, in the run."""
    stored: tuple[int, ...] | None
    """Its shape in the run, if it was there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passport:
    """All entries of one hand-off."""

    source: str
    """The checkpoint that was read."""
    entries: tuple[Entry, ...]

    def keep(self, workdir: Path) -> None:
        """As JSON in the run folder; a resumed run keeps the account of its beginning: the source may have gone on."""
        path = workdir / "passport.json"
        if not path.exists():
            write_json(path, dataclasses.asdict(self))

    def table(self) -> Table:
        """One line for each part of the network with one fate."""
        groups: dict[tuple[str, str, str], list[Entry]] = collections.defaultdict(list)
        for entry in self.entries:
            names = entry.path.split("/")
            groups[("/".join(names[:2]), entry.status, entry.why)].append(entry)
        table = Table()
        for column in ("part", "status", "leaves", "numbers", "why"):
            table.add_column(column, justify="right" if column in ("leaves", "numbers") else "left")
        for (part, status, why), entries in groups.items():
            numbers = sum(math.prod(entry.shape) for entry in entries)
            table.add_row(part, status, str(len(entries)), f"{numbers:,}", why)
        return table


@functools.partial(jax.jit, static_argnums=0)
def _fresh_heads(network: Network, rng: jax.Array) -> Params:
    # The backbone is drawn by the same call, and removed again by the compiler.
    return {"heads": network.init(rng)["heads"]}


def hand_off(
    source: Source, network: Network, rng: jax.Array, *, reuse_heads: Sequence[str] = ()
) -> tuple[Params, Passport]:
    """Initial parameters for `network` from an opened run.

    Args:
      source: the run.
      network: backbone and heads of the new run. Its position table may have another length than the run's.
      rng: draws the heads that are not taken from the run.
      reuse_heads: heads to take from the run; all others start fresh, whatever the run has.

    Raises:
      ValueError: a leaf of the backbone or of a reused head is missing, unexpected or of another shape.
    """
    wanted, held = flat(jax.eval_shape(network.init, rng)), flat(source.params)
    heads = {path[1] for path in wanted if path[0] == "heads"}
    unknown = sorted(set(reuse_heads) - heads)
    if unknown:
        raise ValueError(f"reuse_heads names {unknown}, but this network has the heads {sorted(heads)}")
    drawn = {} if heads <= set(reuse_heads) else _fresh_heads(network, rng)
    fresh = {path: np.asarray(leaf) for path, leaf in flat(drawn).items()}
    leaves, entries, problems = {}, [], []
    for path, target in wanted.items():
        found = _account_for(
            path, target, held.get(path), fresh.get(path), source, network, path[1] in reuse_heads
        )
        if isinstance(found, str):
            problems.append(found)
        else:
            leaves[path], entry = found
            entries.append(entry)
    for path, leaf in held.items():
        if path in wanted:
            continue
        name = "/".join(path)
        if path[0] == "heads" and path[1] not in reuse_heads:
            why = "head of the run, left behind"
            entries.append(Entry(path=name, status="dropped", why=why, shape=leaf.shape, stored=leaf.shape))
        else:
            problems.append(f"{name}: the run has it, shape {leaf.shape}, but the network has no such leaf")
    if problems:
        raise ValueError(f"{source.checkpoint} does not fit the network: " + "; ".join(problems[:20]))
    # Heads without parameters have no leaf, but the network's tree names them.
    params = {"backbone": {}, "heads": {}} | nest(leaves)
    return params, Passport(source=str(source.checkpoint), entries=tuple(entries))


def whole(source: Source, network: Network) -> tuple[Params, Passport]:
    """Parameters of a network that the run holds entirely, heads included; ValueError where it does not."""
    # Every head is taken from the run, so nothing is drawn with this key.
    return hand_off(source, network, jax.random.key(0), reuse_heads=[name for name, _ in network.heads])


def fresh_passport(source: Source, network: Network) -> Passport:
    """The account where nothing but shape and tokenizer is taken from the run."""
    shapes = flat(jax.eval_shape(network.init, jax.random.key(0)))
    why = "init_parameters is fresh"
    entries = (
        Entry(path="/".join(path), status="re-initialised", why=why, shape=leaf.shape, stored=None)
        for path, leaf in shapes.items()
    )
    return Passport(source=str(source.checkpoint), entries=tuple(entries))


def _account_for(
    path: tuple[str, ...],
    target: Any,
    stored: np.ndarray | None,
    fresh: np.ndarray | None,
    source: Source,
    network: Network,
    reuse: bool,
) -> tuple[np.ndarray, Entry] | str:
    """The value of one leaf of the new network with its entry, or what is wrong."""
    name = "/".join(path)
    shapes = {"shape": target.shape, "stored": None if stored is None else stored.shape}
    entry = functools.partial(Entry, path=name, **shapes)
    if path[0] == "heads" and not reuse:
        assert fresh is not None
        had = ("heads", path[1]) in {p[:2] for p in flat(source.params)}
        why = f"the run's {path[1]} was not asked for" if had else "head new for this task"
        return fresh, entry(status="re-initialised", why=why)
    if stored is None:
        return f"{name}: the network needs it, shape {target.shape}, but the run has no such leaf"
    if stored.shape == target.shape and stored.dtype == target.dtype:
        return stored, entry(status="restored", why="reused as asked" if path[0] == "heads" else "backbone")
    if path == POSITIONS and stored.shape[0] != target.shape[0] and stored.shape[1:] == target.shape[1:]:
        config: Any = network.backbone.config
        offset, new = config.position_offset, config.max_positions
        old, table = stored.shape[0] - offset, _resize_positions(stored, offset, new)
        if table.shape == target.shape:
            return table, entry(status="resized", why=f"max_positions {old} -> {new}")
    return (
        f"{name}: shape {stored.shape} {stored.dtype} in the run, "
        f"{target.shape} {target.dtype} in the network"
    )


def _resize_positions(table: np.ndarray, offset: int, positions: int) -> np.ndarray:
    """Fewer rows: the first ones. More: the rows over again (Beltagy et al. 2020, arXiv 2004.05150, section
    5).
    """
    reserved, rows = table[:offset], table[offset:]
    return np.concatenate([reserved, rows[np.arange(positions) % len(rows)]])
