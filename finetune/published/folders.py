"""Which files of a folder are a published checkpoint's; where there is none, what the folder is instead and what to do."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.json_objects import read_object
from data.stand_ins import refuse_stand_in
from finetune.published.flax_files import FLAX, FLAX_INDEX, tensor_name

CONFIG = "config.json"
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SAFE = ".safetensors"
_ADAPTER, _MODULES = "adapter_config.json", "modules.json"
_READ = ("Transformer", "Pooling", "Normalize")
"""Modules of sentence-transformers that are the model, or have no parameters."""
_LARGEST_JSON = 50_000_000
_LONGEST_NAME = 200
_SHOWN = 8
_CONVERSION = (
    'python -c "import torch, safetensors.torch as s; s.save_file({{k: v.clone().contiguous() for k, v in '
    "torch.load('{0}', weights_only=True).items()}}, '{1}', {{'format': 'pt'}})\""
)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file that a checkpoint must have."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {path.parent} is no published checkpoint")
    return read_object(path, _LARGEST_JSON)


def is_run(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a run of this project."""
    return "model_type" not in config and "model" in config and isinstance(config["model"], dict)


def is_published(folder: Path) -> bool:
    """Whether the folder is one of theirs rather than a run."""
    if (folder / CONFIG).is_file():
        return not is_run(read_config(folder / CONFIG))
    return (folder / _ADAPTER).is_file() or (folder / _MODULES).is_file()


def published_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is no published checkpoint's: the error says what the folder is.
    """
    if not folder.is_dir():
        file = ": it is a file, name the folder that it is in" if folder.is_file() else ""
        raise FileNotFoundError(f"no folder {folder}{file}")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder / CONFIG} is missing: {folder} is no published checkpoint{_instead(folder)}"
        )
    config = read_config(folder / CONFIG)
    if is_run(config):
        raise ValueError(
            f"{folder} is a run already: start from it with --init {folder}, or publish it with "
            f"python -m finetune.convert export {folder} --to DIR"
        )
    if "quantization_config" in config and config["quantization_config"] is not None:
        raise ValueError(
            f"{folder / CONFIG}: quantization_config says that the weights are quantized, which are not read: take the "
            "checkpoint that they were made from"
        )
    return config


def _instead(folder: Path) -> str:
    """What a folder without config.json is, as the end of a sentence."""
    if (folder / _ADAPTER).is_file():
        return f", but {_adapter(folder)}"
    if (folder / "hashes.json").is_file():
        return ", but a checkpoint of a run: name the run folder, which needs no import"
    below = sorted(
        path.parent for path in (*folder.glob(f"*/{CONFIG}"), *folder.glob(f"snapshots/*/{CONFIG}"))
    )
    if below:
        return f", but there is one in {' and in '.join(map(str, below[:_SHOWN]))}"
    return f" ({_contents(folder)})"


def _adapter(folder: Path) -> str:
    config = read_object(folder / _ADAPTER, _LARGEST_JSON)
    base = repr(config["base_model_name_or_path"]) if "base_model_name_or_path" in config else "another model"
    return (
        f"an adapter of PEFT, which needs the weights of {base}: merge the two there with model.merge_and_unload(), save "
        "that with save_pretrained, and import it"
    )


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"it holds {', '.join(names[:_SHOWN])}{more}" if names else "it is empty"


def modules_left_out(folder: Path) -> list[str]:
    """Folders of a model of sentence-transformers whose parameters are not read."""
    if not (folder / _MODULES).is_file():
        return []
    refuse_stand_in(folder / _MODULES)
    return sorted(
        path.parent.name for path in folder.glob(f"*/*{SAFE}") if not path.parent.name.endswith(_READ)
    )


def weight_files(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Each file with the names that an index expects in it."""
    for whole, index in ((WEIGHTS, INDEX), (FLAX, FLAX_INDEX)):
        if (folder / whole).exists():
            yield folder / whole, set()
            return
        if (folder / index).exists():
            yield from _shards(folder / index)
            return
    for name in (PICKLE, f"{PICKLE}.index.json"):
        if (folder / name).exists():
            refuse_stand_in(folder / name)
            whole = name == PICKLE
            line = _CONVERSION.format(folder / PICKLE, folder / WEIGHTS)
            shards = "load the model there and save it with save_pretrained, which writes safetensors"
            raise ValueError(
                f"{folder / name} is {'a pickle' if whole else 'of pickles'}, which may run code when it is read, so it is "
                f"not. Where PyTorch is installed and you trust the file: {line if whole else shards}"
            )
    if (folder / _ADAPTER).is_file():
        raise ValueError(f"{folder} is no whole model, but {_adapter(folder)}")
    raise FileNotFoundError(
        f"{folder} has none of {WEIGHTS}, {INDEX}, {FLAX} and {FLAX_INDEX}: {_contents(folder)}"
    )


def _shards(index: Path) -> Iterator[tuple[Path, set[str]]]:
    places = read_config(index)
    places = places["weight_map"] if "weight_map" in places else None
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(name, str) for name in places.values())
    ):
        raise ValueError(f"{index} has no weight_map of names to files")
    suffix = SAFE if index.name == INDEX else Path(FLAX).suffix
    for name in sorted(set(places.values())):
        if Path(name).name != name or Path(name).suffix != suffix or len(name) > _LONGEST_NAME:
            raise ValueError(f"{index} names {name[:80]!r}, which is no {suffix} file of this folder")
        own = {tensor for tensor, file in places.items() if file == name}
        # Flax's index has names of Flax.
        yield index.parent / name, own if suffix == SAFE else {tensor_name(t.split("/")) for t in own}
