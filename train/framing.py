"""What stands around texts when a pretrained run goes on to read others: what stood there in its own rows."""

from typing import get_args

from data.frame import FramingName
from data.tokenizer import Tokenizer
from train.restore import Source

FRAMING = "framing"
"""The entry of a pretraining run's config.json that names it. Older runs have none, and fine-tuned ones need none: their
tokenizer says it."""


def framed_tokenizer(source: Source) -> Tokenizer:
    """The run's tokenizer, which frames texts as the run read them.

    Raises:
      ValueError: the tokenizer is damaged, or config.json names no framing that there is.
    """
    if FRAMING not in source.description:
        return source.tokenizer
    name: FramingName = source.description[FRAMING]
    if name not in get_args(FramingName):
        raise ValueError(
            f"{source.folder / 'config.json'}: {FRAMING} is {name!r}, none of {', '.join(get_args(FramingName))}"
        )
    return source.tokenizer.with_framing(name)
