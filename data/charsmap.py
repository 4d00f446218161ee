"""The precompiled rules of SentencePiece (`precompiled_charsmap`): whether they are whole.

The `tokenizers` library trusts them, and stops the process's thread with pages of its own where they are damaged.
"""

import base64
import binascii
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def charsmaps(normalizer: Any) -> Iterator[bytes]:
    """Those of a normaliser of tokenizer.json and of its steps.

    Raises:
      ValueError: one is no base 64.
    """
    if not isinstance(normalizer, Mapping):
        return
    steps = normalizer["normalizers"] if "normalizers" in normalizer else ()
    for step in steps if isinstance(steps, list) else ():
        yield from charsmaps(step)
    if "precompiled_charsmap" in normalizer and normalizer["precompiled_charsmap"] is not None:
        try:
            yield base64.b64decode(normalizer["precompiled_charsmap"], validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise ValueError(f"its precompiled_charsmap is damaged: {error}") from error


@functools.lru_cache(maxsize=8)
def check_charsmap(charsmap: bytes) -> None:
    """Follow every path of the double array, as a text could.

    The bytes are the array's size in bytes (uint32), the array (uint32 each: a label, whether a value follows, an offset),
    and the replacements, each ended by a zero byte, to which values point.

    Raises:
      ValueError: something is cut off, or points to where nothing is.
    """
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size % 4 or not 0 < size <= len(charsmap) - 4:
        raise ValueError(f"its precompiled_charsmap is damaged: {len(charsmap)} bytes for a table of {size}")
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    replacements = charsmap[4 + size :]
    try:
        replacements.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"its precompiled_charsmap is damaged: {error}") from error
    offsets = (units >> 10) << ((units & 512) >> 6)
    starts = np.append((np.frombuffer(replacements, np.uint8) & 0xC0) != 0x80, True)
    labels = np.arange(1, 256)
    seen = np.zeros(len(units), bool)
    reached = offsets[:1]
    while len(reached):
        _within(reached | 255, len(units))
        seen[reached] = True
        places = reached[:, None] ^ labels
        rows, columns = np.nonzero((units[places] & 0x800000FF) == labels)
        places = places[rows, columns]
        following = places ^ offsets[places]
        valued = following[(units[places] >> 8) & 1 == 1]
        _within(valued, len(units))
        values = units[valued] & 0x7FFFFFFF
        _within(values, len(starts))
        if not starts[values].all():
            raise ValueError("its precompiled_charsmap is damaged: a rule points into a character")
        _within(following, len(units))
        reached = np.unique(following[~seen[following]])


def _within(numbers: np.ndarray, size: int) -> None:
    if len(numbers) and numbers.max() >= size:
        raise ValueError(f"its precompiled_charsmap is damaged: a rule points to {numbers.max()} of {size}")
