"""What each objective costs: tokens scored per token read, and FLOPs per scored token, counted from its gradient's jaxpr.

Command:  python -m benchmarks.objective_costs        (prints the table of docs/objectives.md)

All on backbones of one size (4 layers of 256, vocabulary 8,192), rows of 128 tokens, each a text of its own unless the
objective makes the rows. FLOPs are those of matrix products, forwards and backwards, and belong to the batch as a whole.
Shape suffixes: B rows, L tokens of a row.
"""

import dataclasses
import sys
from collections.abc import Iterator

import jax
import numpy as np

from data.tokenizer import SentencePieceTokenizer
from model.config import TextConfig
from model.encoder import EncoderConfig
from model.llama import LlamaConfig
from model.platform import compiling_for
from model.t5 import T5V11Config
from objectives.base import Objective
from objectives.bert import bert
from objectives.causal_lm import CausalLM
from objectives.decoder_span_corruption import DecoderSpanCorruption
from objectives.distillation import Distillation
from objectives.examples import Documents
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from objectives.measuring import companions_of, fresh, network_of
from objectives.multi_token import MultiToken
from objectives.neighbour_words import NeighbourWords
from objectives.next_sentence import NextSentence
from objectives.prefix_lm import PrefixLM
from objectives.replaced_token_detection import ReplacedTokenDetection
from objectives.sentence_order import SentenceOrder
from objectives.simcse import SimCSE
from objectives.span_corruption import SpanCorruption
from objectives.ul2 import UL2
from train.flops import count_flops
from train.rows import row_shape_of

ROWS, LENGTH, VOCABULARY, PIECES = 32, 128, 8192, 7900


def backbone(objective: Objective) -> TextConfig:
    """Of the objective's family, all of one depth, width and MLP."""
    shape = {"vocab_size": VOCABULARY, "layers": 4, "width": 256, "heads": 4, "max_positions": 512}
    if objective.family == "decoder":
        return LlamaConfig(mlp_width=768, kv_heads=4, tied=True, rotary_base=1e4, attention="plain", **shape)
    if objective.family == "encoder_decoder":
        return T5V11Config(mlp_width=768, head_dim=64, attention="plain", **shape)
    return EncoderConfig(mlp_width=768, types=2, dropout=0.1, attention="plain", **shape)


def objectives() -> Iterator[tuple[str, Objective]]:
    """(name, objective) of every row of the table."""
    next_sentence = NextSentence(shortest_pair=LENGTH, longest_pair=LENGTH)
    yield "masked_lm", MaskedLM()
    yield "masked_lm, rate 0.3", MaskedLM(masking=Masking(rate=0.3))
    yield "distillation", Distillation(base=MaskedLM())
    yield "next_sentence", next_sentence
    yield "sentence_order", SentenceOrder(shortest_pair=LENGTH, longest_pair=LENGTH)
    yield "bert", bert(MaskedLM(), next_sentence)
    yield (
        "neighbour_words",
        NeighbourWords(segments_per_document=8, shortest_document=LENGTH, longest_document=LENGTH),
    )
    yield "replaced_token_detection", ReplacedTokenDetection(generator_heads=1)
    yield "simcse", SimCSE()
    yield "causal_lm", CausalLM()
    yield "multi_token, 3 ahead", MultiToken(ahead=3)
    yield "fill_in_the_middle", FillInTheMiddle()
    yield "prefix_lm", PrefixLM()
    yield "span_corruption", SpanCorruption(sentinels=100)
    yield "decoder_span_corruption", DecoderSpanCorruption(sentinels=100)
    yield "ul2", UL2(sentinels=100, targets_row=LENGTH)


def in_rows(objective: Objective) -> Objective:
    """The objective told of its rows: one text (pair, document) fills each."""
    segments = objective.claims().segments_per_unit()
    rows = row_shape_of(
        SentencePieceTokenizer, pieces=PIECES, length=LENGTH, max_segments=segments, vocab_size=VOCABULARY
    )
    return objective.for_rows(rows)


def batch_for(objective: Objective) -> dict[str, np.ndarray]:
    """Full rows: made by the objective (told of its rows), or the start of each text."""
    texts = Documents(sizes=[700] * ROWS, tokens=range(7, PIECES))
    maker = objective.row_maker()
    if maker is not None:
        rows = [maker.make_example(texts, i, np.random.default_rng(i)) for i in range(ROWS)]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    else:
        tokens_BL = np.stack([texts[i][:LENGTH] for i in range(ROWS)])
        index_BL = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens_BL.shape)
        batch = {"tokens": tokens_BL, "segment_ids": np.ones_like(tokens_BL), "positions": index_BL}
    return {**batch, "example_ids": np.arange(ROWS, dtype=np.int32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one batch."""

    read: int
    """Tokens that are not padding, of inputs and targets."""
    scored: float
    """Tokens (pairs, segments) of the term that scores most."""
    flops: int


def cost(objective: Objective) -> Cost:
    """Count one batch."""
    objective = in_rows(objective)
    config, host = backbone(objective), batch_for(objective)
    batch = {name: jax.numpy.asarray(array) for name, array in host.items()}
    network = network_of(objective, config)
    params, companions = fresh(network), companions_of(network)
    factors = objective.coefficients()

    def loss(params: dict[str, object]) -> tuple[jax.Array, dict[str, jax.Array]]:
        out = objective(network.bind(params, None, companions), batch, jax.random.key(1))
        total = sum(factors[k] * value for k, (value, _) in out.terms.items())
        return total, {k: weight for k, (_, weight) in out.terms.items()}

    weights = jax.jit(lambda: loss(params)[1])()
    # As an accelerator multiplies: on CPU some sums are written as products.
    with compiling_for("tpu"):
        flops = count_flops(lambda p: jax.grad(loss, has_aux=True)(p)[0], params)
    read = sum(int(np.sum(v > 0)) for k, v in host.items() if k.endswith("segment_ids"))
    return Cost(read=read, scored=max(float(w) for w in weights.values()), flops=flops)


def main() -> None:
    """Print the table as Markdown."""
    print("| objective | backbone | scored per token read | MFLOP per token read | MFLOP per scored |")
    print("|---|---|---|---|---|")
    for name, objective in objectives():
        c = cost(objective)
        family = objective.family.replace("_", "-")
        figures = f"{c.scored / c.read:.3f} | {c.flops / c.read / 1e6:.1f} | {c.flops / c.scored / 1e6:,.1f}"
        print(f"| `{name}` | {family} | {figures} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
