"""The two launchers: how a step's arrays lie on devices. `Pmap` replicates, `Mesh` shards by logical axis names.

Both give the same numbers. They run any step, and the device axis stays inside this file:
loop and checkpoints see the canonical state (no device axis, global arrays).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from train.tree import path_names

Tree = Any
HostBatch = Mapping[str, np.ndarray]

RULES: tuple[tuple[str, str], ...] = (
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
)
"""Logical axis of a parameter -> mesh axis; the first rule that fits wins, each mesh axis is used once per leaf."""


ACTIVATION_RULES = (("batch", ("data", "fsdp")), ("heads", "tensor"))
"""Logical axes of activations -> mesh axes, for kernels that split their own work."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pmap:
    """Replicated parameters and `jax.pmap` over all devices of all hosts."""

    @property
    def shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return jax.device_count()

    @property
    def copies(self) -> int:
        """How many devices run what the compiled step's jaxpr says: each computes its own rows."""
        return jax.device_count()

    def check(self) -> None:
        """Any number of devices works."""

    def _mesh(self) -> jax.sharding.Mesh:
        return jax.sharding.Mesh(np.array(jax.devices()), ("devices",))

    def _sharding(self, *spec: str) -> NamedSharding:
        return NamedSharding(self._mesh(), PartitionSpec(*spec))

    def shardings(self, abstract: Tree, axes: Tree) -> Tree:
        """Shardings of the canonical state: replicated everywhere."""
        return jax.tree.map(lambda _: self._sharding(), abstract)

    def enter(self, state: Tree) -> Tree:
        """Canonical state -> one copy per device, along a new leading axis."""
        return _with_axis(self.shards, self._sharding("devices"))(state)

    def leave(self, state: Tree) -> Tree:
        """The canonical state again. A jitted take of the first copy: plain indexing would transfer."""
        return _without_axis(self._sharding())(state)

    def compile(self, step: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """Map `step(state, batch, rng, axis=...)` over devices; what it returns besides the state is replicated."""
        if jax.process_count() > 1:
            return self._of_every_host(step, donate)
        return self._mapped(lambda state, batch, rng: step(state, batch, rng, axis="devices"), donate)

    def _mapped(self, step: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        return jax.pmap(step, axis_name="devices", donate_argnums=(0,) if donate else ())

    def _of_every_host(self, step: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """The mapped step on global arrays: pmap itself takes and gives each process its own devices' part, and no keys."""
        mesh, spec = self._mesh(), PartitionSpec("devices")
        mapped = self._mapped(
            lambda state, batch, bits: step(state, batch, jax.random.wrap_key_data(bits), axis="devices"),
            donate,
        )

        def call(state: Tree, batch: Tree, rng: Tree) -> Any:
            parts = state, batch, jax.random.key_data(rng)
            own = multihost_utils.global_array_to_host_local_array(parts, mesh, spec)
            return multihost_utils.host_local_array_to_global_array(mapped(*own), mesh, spec)

        return call

    def local_rows(self, batch_size: int) -> slice:
        """The rows of a global batch that this process reads."""
        return _local_rows(self._sharding("devices"), batch_size)

    def put(self, batch: HostBatch) -> Tree:
        """This process's rows -> [devices, rows per device, ...]."""
        sharding, n = self._sharding("devices"), jax.local_device_count()
        return {
            k: jax.make_array_from_process_local_data(sharding, v.reshape(n, -1, *v.shape[1:]))
            for k, v in batch.items()
        }

    def replicate(self, tree: Tree) -> Tree:
        """A small tree (a random key) for every device."""
        return self.enter(tree)

    def fetch(self, sums: Tree) -> Tree:
        """Replicated results -> numpy, without a device axis."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], sums)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """`jax.jit` over a device mesh: data, fully sharded data (fsdp) and tensor parallelism."""

    data: int = -1
    """Devices along the data axis; -1 takes all that the other axes leave."""
    fsdp: int = 1
    """Devices over which parameters and optimizer state are sharded; rows of a batch are split over them too."""
    tensor: int = 1
    """Devices over which heads, mlp width and vocabulary are split."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(data, fsdp, tensor) with -1 resolved."""
        data = jax.device_count() // (self.fsdp * self.tensor) if self.data == -1 else self.data
        return data, self.fsdp, self.tensor

    @property
    def shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return self.shape[0] * self.fsdp

    @property
    def copies(self) -> int:
        """The compiled step's jaxpr is of global arrays, so it counts once."""
        return 1

    def check(self) -> None:
        """The mesh must use every device exactly once."""
        if self.fsdp < 1 or self.tensor < 1 or (self.data < 1 and self.data != -1):
            raise ValueError(
                f"the mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor} has an axis below 1 (only data may be -1)"
            )
        shape, devices = self.shape, jax.device_count()
        if int(np.prod(shape)) != devices:
            raise ValueError(
                f"the mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor} covers {int(np.prod(shape))} devices "
                f"but there are {devices}: choose sizes whose product is {devices}, or leave data at -1"
            )

    def _sharding(self, *spec: Any) -> NamedSharding:
        devices = np.array(jax.devices()).reshape(self.shape)
        return NamedSharding(jax.sharding.Mesh(devices, ("data", "fsdp", "tensor")), PartitionSpec(*spec))

    def shardings(self, abstract: Tree, axes: Tree) -> Tree:
        """Shardings of the state: leaves that mirror a parameter (its moments, say) follow that parameter.

        Args:
          abstract: the state's shapes.
          axes: logical axis names of every parameter, as `Network.logical_axes` gives them.
        """
        is_names = lambda x: isinstance(x, tuple) and all(n is None or isinstance(n, str) for n in x)  # noqa: E731
        named = {path_names(p): x for p, x in jax.tree_util.tree_flatten_with_path(axes, is_leaf=is_names)[0]}

        def place(path: Any, leaf: Any) -> NamedSharding:
            names = path_names(path)
            for start in range(len(names)):
                if names[start:] in named and len(named[names[start:]]) == len(leaf.shape):
                    return self._sharding(*self._spec(named[names[start:]], leaf.shape))
            return self._sharding()

        return jax.tree_util.tree_map_with_path(place, abstract)

    def _spec(self, names: Sequence[str | None], shape: Sequence[int]) -> list[str | None]:
        sizes = dict(zip(("data", "fsdp", "tensor"), self.shape, strict=True))
        spec: list[str | None] = [None] * len(names)
        for logical, axis in RULES:
            fits = [i for i, n in enumerate(names) if n == logical and shape[i] % sizes[axis] == 0]
            if fits and axis not in spec and spec[fits[0]] is None:
                spec[fits[0]] = axis
        return spec

    def enter(self, state: Tree) -> Tree:
        """The canonical state is the launched state."""
        return state

    def leave(self, state: Tree) -> Tree:
        """The launched state is the canonical state."""
        return state

    def compile(self, step: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """Jit `step(state, batch, rng)`; shardings follow from the arguments."""
        mesh = self._sharding().mesh.abstract_mesh

        def traced(state: Tree, batch: Tree, rng: Tree) -> Any:
            # The partitioner cannot split a kernel: it looks here for the axes over which to split itself.
            with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(ACTIVATION_RULES):
                return step(state, batch, rng)

        return jax.jit(traced, donate_argnums=(0,) if donate else ())

    def _rows(self) -> NamedSharding:
        return self._sharding(("data", "fsdp"))

    def local_rows(self, batch_size: int) -> slice:
        """The rows of a global batch that this process reads."""
        return _local_rows(self._rows(), batch_size)

    def put(self, batch: HostBatch) -> Tree:
        """This process's rows -> a global array split over data and fsdp."""
        return {k: jax.make_array_from_process_local_data(self._rows(), v) for k, v in batch.items()}

    def replicate(self, tree: Tree) -> Tree:
        """A small tree (a random key) for every device."""
        return _placed(self._sharding())(tree)

    def fetch(self, sums: Tree) -> Tree:
        """Replicated results -> numpy."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), sums)


Launcher = Pmap | Mesh


# One jitted function per sharding: a fresh one at every call would compile again at every save.
@functools.lru_cache
def _with_axis(copies: int, sharding: NamedSharding) -> Callable[[Tree], Tree]:
    def add(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (copies, *x.shape)), tree)

    return jax.jit(add, out_shardings=sharding)


@functools.lru_cache
def _without_axis(sharding: NamedSharding) -> Callable[[Tree], Tree]:
    return jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree), out_shardings=sharding)


@functools.lru_cache
def _placed(sharding: NamedSharding) -> Callable[[Tree], Tree]:
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def _local_rows(sharding: NamedSharding, batch_size: int) -> slice:
    """The contiguous rows that this process's devices hold."""
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    spans = [index[0].indices(batch_size)[:2] for index in indices if index is not None]
    return slice(min(s for s, _ in spans), max(e for _, e in spans))
