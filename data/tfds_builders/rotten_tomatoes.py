"""Rotten Tomatoes sentences with their sentiment, in fixed splits of our own."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data.documents import hash_fraction, text_hash
from data.tfds_builders import movie_reviews

_CLASSES = ("neg", "pos")
# Split and the upper end of its share of the hashes.
_SPLITS = {"train": 0.70, "validation": 0.85, "test": 1.0}


class RottenTomatoes(tfds.core.GeneratorBasedBuilder):
    """8,530 lower-cased sentences, `text` and `label` (neg, pos), half of them each.

    The package has no splits; ours go by the hash of the normalised text (about 70/15/15), so a sentence that
    occurs twice stands in one split: train 5,969 (3,020 neg, 2,949 pos), validation 1,292 (635, 657),
    test 1,269 (610, 659).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "From movie-reviews 0.0.2."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Rotten Tomatoes sentences with sentiment (Pang and Lee 2005), for research use.",
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=_CLASSES)}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # pip brings the archive
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for number, record in movie_reviews.records("rotten_tomatoes"):
            if split_of(record["text"]) == split:
                yield number, {"text": record["text"], "label": _CLASSES[int(record["label"])]}


def split_of(text: str) -> str:
    """The split that a text belongs to."""
    share = float(hash_fraction(np.array(text_hash(text), np.uint64)))
    return next(split for split, upper in _SPLITS.items() if share < upper)
