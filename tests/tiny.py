"""Small real networks, objectives and streams that several test files share."""

import dataclasses

import numpy as np

from model.encoder import EncoderConfig
from model.network import Network
from objectives.masked_lm import MaskedLM
from objectives.rows import RowShape
from train.experiment import Run
from train.launch import Mesh
from train.loop import Parts
from train.optimizer import Optimizer

VOCAB = 64
ROWS = RowShape(
    length=24, max_segments=2, cls_id=2, sep_id=3, mask_id=4, bos_id=5, eos_id=6, first_ordinary_id=7
)


def encoder(**changes):
    config = EncoderConfig(vocab_size=VOCAB, layers=2, width=16, heads=2, mlp_width=32, max_positions=32)
    return dataclasses.replace(config, **changes)


def masked_lm():
    return MaskedLM().for_rows(ROWS)


@dataclasses.dataclass(frozen=True)
class RaggedStream:
    """Batches of packed rows of very different fill; `fail_at` ends the process's patience at that step."""

    batch_size: int = 16
    length: int = 24
    fail_at: int | None = None
    poison_at: int | None = None

    def batch(self, step, rows=None):
        if step == self.fail_at:
            raise ConnectionError("the data went away")
        rng = np.random.default_rng([7, step])
        shape = (self.batch_size, self.length)
        fill = rng.integers(4, self.length + 1, (self.batch_size, 1))
        cut = rng.integers(2, fill)
        column = np.arange(self.length)[None]
        segment_ids = np.where(column < cut, 1, np.where(column < fill, 2, 0)).astype(np.int32)
        positions = np.where(column < cut, column, column - cut) * (segment_ids > 0)
        tokens = rng.integers(7, VOCAB, shape) * (segment_ids > 0)
        ids = np.arange(self.batch_size) + step * self.batch_size
        batch = {
            "tokens": tokens.astype(np.int32),
            "segment_ids": segment_ids,
            "positions": positions.astype(np.int32),
            "example_ids": ids.astype(np.int32),
        }
        return {k: v[rows] if rows is not None else v for k, v in batch.items()}


def parts(objective=None, config=None, stream=None, **changes):
    objective = masked_lm() if objective is None else objective
    config = encoder() if config is None else config
    network = Network(config.build(), tuple(objective.heads(config)))
    eval_sets = {"eval": [RaggedStream().batch(10_000)]}
    stream = RaggedStream() if stream is None else stream
    return Parts(network=network, objective=objective, stream=stream, eval_sets=eval_sets, **changes)


def settings(**changes):
    values = {
        "steps": 6,
        "batch_size": 16,
        "log_every": 1,
        "eval_every": 3,
        "save_every": 2,
        "launcher": Mesh(),
        "optimizer": Optimizer(learning_rate=1e-2),
    }
    return Run(**{**values, **changes})
