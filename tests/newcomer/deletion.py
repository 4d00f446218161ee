"""Token deletion (BART): write out a text of which some tokens were deleted."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from objectives.base import LossOut, Objective
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy
from objectives.rows import RowMaker


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenDeletion(Objective, RowMaker, Claims):
    """Nats per token. Equal logits give ln V:

    >>> from types import SimpleNamespace
    >>> round(TokenDeletion().initial_loss(SimpleNamespace(vocab_size=64))["nll"], 4)
    4.1589
    """

    family = "encoder_decoder"
    rate: float = 0.15

    def coefficients(self):
        return {"nll": 1.0}

    def initial_loss(self, config):
        return {"nll": math.log(config.vocab_size)}

    def example_claims(self, docs, rows):
        there, kept = (
            sum(np.sum(row[name] > 0) for row in rows) for name in ("target_segment_ids", "segment_ids")
        )
        return {
            "kept, deleted": (
                np.array([kept, there - kept]),
                there * np.array([1 - self.rate, self.rate]),
            )
        }

    def make_example(self, docs, index, rng):
        text = docs[index % len(docs)][: self.rows.length]
        kept = text[rng.random(len(text)) >= self.rate]
        row = {}
        for prefix, tokens in (("", kept), ("target_", text)):
            padding = (0, self.rows.length - len(tokens))
            row[prefix + "tokens"] = np.pad(tokens, padding).astype(np.int32)
            row[prefix + "segment_ids"] = np.pad(np.ones_like(tokens), padding).astype(np.int32)
            row[prefix + "positions"] = np.pad(np.arange(len(tokens)), padding).astype(np.int32)
        return row

    def __call__(self, network, batch, rng):
        memory_BSD = network.encode(batch)
        shifted_BL = jnp.pad(batch["target_tokens"][:, :-1], ((0, 0), (1, 0)))
        hidden_BLD = network.decode(shifted_BL, batch, memory_BSD)
        weights_BL = (batch["target_segment_ids"] > 0).astype(jnp.float32)
        sums = cross_entropy(hidden_BLD, network.embedding_VD, None, batch["target_tokens"], weights_BL)
        return LossOut({"nll": (sums.loss_sum, jnp.sum(weights_BL))}, {})


def example():
    return TokenDeletion()
