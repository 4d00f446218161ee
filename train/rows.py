"""What the rows of a run are, from the tokenizer that makes their ids."""

from data.tokenizer import SentencePieceTokenizer, Tokenizer
from objectives.rows import NO_ID, RowShape

SPECIALS = ("cls_id", "sep_id", "mask_id", "bos_id", "eos_id")


def row_shape_of(
    ids: Tokenizer | type[SentencePieceTokenizer],
    *,
    pieces: int,
    length: int,
    max_segments: int,
    vocab_size: int,
) -> RowShape:
    """The shape of rows of text.

    Args:
      ids: a tokenizer, or the kind of one that has yet to be trained.
      pieces: how many ids it has; those from there on are in no text.
      length: tokens of a row.
      max_segments: most packed segments in one row.
      vocab_size: of the model.
    """
    return RowShape(
        length=length,
        max_segments=max_segments,
        pad_id=ids.pad_id,
        first_ordinary_id=ids.first_ordinary_id,
        own_start=pieces,
        own_stop=vocab_size,
        **{name: _id_of(ids, name) for name in SPECIALS},
    )


def _id_of(ids: Tokenizer | type[SentencePieceTokenizer], name: str) -> int:
    try:
        return int(getattr(ids, name))
    except ValueError:  # a published tokenizer says so where it has no such token
        return NO_ID
