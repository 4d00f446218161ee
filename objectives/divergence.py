"""How far one distribution over a large vocabulary is from another, without holding the logits.

Shape suffixes: B rows, P positions of a row, R positions of a chunk, D width of the student, E width of the teacher, V
vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from objectives.base import Scored
from objectives.cross_entropy import Arrays, Sums, chunk_length, logits, split, sweep


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
    hidden_NBCD, *positions = (
        split(x, chunk) for x in (student.hidden_BPD, teacher.hidden_BPD, student.weights_BP)
    )
    (kl_sum,) = sweep(
        Divergence(temperature),
        hidden_NBCD,
        student.embedding_VD,
        student.bias_V,
        jax.lax.stop_gradient(tuple(positions)),
        jax.lax.stop_gradient((teacher.embedding_VD, teacher.bias_V)),
    )
    return kl_sum


class Divergence(NamedTuple):
    """The rule of a sweep; of each position it is given (teacher's hidden state [E], weight), and the teacher's tables."""

    temperature: float
    sums: int = 1

    def __call__(self, logits_RV: jax.Array, positions: Arrays, tables: Arrays) -> tuple[Sums, jax.Array]:
        """The weighted sum, and its gradient w (q - p) / T."""
        teacher_RE, weights_R = positions
        log_p_RV = jax.nn.log_softmax(logits(teacher_RE, *tables) / self.temperature, axis=-1)
        log_q_RV = jax.nn.log_softmax(logits_RV / self.temperature, axis=-1)
        p_RV = jnp.exp(log_p_RV)
        kl_R = jnp.sum(p_RV * (log_p_RV - log_q_RV), axis=-1)
        d_logits_RV = (weights_R / self.temperature)[:, None] * (jnp.exp(log_q_RV) - p_RV)
        return (jnp.sum(weights_R * kl_R),), d_logits_RV
