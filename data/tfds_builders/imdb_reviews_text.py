"""IMDB film reviews as unlabelled text, for pretraining."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from data.tfds_builders import movie_reviews

_BREAK = re.compile(r"\s*<br\s*/?>\s*")


class ImdbReviewsText(tfds.core.GeneratorBasedBuilder):
    """25,000 reviews, one split `train`, one feature `text`; each run of `<br />` has become a line break.

    The labels of the package are left out on purpose: this is pretraining text.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "From movie-reviews 0.0.2."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="IMDB film reviews without labels (Maas et al. 2011), for research use.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # pip brings the archive
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        for number, record in movie_reviews.records("imdb"):
            yield number, {"text": re.sub(r"\n{2,}", "\n", _BREAK.sub("\n", record["text"])).strip()}
