"""Rows of float vectors, a backbone that reads them, and two things to learn from them; no ids, no tokenizer.

Shape suffixes: N all rows, B rows of a batch, L vectors of a row, F numbers of a vector, D model width, C classes.
"""

import dataclasses
import json
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data.records import DataError, required
from finetune.tasks.base import Task
from model.config import ModelConfig
from model.heads import Classifier
from model.layers import Dense
from objectives.base import Corrupted, LossOut, Objective
from objectives.randomness import token_bits
from objectives.rows import RowShape
from train.data import Data, Feed


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorConfig(ModelConfig):
    """Each vector meets the mean of its row."""

    features: int
    """Numbers of a vector (F)."""

    def build(self):
        return VectorMixer(self)

    def inputs(self, batch):
        return batch["vectors"], batch["segment_ids"]

    def example_batch(self):
        return {"vectors": jnp.zeros((1, 1, self.features)), "segment_ids": jnp.ones((1, 1), jnp.int32)}


def row_mean(x_BLD, segment_ids_BL):
    """The mean over what is in a segment, [B, 1, D]."""
    there_BL1 = (segment_ids_BL > 0).astype(x_BLD.dtype)[..., None]
    total_B1D = jnp.sum(x_BLD * there_BL1, axis=1, keepdims=True)
    return total_B1D / jnp.maximum(jnp.sum(there_BL1, axis=1, keepdims=True), 1.0)


class VectorMixer(nn.Module):
    config: VectorConfig

    @nn.compact
    def __call__(self, vectors_BLF, segment_ids_BL):
        read_BLD = self.layer("read", self.config.features, "features")(vectors_BLF)
        mixed_BLD = read_BLD + row_mean(read_BLD, segment_ids_BL)
        return self.layer("mix", self.config.width, None)(nn.gelu(mixed_BLD)) + mixed_BLD

    def layer(self, name, reads, axis):
        config = self.config
        return Dense(
            shape=(reads, config.width),
            axes=(axis, "embed"),
            bias=True,
            dtype=config.compute_dtype,
            kernel_init=nn.initializers.normal(0.3),
            name=name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldBackVector(Objective):
    """Predict one vector of a row, which is read as zeros, from the others."""

    def coefficients(self):
        return {"squared_error": 1.0}

    def heads(self, config):
        return (("vector", Classifier(config, config.features)),)

    def corrupt(self, config, batch, rng):
        segment_ids_BL = batch["segment_ids"]
        positions_BL = jnp.broadcast_to(jnp.arange(segment_ids_BL.shape[1])[None], segment_ids_BL.shape)
        lots_BL = token_bits(rng, {**batch, "positions": positions_BL}, 1)[..., 0]
        picked_B = jnp.argmax(jnp.where(segment_ids_BL > 0, lots_BL, 0), axis=1)
        held_BL = jax.nn.one_hot(picked_B, segment_ids_BL.shape[1])
        read = {**batch, "vectors": batch["vectors"] * (1.0 - held_BL)[..., None]}
        return Corrupted(read, {"weights": held_BL * (segment_ids_BL > 0)})

    def score(self, network, hidden_BLD, batch, corrupted):
        error_BLF = network.head("vector", hidden_BLD) - batch["vectors"]
        weights_BL = corrupted.plan["weights"]
        loss = jnp.sum(jnp.mean(error_BLF**2, axis=-1) * weights_BL)
        return LossOut({"squared_error": (loss, jnp.sum(weights_BL))}, {})


class VectorRows:
    """Rows of at most L vectors, each with what else is said of it."""

    fill = MappingProxyType({})

    def __init__(self, rows, length, features, **others):
        self.arrays = {
            "vectors": np.zeros((len(rows), length, features), np.float32),
            "segment_ids": np.zeros((len(rows), length), np.int32),
            **others,
        }
        for number, vectors_LF in enumerate(rows):
            self.arrays["vectors"][number, : len(vectors_LF)] = vectors_LF
            self.arrays["segment_ids"][number, : len(vectors_LF)] = 1

    def __len__(self):
        return len(self.arrays["vectors"])

    def take(self, numbers):
        return {name: array[np.asarray(numbers) % len(self)] for name, array in self.arrays.items()}

    def report(self):
        return f"{len(self)} rows of vectors"


def draw_vectors(rng, features, kind):
    """3 to 6 vectors around one of two lines: what `kind` says."""
    along_F = np.roll(np.arange(features) - 1.0, kind)
    centre_F = rng.uniform(0.5, 1.5) * along_F
    return centre_F + rng.normal(0.0, 0.1, (rng.integers(3, 7), features))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorData(Data):
    """Made up."""

    rows: int = 64
    length: int = 6

    def row_shape(self, experiment, source):
        return RowShape(length=self.length)

    def feed(self, experiment, rows, source):
        rng, features = np.random.default_rng(0), experiment.model.features
        drawn = [draw_vectors(rng, features, number % 2) for number in range(self.rows + self.eval_rows)]
        train, held_out = (
            VectorRows(some, rows.length, features) for some in (drawn[: self.rows], drawn[self.rows :])
        )
        return Feed(train=[train], evaluation={"eval": held_out}, reports=[train.report()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassOfVectors(Objective):
    classes: int

    def coefficients(self):
        return {"nll": 1.0}

    def heads(self, config):
        return (("class", Classifier(config, self.classes)),)

    def logits(self, network, batch):
        mean_B1D = row_mean(network.encode(batch), batch["segment_ids"])
        return network.head("class", mean_B1D)[:, 0]

    def __call__(self, network, batch, rng):
        logits_BC, labels_B = self.logits(network, batch), batch["labels"]
        known_B = (labels_B >= 0) & jnp.any(batch["segment_ids"] > 0, axis=1)
        weights_B = known_B.astype(jnp.float32)
        answers_BC = jax.nn.one_hot(labels_B, self.classes)
        nll_B = -jnp.sum(jax.nn.log_softmax(logits_BC) * answers_BC, axis=-1)
        hits_B = jnp.argmax(logits_BC, axis=-1) == labels_B
        weight = jnp.sum(weights_B)
        return LossOut(
            {"nll": (jnp.sum(nll_B * weights_B), weight)},
            {"accuracy": (jnp.sum(hits_B * weights_B), weight)},
        )


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Of one example, in a row."""

    numbers: tuple[float, ...]
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    label: str
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyVectors(Task):
    """Which kind a list of numbers is, read as vectors."""

    metric = "accuracy"
    features: int = 4

    def examples(self, records, columns):
        return [
            Numbers(
                self.checked(required(record, columns.text), record.where), required(record, columns.label)
            )
            for record in records
        ]

    def checked(self, numbers, where):
        if not isinstance(numbers, list) or not numbers or len(numbers) % self.features:
            raise DataError(f"{where}: {numbers!r:.60} is no list of vectors of {self.features} numbers")
        return tuple(map(float, numbers))

    def learn(self, examples):
        return tuple(sorted({example.label for example in examples}))

    def objective(self, learned):
        return ClassOfVectors(classes=len(learned))

    def rows(self, examples, learned, packing):
        vectors = [np.reshape(e.numbers, (-1, self.features))[: packing.length] for e in examples]
        labels_N = np.array([-1 if e.label is None else learned.index(e.label) for e in examples], np.int32)
        return VectorRows(vectors, packing.length, self.features, labels=labels_N)

    def outputs(self, objective, network, batch):
        return jax.nn.softmax(objective.logits(network, batch))

    def answers(self, examples, learned, rows, computed):
        chances_NC = np.concatenate([one.outputs for one in computed])
        return [Kind(learned[int(row_C.argmax())], float(row_C.max())) for row_C in chances_NC]

    def question(self, given):
        return Numbers(tuple(given))

    def parse(self, line, columns, where):
        return self.checked(json.loads(line), where)

    def line(self, answer):
        return answer.label
