"""How properties of an objective are measured: evaluate, compare, isolate one token.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import TextConfig
from model.network import BoundNetwork, Network, Params
from objectives.base import Batch, LossOut, Objective

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


def evaluate(
    objective: Objective, network: Network, params: Params, batch: HostBatch, only: str | None = None
) -> tuple[LossOut, Params]:
    """The sums, and the gradient of the minimised sum (not divided by any weight) or of one term `only`."""
    # Arguments, so that one program serves every choice of terms; those left out count 0 times.
    factors = {
        k: factor if only is None else float(k == only) for k, factor in objective.coefficients().items()
    }
    return _evaluate(objective, network, factors, params, companions_of(network), batch)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _evaluate(
    objective: Objective,
    network: Network,
    factors: dict[str, float],
    params: Params,
    companions: dict[str, Params],
    batch: Batch,
) -> tuple[LossOut, Params]:
    def total(params: Params) -> tuple[jax.Array, LossOut]:
        out = objective(network.bind(params, None, companions), batch, step_key())
        return jnp.sum(jnp.stack([factor * out.terms[k][0] for k, factor in factors.items()])), out

    (_, out), grads = jax.value_and_grad(total, has_aux=True)(params)
    return out, grads


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
) -> tuple[dict[str, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]:
    """The batch that the backbone reads, and the claims about it."""
    corrupted = objective.corrupt(config, batch, rng)
    return dict(corrupted.batch), objective.claims().corruption_claims(config, batch, corrupted)


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


def keep_segments(batch: HostBatch, keep_BL: np.ndarray) -> HostBatch:
    """The batch with all other tokens turned into padding; targets go with the last of their segment's inputs."""
    segment_ids_BL = np.where(keep_BL, batch["segment_ids"], 0)
    kept = {**batch, "segment_ids": segment_ids_BL}
    if "target_segment_ids" in batch:
        target_BT = batch["target_segment_ids"]
        has_inputs_BT = (target_BT[:, :, None] == segment_ids_BL[:, None, :]).any(axis=-1)
        kept["target_segment_ids"] = np.where(has_inputs_BT, target_BT, 0)
    return kept


def on_device(batch: HostBatch) -> dict[str, jax.Array]:
    """The batch as jax arrays, for calls that are not jitted."""
    return {k: jnp.asarray(v) for k, v in batch.items()}


def inner_tokens(batch: HostBatch) -> list[tuple[int, int]]:
    """(row, column) of every token with at least three before it in its segment and one after it."""
    follows = np.pad(batch["segment_ids"][:, 1:], ((0, 0), (0, 1))) == batch["segment_ids"]
    fits = (batch["segment_ids"] > 0) & (batch["positions"] >= 3) & follows & (batch["tokens"] >= 7)
    return [(int(row), int(at)) for row, at in np.argwhere(fits)]


class Recorder(BoundNetwork):
    """Keeps what it encodes."""

    def __init__(self, bound: BoundNetwork):
        super().__init__(bound.network, bound.params, None, bound.companion)
        self.states_BLD: list[jax.Array] = []

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, L, D], kept."""
        self.states_BLD.append(super().encode(batch))
        return self.states_BLD[-1]


def read_states(objective: Objective, network: Network, params: Params, batch: HostBatch) -> jax.Array:
    """The hidden states [B, L, D] from which the objective scores this batch: of its first encode."""
    return _read_states(objective, network, params, companions_of(network), batch)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _read_states(
    objective: Objective, network: Network, params: Params, companions: dict[str, Params], batch: Batch
) -> jax.Array:
    recorder = Recorder(network.bind(params, None, companions))
    objective(recorder, batch, step_key())
    return recorder.states_BLD[0]


class Watched(BoundNetwork):
    """Reads its own tokens whatever it is asked to encode, and adds `nudge` to what comes out.

    Its companions read the same tokens: what they say of them does not change with the targets.
    """

    def __init__(self, bound: BoundNetwork, tokens_BL: jax.Array, nudge_BLD: jax.Array):
        companion = {
            name: Watched(other, tokens_BL, jnp.zeros((1, 1, other.config.width)))
            for name, other in bound.companion.items()
        }
        super().__init__(bound.network, bound.params, None, companion)
        self._tokens_BL, self._nudge_BLD = tokens_BL, nudge_BLD

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, L, D] of its own tokens, nudged."""
        return super().encode({**batch, "tokens": self._tokens_BL}) + self._nudge_BLD


def hidden_gradient(
    objective: Objective, network: Network, params: Params, read: HostBatch, targets: HostBatch
) -> jax.Array:
    """Gradient [B, L, D] of the loss of `targets` with respect to hidden states of the tokens of `read`."""
    return _hidden_gradient(objective, network, params, companions_of(network), read, targets)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _hidden_gradient(
    objective: Objective,
    network: Network,
    params: Params,
    companions: dict[str, Params],
    read: Batch,
    targets: Batch,
) -> jax.Array:
    def loss(nudge_BLD: jax.Array) -> jax.Array:
        bound = network.bind(params, None, companions)
        out = objective(Watched(bound, read["tokens"], nudge_BLD), targets, step_key())
        return jnp.sum(jnp.stack([loss for loss, _ in out.terms.values()]))

    return jax.grad(loss)(jnp.zeros((*read["tokens"].shape, network.backbone.config.width)))


def brief(counts: Any) -> str:
    """The first few counts, rounded."""
    return str([round(float(x)) for x in counts[:8]]) + ("..." if len(counts) > 8 else "")


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    """Probability of counts at least this far from the expected ones; bins expecting under 5 are joined.

    By the approximation of Wilson and Hilferty (1931), good to a few percent of p.

    >>> round(chi_square_p(np.array([60.0, 20.0, 20.0]), np.array([50.0, 25.0, 25.0])), 3)  # exp(-2) = 0.135
    0.133
    """
    if np.any((expected <= 0) & (observed > 0)):
        return 0.0
    small = expected < 5
    observed = np.append(observed[~small], observed[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    used = expected > 0
    statistic = float(np.sum((observed[used] - expected[used]) ** 2 / expected[used]))
    freedom = max(1, int(used.sum()) - 1)
    spread = 2 / (9 * freedom)
    return 0.5 * math.erfc(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(2 * spread))


def least_likely(counts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, str]:
    """(-log10 of the smallest p-value, its limit, the claim with its furthest count in standard deviations)."""
    worst, detail = -1.0, ""
    for claim, (observed, expected) in counts.items():
        observed, expected = np.asarray(observed, float), np.asarray(expected, float)
        surprise = float(-np.log10(max(chi_square_p(observed, expected), 1e-300)))
        if surprise > worst:
            off = (observed - expected) / np.sqrt(np.maximum(expected, 1.0))
            at = int(np.argmax(np.abs(off)))
            worst, detail = (
                surprise,
                (
                    f"{claim}: observed {brief(observed)}, expected {brief(expected)}; count {at} is off by "
                    f"{off[at]:+.1f} sigmas"
                ),
            )
    return max(worst, 0.0), 6.0, detail


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
