"""ELECTRA: the generator's samples follow its probabilities, reach the backbone, and carry no gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.tower import narrowed_config
from objectives.counts import chi_square_p
from objectives.examples import in_small_rows, small_batch, small_config
from objectives.masking import Masking
from objectives.measuring import QUICK, evaluate, fresh, network_of, on_device
from objectives.replaced_token_detection import ReplacedTokenDetection, example, sample

OBJECTIVE = in_small_rows(example())
CONFIG, BATCH = small_config(OBJECTIVE), on_device(small_batch(OBJECTIVE))


def test_samples_follow_the_softmax():
    random = np.random.default_rng(0)
    table_VD, bias_V = random.normal(size=(20, 3)).astype(np.float32), random.normal(size=20)
    hidden_D = random.normal(size=3).astype(np.float32)
    hidden_BPD = jnp.broadcast_to(hidden_D, (50, 800, 3))
    lots_BP = jax.random.bits(jax.random.key(0), (50, 800), jnp.uint32)
    drawn_BP = np.asarray(sample(hidden_BPD, jnp.asarray(table_VD), jnp.asarray(bias_V), lots_BP))
    logits_V = table_VD @ hidden_D + bias_V
    expected_V = np.exp(logits_V) / np.exp(logits_V).sum() * drawn_BP.size
    assert chi_square_p(np.bincount(drawn_BP.ravel(), minlength=20).astype(float), expected_V) > 1e-3


def test_the_last_lot_is_a_token_too():
    lots_BP = jnp.array([[0, 2**32 - 1]], jnp.uint32)
    drawn = sample(jnp.zeros((1, 2, 1)), jnp.zeros((30_000, 1)), jnp.zeros(30_000), lots_BP)
    assert drawn.tolist() == [[0, 29_999]]


def gradients(term):
    network = network_of(OBJECTIVE, CONFIG)
    return evaluate(OBJECTIVE, network, fresh(network), BATCH, only=term)[1]


def total(tree):
    return float(sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)))


def test_each_loss_trains_its_own_network_and_both_train_the_embeddings():
    generator, discriminator = gradients("generator"), gradients("discriminator")
    assert total(generator["heads"]["generator"]) > 0 == total(generator["heads"]["discriminator"])
    assert total(discriminator["heads"]["discriminator"]) > 0 == total(discriminator["heads"]["generator"])
    assert total(generator["backbone"].pop("embed")) > 0
    assert total(generator["backbone"]) == 0
    assert total(discriminator["backbone"].pop("embed")) > 0
    assert total(discriminator["backbone"]) > 0


def test_the_backbone_reads_samples_where_tokens_were_masked_and_only_there():
    class Reader:
        """A bound network that keeps what it is given to read."""

        def __init__(self, bound):
            self.bound, self.config, self.embedding_VD = bound, bound.config, bound.embedding_VD
            self.embed, self.head = bound.embed, bound.head

        def encode(self, batch):
            self.read_BL = batch["tokens"]
            return self.bound.encode(batch)

    network = network_of(OBJECTIVE, CONFIG)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def read(params):
        reader = Reader(network.bind(params))
        return OBJECTIVE(reader, BATCH, jax.random.key(3)), reader.read_BL

    out, read_BL = read(fresh(network))
    corrupted = OBJECTIVE.corrupt(CONFIG, BATCH, jax.random.key(3))
    masked_BL = np.asarray(corrupted.batch["tokens"]) == OBJECTIVE.rows.mask_id
    changed_BL = np.asarray(read_BL != BATCH["tokens"])
    assert masked_BL.sum() == float(out.terms["generator"][1])
    assert changed_BL.sum() > 0 and not np.any(changed_BL & ~masked_BL)
    real = (BATCH["segment_ids"] > 0).sum()
    assert float(out.terms["discriminator"][1]) == real


def test_a_generator_is_narrower_than_its_backbone():
    assert narrowed_config(CONFIG, 1).width == CONFIG.width // CONFIG.heads
    too_wide = in_small_rows(ReplacedTokenDetection(generator_heads=CONFIG.heads + 1))
    with pytest.raises(ValueError, match="generator of 3 heads is not narrower than a backbone of 2"):
        too_wide.check(CONFIG)


def test_a_generator_that_would_see_its_answers_is_refused():
    with pytest.raises(ValueError, match=r"mask_share 0.8: the generator reads masks only"):
        ReplacedTokenDetection(generator_heads=1, masking=Masking())
