"""How properties of an objective are measured: evaluate, split, compare.

Shape suffixes: B rows, L tokens of a row, G segments of a row, D model width, V vocabulary.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import TextConfig
from model.network import BoundNetwork, Network, Params
from objectives.base import Batch, Corrupted, LossOut, Objective
from objectives.segments import is_layout

HostBatch = dict[str, np.ndarray]

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""All here runs a few times on tiny arrays: compiling is the cost, and this makes it a quarter (measured)."""
COMPANION_SCALE = 4.0
"""Of a companion's fresh parameters. Nearly equal logits would differ by little more than rounding does."""


def network_of(objective: Objective, config: TextConfig) -> Network:
    """The backbone of this config with the objective's heads; its companions have such a backbone, too."""
    backbone = config.build()
    companions = tuple(
        (name, Network(backbone, tuple(objective.companion_heads(name, config))))
        for name in objective.companions
    )
    return Network(backbone, tuple(objective.heads(config)), companions)


def step_key() -> jax.Array:
    """The step's key in every measurement."""
    return jax.random.key(1)


class Sharpened(BoundNetwork):
    """Its output table, and whatever a head gives, times a factor: what it says, it says more firmly."""

    def __init__(self, bound: BoundNetwork, factor: jax.Array):
        super().__init__(bound.network, bound.params, bound.dropout_rng, bound.companion)
        self._factor = factor

    @property
    def embedding_VD(self) -> jax.Array:
        """The table of the logits times the factor, in the compute dtype."""
        table_VD = super().embedding_VD
        return (table_VD * self._factor).astype(table_VD.dtype)

    def head(self, name: str, *args: jax.Array, batch: Batch | None = None) -> Any:
        """What the head gives, times the factor."""
        given = super().head(name, *args, batch=batch)
        return jax.tree.map(lambda x: (x * self._factor).astype(x.dtype), given)


def evaluate(
    objective: Objective,
    network: Network,
    params: Params,
    batch: HostBatch,
    only: str | None = None,
    *,
    penalties: bool = False,
    sharpness: float = 1.0,
) -> tuple[LossOut, Params]:
    """The sums, and the gradient of the minimised sum (not divided by any weight) or of one term `only`.

    Penalties are part of it if asked for: they count once whatever the split, so sums of splits leave them out.
    """
    # Arguments, so that one program serves every choice of terms; those left out count 0 times.
    factors = {
        k: factor if only is None else float(k == only) for k, factor in objective.coefficients().items()
    }
    scales = (float(penalties), np.float32(sharpness))
    return _evaluate(objective, network, factors, scales, params, companions_of(network), batch)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _evaluate(
    objective: Objective,
    network: Network,
    factors: dict[str, float],
    scales: tuple[float, jax.Array],
    params: Params,
    companions: dict[str, Params],
    batch: Batch,
) -> tuple[LossOut, Params]:
    def total(params: Params) -> tuple[jax.Array, LossOut]:
        out = objective(Sharpened(network.bind(params, None, companions), scales[1]), batch, step_key())
        return minimised(out, factors) + sum(scales[0] * x for x in out.penalties.values()), out

    (_, out), grads = jax.value_and_grad(total, has_aux=True)(params)
    return out, grads


def minimised(out: LossOut, factors: Mapping[str, float]) -> jax.Array:
    """The sum of its terms, each times its factor.

    Raises:
      ValueError: it has other terms than those with a factor.
    """
    if set(out.terms) != set(factors):
        raise ValueError(
            f"LossOut has the terms {sorted(out.terms)}, coefficients() {sorted(factors)}: name the same ones"
        )
    return jnp.sum(jnp.stack([factor * out.terms[k][0] for k, factor in factors.items()]))


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _initial(network: Network, part: str, seed: int) -> Params:
    return network.init(jax.random.key(seed))[part]


def fresh(network: Network, seed: int = 0) -> Params:
    """Initial parameters; each part on its own, so that networks which share it compile it once."""
    alone = [Network(network.backbone, (head,)) for head in network.heads]
    heads = {k: v for part in alone for k, v in _initial(part, "heads", seed).items()}
    return {"backbone": _initial(Network(network.backbone), "backbone", seed), "heads": heads}


@functools.lru_cache(maxsize=4)
def companions_of(network: Network) -> dict[str, Params]:
    """Parameters of its companions: of another seed, and larger, so that their answers differ as trained ones do."""
    return {
        name: jax.tree.map(lambda x: COMPANION_SCALE * x, fresh(other, seed))
        for seed, (name, other) in enumerate(network.companions, 1)
    }


def at_start(objective: Objective, config: TextConfig, *batches: HostBatch) -> list[tuple[LossOut, Params]]:
    """Sums and gradients of each batch at the same fresh parameters, on the host."""
    network = network_of(objective, config)
    params = fresh(network)
    return [jax.device_get(evaluate(objective, network, params, batch)) for batch in batches]


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def corruption(
    objective: Objective, config: TextConfig, batch: Batch, rng: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, tuple[jax.Array, jax.Array]], Any]:
    """The batch that the backbone reads, the claims about it, and the plan."""
    corrupted = objective.corrupt(config, batch, rng)
    claims = objective.claims().corruption_claims(config, batch, corrupted)
    return dict(corrupted.batch), claims, corrupted.plan


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def claims_of(
    objective: Objective, config: TextConfig, batch: Batch, read: Batch, plan: Any
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """What is claimed if this had been read, after this plan."""
    return objective.claims().corruption_claims(config, batch, Corrupted(read, plan))


def differs_from(batch: HostBatch, read: Mapping[str, jax.Array]) -> bool:
    """Whether something else is read than this batch."""
    return any(k not in batch or np.any(np.asarray(x) != batch[k]) for k, x in read.items())


def add(*results: tuple[LossOut, Params]) -> tuple[LossOut, Params]:
    """The sum of several results; penalties count once, whatever the split."""
    out, grads = jax.tree.map(lambda *xs: sum(xs), *results)
    return out._replace(penalties=results[0][0].penalties), grads


def difference(one: tuple[LossOut, Params], other: tuple[LossOut, Params]) -> float:
    """Largest relative difference of any sum or weight, and of the gradients by norm."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True):
        worst = float(np.maximum(worst, abs(a - b) / max(1e-6, abs(float(b)))))
    norm = gradient_norm(jax.tree.map(np.subtract, one[1], other[1]))
    return float(np.maximum(worst, norm / max(1e-6, gradient_norm(other[1]))))


def gradient_norm(grads: Params) -> float:
    """Euclidean norm over all leaves, on the host."""
    return float(np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(grads))))


def keep_segments(batch: HostBatch, keep_BL: np.ndarray, segments: int | None = None) -> HostBatch:
    """The batch with all other tokens turned into padding; targets go with the last of their segment's inputs.

    What stands in padding must not matter, so other values of the batch are put there; and, where it is said how many
    segments a row may have, in the place of a lost segment in the arrays that have an entry for each.
    """
    segment_ids_BL = np.where(keep_BL, batch["segment_ids"], 0)
    kept = {**batch, "segment_ids": segment_ids_BL}
    if "target_segment_ids" in batch:
        target_BT = batch["target_segment_ids"]
        has_inputs_BT = (target_BT[:, :, None] == segment_ids_BL[:, None, :]).any(axis=-1)
        kept["target_segment_ids"] = np.where(has_inputs_BT, target_BT, 0)
    length = segment_ids_BL.shape[1]
    for name, value in batch.items():
        if is_layout(name) or name.startswith("target_") or value.ndim < 2:
            continue
        if value.shape[1] == length:
            lost = (segment_ids_BL == 0) & (batch["segment_ids"] > 0)
        elif segments is not None and value.shape[1] == segments:
            there_BG = (segment_ids_BL[..., None] == np.arange(1, segments + 1)).any(axis=1)
            lost = ~there_BG
        else:
            continue
        other = np.broadcast_to(value.max(axis=(0, 1), keepdims=True), value.shape)
        kept[name] = np.where(lost.reshape(*lost.shape, *[1] * (value.ndim - 2)), other, value)
    return kept


Frozen = tuple[tuple[str, tuple[int, ...], str, bytes], ...]


def frozen(batch: HostBatch) -> Frozen:
    """The batch as what can be a key, for what several properties look at."""
    return tuple((k, v.shape, v.dtype.str, v.tobytes()) for k, v in sorted(batch.items()))


def thawed(kept: Frozen) -> HostBatch:
    """The batch of such a key."""
    return {k: np.frombuffer(data, dtype).reshape(shape) for k, shape, dtype, data in kept}


def on_device(batch: HostBatch) -> dict[str, jax.Array]:
    """The batch as jax arrays, for calls that are not jitted."""
    return {k: jnp.asarray(v) for k, v in batch.items()}


def adam(params: Params, grads: Params, moments: Any, step: int, rate: float = 1e-2) -> tuple[Params, Any]:
    """One step of Adam on the host: compiling an optimizer would cost more than running this one."""
    params, grads = jax.tree.map(np.asarray, (params, grads))
    zeros = jax.tree.map(np.zeros_like, params)
    first, second = moments or (zeros, zeros)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, second, grads)

    def moved(param: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        return param - np.float32(rate / (1 - 0.9**step)) * m / (
            np.sqrt(v / np.float32(1 - 0.99**step)) + 1e-8
        )

    return jax.tree.map(moved, params, first, second), (first, second)
