"""Files of a published checkpoint: config.json and safetensors, whole or sharded. Reads tensors one by one, from a map.

Weights of Flax are read too, where there are no others.

Knows no family. The format's own library reads headers; a file of another kind or a damaged one is one clear error.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data.json_objects import read_object
from finetune.published.flax_files import FLAX, FLAX_INDEX, KERNEL, flax_tensors, tensor_name

WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SAFE = ".safetensors"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = {name: code for code, name in FLOATS.items()}
SHARD_BYTES = 5_000_000_000
_LARGEST_JSON = 50_000_000
_CONVERSION = (
    'python -c "import torch, safetensors.torch as s; s.save_file({{k: v.clone().contiguous() for k, v in '
    "torch.load('{0}', weights_only=True).items()}}, '{1}', {{'format': 'pt'}})\""
)


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
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {self.folder}")
        self.config = read_config(self.folder / "config.json")
        self.tensors: dict[str, Stored] = {}
        self._held: dict[str, np.ndarray] = {}
        for path, expected in _weight_files(self.folder):
            found = self._open(path)
            if expected - found.keys():
                raise ValueError(
                    f"{path} lacks {sorted(expected - found.keys())[0]}, which its index says it has"
                )
            self.tensors |= found

    def _open(self, path: Path) -> dict[str, Stored]:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
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
        found = {}
        for path in paths:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    def fetch(self, name: str) -> np.ndarray:
        """One tensor in its own dtype."""
        stored = self.tensors[name]
        if stored.dtype not in FLOATS:
            raise ValueError(f"{name} is of dtype {stored.dtype}, not one of {', '.join(FLOATS)}")
        if name in self._held:
            return self._held[name]
        # Opened anew: a map that stays would keep in memory what has been read through it.
        with safe_open(stored.file, framework="numpy") as file:
            array: np.ndarray = file.get_tensor(stored.name)
        return array.T if stored.turned else array


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file that a checkpoint must have."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {path.parent} is no published checkpoint")
    return read_object(path, _LARGEST_JSON)


def _weight_files(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Each file with the names that an index expects in it."""
    for whole, index in ((WEIGHTS, INDEX), (FLAX, FLAX_INDEX)):
        if (folder / whole).exists():
            yield folder / whole, set()
            return
        if (folder / index).exists():
            yield from _shards(folder / index)
            return
    if (folder / PICKLE).exists():
        line = _CONVERSION.format(folder / PICKLE, folder / WEIGHTS)
        raise ValueError(
            f"{folder / PICKLE} is a pickle, which may run code when it is read, so it is not. Where PyTorch is installed "
            f"and you trust the file: {line}"
        )
    raise FileNotFoundError(f"{folder} has none of {WEIGHTS}, {INDEX}, {FLAX} and {FLAX_INDEX}")


def _shards(index: Path) -> Iterator[tuple[Path, set[str]]]:
    places = read_config(index)
    places = places["weight_map"] if "weight_map" in places else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no weight_map of names to files")
    suffix = SAFE if index.name == INDEX else Path(FLAX).suffix
    for name in sorted(set(places.values())):
        if Path(name).name != name or Path(name).suffix != suffix:
            raise ValueError(f"{index} names {name!r}, which is no {suffix} file of this folder")
        own = {tensor for tensor, file in places.items() if file == name}
        # Flax's index has names of Flax.
        yield index.parent / name, own if suffix == SAFE else {tensor_name(t.split("/")) for t in own}


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
    write_object(folder / "config.json", config)
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
