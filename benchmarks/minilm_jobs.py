"""What both sides of `benchmarks.minilm` do, in numbers. Knows neither side."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One task, as both sides do it."""

    data: str
    text: str
    label: str
    metric: str
    epochs: float
    """Passes over the training examples, the same on both sides."""
    rows: int
    """Packed rows of 128 in a step of ours: about as many examples as theirs."""
    examples: int
    """Examples in a step of theirs."""
    learning_rate: float


JOBS = {
    "sentiment": Job(
        data="rotten_tomatoes",
        text="text",
        label="label",
        metric="accuracy",
        epochs=1.0,
        rows=7,
        examples=32,
        learning_rate=1e-4,
    ),
    "entities": Job(
        data="conll2003",
        text="tokens",
        label="ner",
        metric="f1",
        epochs=0.5,
        rows=5,
        examples=32,
        learning_rate=2e-4,
    ),
}
WARMUP, WEIGHT_DECAY, BETAS, EPS, CLIP, LENGTH = 0.1, 0.01, (0.9, 0.999), 1e-8, 1.0, 128
