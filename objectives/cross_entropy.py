"""Cross-entropy against a large vocabulary that never holds the whole logits array, summed or token by token.

`sweep` is what every such loss goes through (objectives/divergence.py too): the logits of a chunk of positions, a rule that
makes sums and a gradient of them, and the next chunk.

Shape suffixes: B rows, P positions of a row, C positions of a chunk, N chunks, R = B x C
positions of a chunk as one axis, D model width, V vocabulary.
"""

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from model.product import product, sum_of_outer_products, sum_of_rows

WHOLE = 2**24
"""Up to this many logits (64 MiB of float32) are one block: chunks would only cost time."""
SMALLEST_CHUNK, LARGEST_CHUNK = 16, 256
"""Positions per row and chunk. Few rows want long chunks: one of D=256, V=50257, L=1024 took 544 ms at 256, 670 ms at 64
and 1182 ms unchunked, with 156, 78 and 412 MB (one CPU core). Many rows want short ones: 32 of V=30522 took 677 ms at 16
and 789 ms at 64 in bfloat16, 1137 and 1351 ms in float32 (two cores; all 2026-11-21)."""


class CrossEntropy(NamedTuple):
    """Float32 sums over weighted positions."""

    loss_sum: jax.Array
    """weights x (nll + z_loss x log Z squared), nats: what is minimised."""
    nll_sum: jax.Array
    """weights x nll alone, for perplexity; carries no gradient."""
    correct_sum: jax.Array
    """weights where no other token has a larger logit than the target."""


def cross_entropy(
    hidden_BPD: jax.Array,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
    *,
    z_loss: float = 0.0,
    chunk: int | None = None,
) -> CrossEntropy:
    r"""Summed negative log-likelihood of targets under softmax(hidden @ embedding.T + bias).

    .. math:: \sum_{b,p} w_{bp} \left(\log Z_{bp} - \ell_{bp,t_{bp}} + z \log^2 Z_{bp}\right), \quad
              \ell_{bp} = E h_{bp} + c, \quad Z_{bp} = \sum_v e^{\ell_{bpv}}

    With more than `WHOLE` logits the positions of each row are swept in chunks, and a chunk's gradient is
    taken in the same sweep (three matrix products instead of the four of rematerialisation: 2.6 times faster,
    see above). Chunks run along the row, so rows may be sharded over devices. Reverse mode only.

    Args:
      hidden_BPD: float[B, P, D], in the compute dtype; logits are accumulated in float32.
      embedding_VD: float[V, D], usually the tied token table.
      bias_V: float[V] or None.
      targets_BP: int[B, P] in [0, V); anything in range where the weight is 0.
      weights_BP: float32[B, P], constants: no gradient flows to them.
      z_loss: factor of the squared log normaliser (arXiv 2204.02311, section 5, uses 1e-4).
      chunk: positions per chunk; None chooses.

    Returns:
      Sums in nats, see `CrossEntropy`; divide by the sum of the weights on the host.

    Example:
      Two classes with logits (ln 3, 0): the first has probability 3/4.

      >>> import jax.numpy as jnp
      >>> out = cross_entropy(jnp.ones((1, 2, 1)), jnp.log(jnp.array([[3.0], [1.0]])), None,
      ...                     jnp.array([[0, 1]]), jnp.array([[1.0, 2.0]]))
      >>> [round(float(x), 4) for x in out]  # 1 x ln(4/3) + 2 x ln 4, and the first is correct
      [3.0603, 3.0603, 1.0]

    Reference:
      Chowdhery et al., PaLM, arXiv 2204.02311, section 5 (z-loss).
    """
    B, P, D = hidden_BPD.shape
    V = embedding_VD.shape[0]
    if targets_BP.shape != (B, P) or weights_BP.shape != (B, P) or embedding_VD.shape[1] != D:
        raise ValueError(
            f"shapes disagree: hidden {hidden_BPD.shape}, embedding {embedding_VD.shape}, "
            f"targets {targets_BP.shape}, weights {weights_BP.shape}"
        )
    chunk = chunk_length(B, P, V) if chunk is None else min(chunk, P)
    hidden_NBCD, *answers = (split(x, chunk) for x in (hidden_BPD, targets_BP, weights_BP))
    loss_sum, nll_sum, correct_sum = sweep(
        Nll(z_loss=z_loss), hidden_NBCD, embedding_VD, bias_V, tuple(answers), ()
    )
    return CrossEntropy(loss_sum, jax.lax.stop_gradient(nll_sum), correct_sum)


def cross_entropy_of_logits(
    logits_BPV: jax.Array, targets_BP: jax.Array, weights_BP: jax.Array
) -> CrossEntropy:
    """The same sums for few classes, whose logits [B, P, V] are at hand; targets below 0 need weight 0."""
    loss_sum, nll_sum, correct_sum = _sums(
        logits_BPV.astype(jnp.float32), jnp.maximum(targets_BP, 0), weights_BP, 0.0
    )
    return CrossEntropy(loss_sum, jax.lax.stop_gradient(nll_sum), correct_sum)


def token_nll(
    hidden_BPD: jax.Array,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    targets_BP: jax.Array,
    *,
    chunk: int | None = None,
) -> jax.Array:
    r"""The nll of each target by itself, for losses that weigh tokens by what the model says (preferences, policies).

    .. math:: \log Z_{bp} - \ell_{bp,t_{bp}}

    Logits are swept in chunks both ways: the gradient, g (softmax - onehot) for the cotangent g of each token, makes them
    again (four matrix products in all, where `cross_entropy` has three). Reverse mode only.

    Args:
      hidden_BPD: float[B, P, D], in the compute dtype.
      embedding_VD: float[V, D].
      bias_V: float[V] or None.
      targets_BP: int[B, P] in [0, V).
      chunk: positions per chunk; None chooses.

    Returns:
      float32[B, P], nats.

    Example:
      Two classes with logits (ln 3, 0): the first has probability 3/4.

      >>> import jax.numpy as jnp
      >>> nll = token_nll(jnp.ones((1, 2, 1)), jnp.log(jnp.array([[3.0], [1.0]])), None, jnp.array([[0, 1]]))
      >>> [round(float(x), 4) for x in nll[0]]  # ln(4/3) and ln 4
      [0.2877, 1.3863]
    """
    B, P, _ = hidden_BPD.shape
    chunk = chunk_length(B, P, embedding_VD.shape[0]) if chunk is None else min(chunk, P)
    hidden_NBCD, targets_NBC = (split(x, chunk) for x in (hidden_BPD, targets_BP))
    nll_NBC = _token_nll(hidden_NBCD, embedding_VD, bias_V, targets_NBC)
    return nll_NBC.swapaxes(0, 1).reshape(B, -1)[:, :P]


Arrays = tuple[Any, ...]
Sums = tuple[jax.Array, ...]


class Rule(Hashable, Protocol):
    """What a sweep makes of the logits of a chunk."""

    @property
    def sums(self) -> int:
        """How many sums it gives."""
        ...

    def __call__(self, logits_RV: jax.Array, positions: Arrays, tables: Arrays) -> tuple[Sums, jax.Array]:
        """(float32 sums over the chunk, gradient [R, V] of the first with respect to the logits)."""
        ...


def _power_of_two(n: int) -> int:
    """The largest one that is not above n; 0 below 1."""
    return 1 << n.bit_length() - 1 if n > 0 else 0


def chunk_length(rows: int, positions: int, vocabulary: int) -> int:
    """Positions of each row whose logits should exist at once."""
    if rows * positions * vocabulary <= WHOLE:
        return positions
    fitting = _power_of_two(WHOLE // (rows * vocabulary))
    return min(max(SMALLEST_CHUNK, fitting), LARGEST_CHUNK, positions)


def split(x_BP: jax.Array, chunk: int) -> jax.Array:
    """[B, P, ...] -> [N, B, C, ...], padded with zeros."""
    B, P, *rest = x_BP.shape
    x_BP = jnp.pad(x_BP, ((0, 0), (0, (-P) % chunk), *(((0, 0),) * len(rest))))
    return x_BP.reshape(B, -1, chunk, *rest).swapaxes(0, 1)


def logits(hidden_RD: jax.Array, embedding_VD: jax.Array, bias_V: jax.Array | None) -> jax.Array:
    """The product hidden @ embedding.T + bias, float32 [R, V], for as many positions as should exist at once."""
    logits_RV = product("RD,VD->RV", hidden_RD, embedding_VD)
    return logits_RV if bias_V is None else logits_RV + bias_V.astype(jnp.float32)[None, :]


class Gradients(NamedTuple):
    """What a gradient of logits [R, V] means for their factors."""

    hidden_RD: jax.Array
    """In the dtype of the hidden states."""
    embedding_DV: jax.Array
    """Of the transposed table, float32."""
    bias_V: jax.Array | None
    """float32."""


def through_logits(
    d_logits_RV: jax.Array, hidden_RD: jax.Array, embedding_VD: jax.Array, bias_V: jax.Array | None
) -> Gradients:
    """From the gradient of `logits`, float32 [R, V], to those of what they are made of."""
    d_bias_V = None if bias_V is None else sum_of_rows(d_logits_RV)
    d_logits_RV = d_logits_RV.astype(hidden_RD.dtype)
    d_hidden_RD = product("RV,VD->RD", d_logits_RV, embedding_VD).astype(hidden_RD.dtype)
    # This way round a CPU transposes the small result, not the logits.
    return Gradients(d_hidden_RD, sum_of_outer_products(hidden_RD, d_logits_RV), d_bias_V)


class _PerToken(NamedTuple):
    nll: jax.Array
    log_z: jax.Array
    correct: jax.Array


def _nll(logits_BPV: jax.Array, targets_BP: jax.Array) -> _PerToken:
    """Of each position, [B, P] each."""
    top_BP = jax.lax.stop_gradient(jnp.max(logits_BPV, axis=-1))
    log_z_BP = top_BP + jnp.log(jnp.sum(jnp.exp(logits_BPV - top_BP[..., None]), axis=-1))
    target_BP = jnp.take_along_axis(logits_BPV, targets_BP[..., None], axis=-1)[..., 0]
    # An argmax costs a slow pass of its own on CPU; the largest logit is known already.
    return _PerToken(log_z_BP - target_BP, log_z_BP, jax.lax.stop_gradient(target_BP) >= top_BP)


def _sums(logits_BPV: jax.Array, targets_BP: jax.Array, weights_BP: jax.Array, z_loss: float) -> Sums:
    nll_BP, log_z_BP, correct_BP = _nll(logits_BPV, targets_BP)
    loss_BP = nll_BP + z_loss * log_z_BP**2 if z_loss else nll_BP
    return jnp.sum(weights_BP * loss_BP), jnp.sum(weights_BP * nll_BP), jnp.sum(weights_BP * correct_BP)


class Nll(NamedTuple):
    """The rule of cross-entropy; of each position it is given (target, weight)."""

    z_loss: float = 0.0
    sums: int = 3

    def __call__(self, logits_RV: jax.Array, positions: Arrays, tables: Arrays) -> tuple[Sums, jax.Array]:
        """Its three sums, and w ((1 + 2 z log Z) softmax - onehot)."""
        targets_R, weights_R = positions
        sums = _sums(logits_RV, targets_R, weights_R, self.z_loss)
        top_R = jnp.max(logits_RV, axis=-1)
        exp_RV = jnp.exp(logits_RV - top_R[:, None])
        sum_R = jnp.sum(exp_RV, axis=-1)
        scale_R = weights_R * (1.0 + 2.0 * self.z_loss * (top_R + jnp.log(sum_R))) / sum_R
        hit_RV = jnp.arange(logits_RV.shape[-1])[None, :] == targets_R[:, None]
        return sums, scale_R[:, None] * exp_RV - jnp.where(hit_RV, weights_R[:, None], 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sweep(
    rule: Rule,
    hidden_NBCD: jax.Array,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    positions: Arrays,
    tables: Arrays,
) -> Sums:
    """Sums over all chunks of what a rule makes of their logits; only the first sum has a gradient.

    Args:
      rule: says what is summed.
      hidden_NBCD: float[N, B, C, D].
      embedding_VD: float[V, D].
      bias_V: float[V] or None.
      positions: arrays [N, B, C, ...], of which the rule is given each chunk's as [R, ...]; constants.
      tables: what else it is given, whole; constants.
    """

    def chunk(x: tuple[jax.Array, Arrays]) -> Sums:
        hidden_RD, flat = _as_one_axis(x)
        return rule(logits(hidden_RD, embedding_VD, bias_V), flat, tables)[0]

    start = (jnp.zeros((), jnp.float32),) * rule.sums
    return jax.lax.scan(lambda total, x: (_add(total, chunk(x)), None), start, (hidden_NBCD, positions))[0]


def _sweep_forward(
    rule: Rule,
    hidden_NBCD: jax.Array,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    positions: Arrays,
    tables: Arrays,
) -> tuple[Sums, Any]:
    """The sums and, from the same logits, the gradient of the first."""

    def chunk(x: tuple[jax.Array, Arrays]) -> tuple[tuple[Sums, jax.Array, jax.Array | None], jax.Array]:
        hidden_RD, flat = _as_one_axis(x)
        sums, d_logits_RV = rule(logits(hidden_RD, embedding_VD, bias_V), flat, tables)
        grads = through_logits(d_logits_RV, hidden_RD, embedding_VD, bias_V)
        return (sums, grads.embedding_DV, grads.bias_V), grads.hidden_RD.reshape(x[0].shape)

    xs = (hidden_NBCD, positions)
    if hidden_NBCD.shape[0] == 1:
        total, d_hidden_BCD = chunk(jax.tree.map(lambda x: x[0], xs))
        d_hidden_NBCD = d_hidden_BCD[None]
    else:

        def body(total: Any, x: Any) -> tuple[Any, jax.Array]:
            part, d_hidden_BCD = chunk(x)
            return _add(total, part), d_hidden_BCD

        total, d_hidden_NBCD = jax.lax.scan(body, _zeros(lambda x: chunk(x)[0], xs), xs)
    sums, d_embedding_DV, d_bias_V = total
    d_bias_V = None if d_bias_V is None or bias_V is None else d_bias_V.astype(bias_V.dtype)
    # An empty slice carries the dtype of the table to the backward pass.
    return sums, (d_hidden_NBCD, d_embedding_DV.T, d_bias_V, embedding_VD[:0])


def _sweep_backward(rule: Rule, gradients: Any, cotangents: Sums) -> Any:
    *scaled, table = gradients
    d_hidden, d_embedding_VD, d_bias_V = jax.tree.map(lambda x: (cotangents[0] * x).astype(x.dtype), scaled)
    return d_hidden, d_embedding_VD.astype(table.dtype), d_bias_V, None, None


sweep.defvjp(_sweep_forward, _sweep_backward)


@jax.custom_vjp
def _token_nll(
    hidden_NBCD: jax.Array, embedding_VD: jax.Array, bias_V: jax.Array | None, targets_NBC: jax.Array
) -> jax.Array:
    """Of each token, chunk by chunk."""

    def chunk(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden_RD, (targets_R,) = _as_one_axis((x[0], (x[1],)))
        return _nll(logits(hidden_RD, embedding_VD, bias_V), targets_R).nll.reshape(x[1].shape)

    return jax.lax.map(chunk, (hidden_NBCD, targets_NBC))


def _token_nll_forward(*factors: Any) -> tuple[jax.Array, Any]:
    return _token_nll(*factors), factors


def _token_nll_backward(factors: Any, d_nll_NBC: jax.Array) -> Any:
    """That of the summed loss in which each token weighs what its cotangent says."""
    hidden_NBCD, embedding_VD, bias_V, targets_NBC = factors
    _, gradients = _sweep_forward(Nll(), hidden_NBCD, embedding_VD, bias_V, (targets_NBC, d_nll_NBC), ())
    d_hidden_NBCD, d_embedding_VD, d_bias_V, table = gradients
    return d_hidden_NBCD, d_embedding_VD.astype(table.dtype), d_bias_V, None


_token_nll.defvjp(_token_nll_forward, _token_nll_backward)


def _as_one_axis(chunk: tuple[jax.Array, Arrays]) -> tuple[jax.Array, Arrays]:
    """Rows and positions as one axis: products of two matrices are what a CPU is fast at."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunk)


def _zeros(chunk: Any, xs: Any) -> Any:
    """Where the sum of `chunk(x)` over the leading axis of xs begins."""
    shapes = jax.eval_shape(lambda: chunk(jax.tree.map(lambda x: x[0], xs)))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _add(total: Any, part: Any) -> Any:
    return jax.tree.map(jnp.add, total, part)
