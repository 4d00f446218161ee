"""Files of a published checkpoint: safetensors, whole or sharded, read tensor by tensor from a map, and written.

Weights of Flax are read too, where there are no others. The format's own library reads headers; a file of another kind or
a damaged one is one clear error.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data.files import sha256
from data.paths import local_path
from data.stand_ins import refuse_stand_in
from finetune.published.flax_files import KERNEL, flax_tensors, tensor_name
from finetune.published.folders import CONFIG, INDEX, SAFE, WEIGHTS, published_config, weight_files

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = {name: code for code, name in FLOATS.items()}
SHARD_BYTES = 5_000_000_000


class Stored(NamedTuple):
    """One tensor of a file."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    name: str
    """What it is called there."""
    turned: bool = False
    """Whether it is there with its axes the other way round."""


class PublishedFiles:
    """An opened folder: its config.json, and its tensors by name."""

    def __init__(self, folder: str | Path):
        self.folder = local_path(folder)
        self.config = published_config(self.folder)
        self.tensors: dict[str, Stored] = {}
        self._held: dict[str, np.ndarray] = {}
        for path, expected in weight_files(self.folder):
            found = self._open(path)
            if expected - found.keys():
                raise ValueError(
                    f"{path} lacks {sorted(expected - found.keys())[0]}, which its index says it has"
                )
            self.tensors |= found

    def _open(self, path: Path) -> dict[str, Stored]:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        refuse_stand_in(path)
        if path.suffix == SAFE:
            return _header(path)
        arrays = flax_tensors(path)
        self._held |= arrays
        return {
            name: Stored(
                path, x.shape, _CODES[x.dtype.name] if x.dtype.name in _CODES else x.dtype.name, name
            )
            for name, x in arrays.items()
        }

    @property
    def config_file(self) -> str:
        """Where its config.json is."""
        return str(self.folder / CONFIG)

    @property
    def dtype(self) -> str:
        """The dtype of most numbers."""
        sizes: dict[str, int] = {}
        for stored in self.tensors.values():
            if stored.dtype in FLOATS:
                sizes[stored.dtype] = sizes.get(stored.dtype, 0) + int(np.prod(stored.shape))
        return FLOATS[max(sizes, key=lambda name: sizes[name])] if sizes else "float32"

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of weights, by its name."""
        paths = sorted({stored.file for stored in self.tensors.values()})
        return {path.name: sha256(path) for path in paths}

    def fetch(self, name: str) -> np.ndarray:
        """One tensor in its own dtype; ValueError if a number of it is none."""
        stored = self.tensors[name]
        if stored.dtype not in FLOATS:
            raise ValueError(
                f"{stored.file}: {name} is of dtype {stored.dtype}, not one of {', '.join(FLOATS)}"
            )
        array = self._array(name, stored)
        if why := not_finite(array):
            raise ValueError(f"{stored.file}: {name} {why}: the file is damaged, or its training went astray")
        return array

    def _array(self, name: str, stored: Stored) -> np.ndarray:
        if name in self._held:
            return self._held[name]
        # Opened anew: a map that stays would keep in memory what has been read through it.
        with safe_open(stored.file, framework="numpy") as file:
            array: np.ndarray = file.get_tensor(stored.name)
        return array.T if stored.turned else array


def _header(path: Path) -> dict[str, Stored]:
    try:
        found = {}
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            of_flax = "format" in said and said["format"] == "flax"
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part = file.get_slice(name)
                shape, dtype = tuple(part.get_shape()), part.get_dtype()
                if of_flax:
                    keys = name.split(".")
                    turned = keys[-1] == KERNEL
                    found[tensor_name(keys)] = Stored(
                        path, shape[::-1] if turned else shape, dtype, name, turned
                    )
                else:
                    found[name] = Stored(path, shape, dtype, name)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    return found


def not_finite(array: np.ndarray) -> str:
    """What is no number of float32 in it, as the end of a sentence; empty where all are."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32, copy=False))
    if finite.all():
        return ""
    first = np.unravel_index(int(np.argmin(finite)), array.shape)
    place = f" at {[int(i) for i in first]}" if array.ndim else ""
    return f"holds {finite.size - int(finite.sum()):,} values that are no finite float32, first {array[first]}{place}"


def write_files(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterator[tuple[str, np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """config.json and the tensors, in files of at most `shard_bytes` (a larger tensor has one of its own).

    Raises:
      ValueError: the folder holds something already.
    """
    refuse_full(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, list[str], int]] = []
    shard: dict[str, np.ndarray] = {}

    def close() -> None:
        path = folder / f".shard-{len(written)}.safetensors"
        try:
            save_file(shard, path, metadata={"format": "pt"})
        except SafetensorError as error:
            # Its own error for whatever the system says.
            size = sum(x.nbytes for x in shard.values())
            raise OSError(f"{folder} cannot hold {size:,} bytes of weights: {error}") from error
        path.chmod(0o644)  # as any other file: the library writes it for its owner alone
        written.append((path, list(shard), sum(x.nbytes for x in shard.values())))
        shard.clear()

    for name, array in tensors:
        if shard and sum(x.nbytes for x in shard.values()) + array.nbytes > shard_bytes:
            close()
        shard[name] = array
    close()
    names = (
        [WEIGHTS]
        if len(written) == 1
        else [f"model-{i + 1:05d}-of-{len(written):05d}.safetensors" for i in range(len(written))]
    )
    files = [path.rename(folder / name) for (path, _, _), name in zip(written, names, strict=True)]
    if len(files) > 1:
        places = {t: file.name for (_, own, _), file in zip(written, files, strict=True) for t in own}
        total = sum(size for _, _, size in written)
        write_object(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    write_object(folder / CONFIG, config)
    return files


def refuse_full(folder: Path) -> None:
    """Raise ValueError if there is anything in the folder: nothing is overwritten."""
    if folder.is_symlink() and not folder.exists():
        raise ValueError(f"{folder} is a link that leads nowhere: choose another folder")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another folder")
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if present:
        raise ValueError(f"{folder} already holds {present[0]}: choose another folder")


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """As their library writes it."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
