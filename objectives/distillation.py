"""Knowledge distillation: learn the answers and, beside them, what a larger trained network thinks of all tokens.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, LossOut, Objective
from objectives.divergence import divergence
from objectives.wrapper import Wrapper

TEACHER = "teacher"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Wrapper):
    r"""The loss of `base`, and at the same positions the divergence from a frozen teacher's predictions.

    .. math:: (1 - \lambda) \, \mathrm{nll} + \lambda \, T^2 \sum_i \mathrm{KL}\left(
              \mathrm{softmax}(t_i / T) \,\|\, \mathrm{softmax}(s_i / T)\right)

    s_i and t_i are the logits of student and teacher at scored position i, both having read the same, perhaps corrupted,
    tokens; lambda is `soft`. The temperature T lets unlikely tokens speak, and T^2 keeps the gradient's size when it
    changes. No gradient flows to the teacher, and it never drops anything out.

    Terms:
      those of base: with coefficient 1 - soft.
      kl: nats times T^2, weighted by scored positions; with coefficient soft.

    Metrics:
      those of base.

    Example:
      Two tokens of one segment, so one is predicted. The student's logits are equal over a vocabulary of 2: its nll is
      ln 2 = 0.6931. The teacher's are (2 ln 3, 0), at temperature 2 it says (3/4, 1/4): the divergence is
      4 (3/4 ln(3/2) + 1/4 ln(1/2)) = 0.5232.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> from objectives.causal_lm import CausalLM
      >>> def saying(*logits):
      ...     return SimpleNamespace(config=None, embedding_VD=jnp.eye(2),
      ...                            encode=lambda batch: jnp.tile(jnp.array(logits), (1, 2, 1)))
      >>> student = saying(0.0, 0.0)
      >>> student.companion = {"teacher": saying(2 * jnp.log(3.0), 0.0)}
      >>> batch = {"tokens": jnp.array([[0, 1]]), "segment_ids": jnp.ones((1, 2), jnp.int32)}
      >>> out = Distillation(base=CausalLM())(student, batch, jax.random.key(0))
      >>> {name: [round(float(x), 4) for x in sums] for name, sums in out.terms.items()}
      {'nll': [0.6931, 1.0], 'kl': [0.5232, 1.0]}

    Reference:
      Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2.
    """

    own_companions: ClassVar[tuple[str, ...]] = (TEACHER,)

    base: Objective
    """The objective whose positions are scored: MaskedLM, CausalLM or another that defines `scored`."""
    temperature: float = 2.0
    """What all logits are divided by in the soft term (T)."""
    soft: float = 0.5
    """Share of the soft term in the minimised sum; 1 ignores the answers."""

    def __post_init__(self) -> None:
        own = type(self.base)
        several = own.__call__ is not Objective.__call__
        if own.scored in (Objective.scored, Wrapper.scored) or several or self.base.companions:
            raise ValueError(
                f"base {own.__name__} cannot be distilled: that takes an objective which scores one encode of the row, as "
                "MaskedLM and CausalLM do, defines scored and has no companion of its own"
            )
        if self.temperature <= 0 or not 0 < self.soft <= 1:
            raise ValueError(
                f"temperature {self.temperature} must be positive and soft {self.soft} lie in (0, 1]; without a soft share "
                "use the base alone"
            )

    def inner(self) -> tuple[tuple[str, Objective], ...]:
        return (("", self.base),)

    def coefficients(self) -> dict[str, float]:
        hard = {name: (1 - self.soft) * factor for name, factor in self.base.coefficients().items()}
        return {**hard, "kl": self.soft}

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        """The base's sums, and the divergence; the teacher encodes the same tokens in the same way."""
        hard = self.base.score(network, hidden_BLD, batch, corrupted)
        teacher = network.companion[TEACHER]
        student_scored = self.base.scored(network, hidden_BLD, batch, corrupted)
        teacher_scored = self.base.scored(teacher, teacher.encode(corrupted.batch), batch, corrupted)
        kl_sum = divergence(student_scored, teacher_scored, temperature=self.temperature)
        soft = (self.temperature**2 * kl_sum, jnp.sum(student_scored.weights_BP))
        return hard._replace(terms={**hard.terms, "kl": soft})


def example() -> Distillation:
    """For the property suite: masked tokens; both networks are small encoders."""
    from objectives import masked_lm

    return Distillation(base=masked_lm.example())
