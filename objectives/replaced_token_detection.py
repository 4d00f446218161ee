"""Replaced token detection (ELECTRA): a generator fills masks, the backbone says which tokens it filled in.

Shape suffixes: B rows, L tokens of a row, P masked positions of a row, D model width,
V vocabulary.
"""

import dataclasses
import math
from types import MappingProxyType
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from model.heads import Discriminator
from model.network import BoundNetwork
from model.ranges import COUNT, POSITIVE
from model.tower import Generator, narrowed_config
from objectives.base import Batch, Corrupted, Heads, LossOut, Objective, refuse_causal
from objectives.claims import Claims, DeviceCounts, Premises
from objectives.cross_entropy import cross_entropy, logits
from objectives.masking import Masking, written
from objectives.randomness import token_bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedTokenDetection(Objective, Claims):
    r"""Tell for every token whether it is the original or was put there by a small masked language model.

    .. math:: \sum_{i \in M} -\log p_G(x_i \mid x^{masked})
              + \lambda \sum_{i} -\log \sigma\bigl(s_i\, (w^\top h_i + c)\bigr), \qquad
              s_i = +1 \text{ if } \tilde x_i \neq x_i \text{ else } -1

    The generator G, a head of its own on the backbone's embeddings, sees the masked row and is trained as a masked
    language model. The backbone reads the row in which every masked token is replaced by a sample of G, drawn as belongs
    to the token (`objectives.randomness`). A sample that happens to be right counts as original. No gradient flows
    through the sample. The generator is left behind at the hand-off, as all heads are.

    Samples jump with the parameters: two runs that differ by rounding (another launcher or split) have equal gradients at
    equal parameters, but draw another token now and then, and their losses part by what that one costs.

    Terms:
      generator: nats, weighted by masked tokens.
      discriminator: nats, weighted by all tokens that are not padding; its factor is `discriminator_weight`.

    Metrics:
      generator_accuracy: share of masked tokens whose largest logit is right.
      accuracy: share of tokens judged rightly.
      recall: share of masked tokens that were replaced and found out (at most 1 - the share that G samples rightly).

    Example:
      Four tokens, two of them masked, all logits equal: 2 ln 8 over weight 2 and 4 ln 2 = 2.7726 over weight 4.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> heads = {"generator": lambda x, *_: (x[:, :2], jnp.zeros(8)), "discriminator": lambda x: x[..., 0]}
      >>> uniform = SimpleNamespace(config=SimpleNamespace(vocab_size=8), embedding_VD=jnp.ones((8, 2)),
      ...                           embed=lambda batch: jnp.zeros((1, 4, 2)),
      ...                           encode=lambda batch: jnp.zeros((1, 4, 2)),
      ...                           head=lambda name, *args, batch=None: heads[name](*args))
      >>> batch = {"tokens": jnp.full((1, 4), 7), "segment_ids": jnp.ones((1, 4), jnp.int32),
      ...          "positions": jnp.arange(4)[None], "example_ids": jnp.array([0])}
      >>> from objectives.rows import RowShape
      >>> masking = Masking(rate=0.5, cap_rate=0.5, mask_share=1.0, random_share=0.0)
      >>> objective = ReplacedTokenDetection(generator_heads=1, masking=masking)
      >>> objective = objective.for_rows(RowShape(length=4, mask_id=4, first_ordinary_id=7))
      >>> terms = objective(uniform, batch, jax.random.key(0)).terms
      >>> [(name, round(float(loss), 4), float(weight)) for name, (loss, weight) in terms.items()]
      [('generator', 4.1589, 2.0), ('discriminator', 2.7726, 4.0)]

    Reference:
      Clark et al., ELECTRA, arXiv 2003.10555, section 2 and 3.2 (weight-tied embeddings, a generator of a quarter of the
      width); google-research/electra for the weight 50 and the generator's transform.
    """

    generator_heads: Annotated[int, COUNT]
    """Attention heads of the generator, whose widths are in proportion; ELECTRA: a quarter to a half of the backbone's."""
    masking: Masking = Masking(mask_share=1.0, random_share=0.0)
    """What is masked; every chosen token is replaced by the mask."""
    discriminator_weight: Annotated[float, POSITIVE] = 50.0
    """Factor of the discriminator's loss (lambda)."""

    metric_modes = MappingProxyType({name: "max" for name in ("generator_accuracy", "accuracy", "recall")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masking.mask_share < 1:
            raise ValueError(
                f"masking.mask_share {self.masking.mask_share}: the generator reads masks only, set it to 1"
            )

    def reads(self) -> tuple[str, ...]:
        return self.masking.reads()

    def heads(self, config: Any) -> Heads:
        generator = Generator(config, heads=self.generator_heads)
        return (("generator", generator), ("discriminator", Discriminator(config)))

    def coefficients(self) -> dict[str, float]:
        return {"generator": 1.0, "discriminator": self.discriminator_weight}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"generator": math.log(config.vocab_size), "discriminator": math.log(2)}

    def check(self, config: Any) -> None:
        """What masked LM checks, and that the generator can be as narrow as asked."""
        refuse_causal(self, config, "predicts a masked token from both sides")
        self.masking.check(self.rows, config, self)
        narrowed_config(config, self.generator_heads)

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        """What the generator reads."""
        return self.masking.mask(self.rows, config.vocab_size, batch, rng)

    def premises(self) -> Premises:
        """Masks may be fixed."""
        return self.masking.premises()

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        return self.masking.claims(self.rows, config.vocab_size, batch, corrupted)

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """Mask, generate, replace, discriminate."""
        masked = self.corrupt(network.config, batch, rng)
        positions_BP, targets_BP, weights_BP = (masked.plan[k] for k in ("positions", "targets", "weights"))
        embedded_BLD = network.embed(masked.batch)
        transformed_BPD, bias_V = network.head(
            "generator", embedded_BLD, batch["segment_ids"], batch["positions"], positions_BP, batch=batch
        )
        out = cross_entropy(transformed_BPD, network.embedding_VD, bias_V, targets_BP, weights_BP)
        # The masking takes the draws before this one.
        draws = self.masking.draws
        lots_BP = jnp.take_along_axis(token_bits(rng, batch, draws + 1)[..., draws], positions_BP, axis=1)
        sampled_BP = sample(transformed_BPD, network.embedding_VD, bias_V, lots_BP)

        tokens_BL = batch["tokens"]
        filled_BL = written(tokens_BL, positions_BP, weights_BP > 0, sampled_BP.astype(tokens_BL.dtype))
        logits_BL = network.head("discriminator", network.encode({**batch, "tokens": filled_BL}))
        replaced_BL, real_BL = filled_BL != tokens_BL, (batch["segment_ids"] > 0).astype(jnp.float32)
        nll_BL = jax.nn.softplus(jnp.where(replaced_BL, -logits_BL, logits_BL))
        right_BL = (logits_BL > 0) == replaced_BL

        masked_sum, real_sum = jnp.sum(weights_BP), jnp.sum(real_BL)
        generator_sum = jnp.where(masked.plan["crowded"], jnp.nan, out.loss_sum)
        return LossOut(
            {
                "generator": (generator_sum, masked_sum),
                "discriminator": (jnp.sum(nll_BL * real_BL), real_sum),
            },
            {
                "generator_accuracy": (out.correct_sum, masked_sum),
                "accuracy": (jnp.sum(right_BL * real_BL), real_sum),
                "recall": (jnp.sum(right_BL * replaced_BL * real_BL), masked_sum),
            },
        )


def sample(
    hidden_BPD: jax.Array, embedding_VD: jax.Array, bias_V: jax.Array, lots_BP: jax.Array
) -> jax.Array:
    """One token of softmax(hidden @ embedding.T + bias) for each position, int32 [B, P]; carries no gradient.

    Args:
      hidden_BPD: float[B, P, D].
      embedding_VD: float[V, D].
      bias_V: float[V].
      lots_BP: uniform uint32[B, P]; each decides one draw, by the inverse of the cumulated probabilities.

    Example:
      Two classes of probability 3/4 and 1/4; lots at 0.7 and 0.8 of 2^32:

      >>> import jax.numpy as jnp
      >>> hidden, table = jnp.ones((1, 2, 1)), jnp.log(jnp.array([[3.0], [1.0]]))
      >>> lots = jnp.array([[int(0.7 * 2**32), int(0.8 * 2**32)]], jnp.uint32)
      >>> sample(hidden, table, jnp.zeros(2), lots).tolist()
      [[0, 1]]
    """

    def column(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden_BD, lots_B = x
        probs_BV = jax.nn.softmax(logits(hidden_BD, embedding_VD, bias_V), axis=-1)
        below_BV = jnp.cumsum(probs_BV, axis=-1)
        # 24 bits: all that a float32 below 1 can hold.
        lot_B = (lots_B >> 8).astype(jnp.float32) * 2**-24 * below_BV[:, -1]
        return jnp.sum(below_BV <= lot_B[:, None], axis=-1, dtype=jnp.int32)

    # Column by column, so that no [B, P, V] array exists.
    columns = (jax.lax.stop_gradient(hidden_BPD).swapaxes(0, 1), lots_BP.T)
    embedding_VD, bias_V = jax.lax.stop_gradient((embedding_VD, bias_V))
    return jax.lax.map(column, columns).T


def example() -> ReplacedTokenDetection:
    """For the property suite."""
    return ReplacedTokenDetection(generator_heads=1)
