"""How far one distribution over a large vocabulary is from another, without holding the logits. Knows no objective.

Shape suffixes: B rows, P positions of a row, C positions of a chunk, N chunks, R = B x C positions of a chunk as one axis,
D width of the student, E width of the teacher, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from objectives.base import Scored
from objectives.cross_entropy import chunk_length, logits, split, through_logits


def divergence(
    student: Scored, teacher: Scored, *, temperature: float, chunk: int | None = None
) -> jax.Array:
    r"""Summed Kullback-Leibler divergence of the student's predictions from the teacher's, both softened.

    .. math:: \sum_{b,p} w_{bp} \sum_v p_{bpv} \log \frac{p_{bpv}}{q_{bpv}}, \qquad
              p = \mathrm{softmax}(t / T), \quad q = \mathrm{softmax}(s / T)

    t and s are the logits of teacher and student. They are swept in chunks of positions, and a chunk's gradient,
    w (q - p) / T, is taken in the same sweep (as in `objectives.cross_entropy`). Reverse mode only; the teacher and the
    weights are constants, to which no gradient flows.

    Args:
      student: hidden float[B, P, D], embedding float[V, D], bias float[V] or None, weights float32[B, P]; its targets are
        not read.
      teacher: the same positions, of any width: hidden float[B, P, E], embedding float[V, E]; only its logits are read.
      temperature: T, what both logits are divided by.
      chunk: positions of each row whose logits exist at once; None chooses.

    Returns:
      float32 scalar, nats summed over weighted positions.

    Example:
      The teacher's logits (2 ln 3, 0) at temperature 2 say (3/4, 1/4), the student's (0, 0) say (1/2, 1/2):
      3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308.

      >>> import jax.numpy as jnp
      >>> answers = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1))
      >>> student = Scored(jnp.zeros((1, 1, 2)), jnp.eye(2), None, *answers)
      >>> teacher = Scored(jnp.array([[[2 * jnp.log(3.0), 0.0]]]), jnp.eye(2), None, *answers)
      >>> round(float(divergence(student, teacher, temperature=2.0)), 4)
      0.1308

    Reference:
      Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531, equations 1 and 2.
    """
    B, P, _ = student.hidden_BPD.shape
    V = student.embedding_VD.shape[0]
    if teacher.hidden_BPD.shape[:2] != (B, P) or teacher.embedding_VD.shape[0] != V:
        raise ValueError(
            f"shapes differ: hidden {student.hidden_BPD.shape} and embedding {student.embedding_VD.shape} of the student, "
            f"{teacher.hidden_BPD.shape} and {teacher.embedding_VD.shape} of the teacher"
        )
    # Two arrays of logits exist at once.
    chunk = chunk_length(2 * B, P, V) if chunk is None else min(chunk, P)
    chunks = tuple(split(x, chunk) for x in (student.hidden_BPD, teacher.hidden_BPD, student.weights_BP))
    hidden_NBCD, *constants = chunks
    tables = jax.lax.stop_gradient((teacher.embedding_VD, teacher.bias_V))
    return _swept(
        hidden_NBCD,
        student.embedding_VD,
        student.bias_V,
        jax.lax.stop_gradient((*constants, *tables)),
        temperature,
    )


Constants = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]
"""Teacher's hidden states [N, B, C, E], weights [N, B, C], teacher's embedding [V, E] and bias [V]."""
Chunk = tuple[jax.Array, jax.Array, jax.Array]
"""Hidden states of the student [B, C, D] and of the teacher [B, C, E], weights [B, C]."""


def _log_softmax(
    hidden_BCD: jax.Array, embedding_VD: jax.Array, bias_V: jax.Array | None, temperature: float
) -> jax.Array:
    """Log-probabilities float32 [R, V]."""
    logits_RV = logits(hidden_BCD.reshape(-1, hidden_BCD.shape[-1]), embedding_VD, bias_V)
    return jax.nn.log_softmax(logits_RV / temperature, axis=-1)


def _part(
    x: Chunk,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    teacher_VE: jax.Array,
    teacher_bias_V: jax.Array | None,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """A chunk's sum, and its gradient with respect to the student's logits [R, V]."""
    hidden_BCD, teacher_BCE, weights_BC = x
    log_p_RV = _log_softmax(teacher_BCE, teacher_VE, teacher_bias_V, temperature)
    log_q_RV = _log_softmax(hidden_BCD, embedding_VD, bias_V, temperature)
    p_RV, weights_R = jnp.exp(log_p_RV), weights_BC.reshape(-1)
    kl_R = jnp.sum(p_RV * (log_p_RV - log_q_RV), axis=-1)
    return jnp.sum(weights_R * kl_R), (weights_R / temperature)[:, None] * (jnp.exp(log_q_RV) - p_RV)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _swept(
    hidden_NBCD: jax.Array,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    constants: Constants,
    temperature: float,
) -> jax.Array:
    """The sum alone, chunk by chunk."""
    teacher_NBCE, weights_NBC, teacher_VE, teacher_bias_V = constants

    def body(total: jax.Array, x: Chunk) -> tuple[jax.Array, None]:
        part, _ = _part(x, embedding_VD, bias_V, teacher_VE, teacher_bias_V, temperature)
        return total + part, None

    return jax.lax.scan(body, jnp.zeros((), jnp.float32), (hidden_NBCD, teacher_NBCE, weights_NBC))[0]


def _swept_forward(
    hidden_NBCD: jax.Array,
    embedding_VD: jax.Array,
    bias_V: jax.Array | None,
    constants: Constants,
    temperature: float,
) -> tuple[jax.Array, Any]:
    """The sum and, from the same logits, its gradient."""
    teacher_NBCE, weights_NBC, teacher_VE, teacher_bias_V = constants
    D, V = hidden_NBCD.shape[-1], embedding_VD.shape[0]

    def body(total: Any, x: Chunk) -> tuple[Any, jax.Array]:
        part, d_logits_RV = _part(x, embedding_VD, bias_V, teacher_VE, teacher_bias_V, temperature)
        grads = through_logits(d_logits_RV, x[0].reshape(-1, D), embedding_VD, bias_V)
        total = jax.tree.map(jnp.add, total, (part, grads.embedding_DV, grads.bias_V))
        return total, grads.hidden_RD.reshape(x[0].shape)

    no_bias_V = None if bias_V is None else jnp.zeros(V, jnp.float32)
    start: Any = (jnp.zeros((), jnp.float32), jnp.zeros((D, V), jnp.float32), no_bias_V)
    (total, d_embedding_DV, d_bias_V), d_hidden_NBCD = jax.lax.scan(
        body, start, (hidden_NBCD, teacher_NBCE, weights_NBC)
    )
    d_embedding_VD = d_embedding_DV.T.astype(embedding_VD.dtype)
    d_bias_V = None if bias_V is None else d_bias_V.astype(bias_V.dtype)
    return total, (d_hidden_NBCD, d_embedding_VD, d_bias_V)


def _swept_backward(temperature: float, gradients: Any, scale: jax.Array) -> Any:
    scaled = jax.tree.map(lambda gradient: (scale * gradient).astype(gradient.dtype), gradients)
    return *scaled, None


_swept.defvjp(_swept_forward, _swept_backward)
