"""The border between a user's command line and the rooms: experiment files by path, overrides, one-line errors.

What tyro parses becomes the typed values of a run; what a user can mend becomes one line and an exit code.
"""

import argparse
import dataclasses
import functools
import importlib.util
import inspect
import operator
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

import jax
import tyro
from rich.console import Console

T = TypeVar("T")


PROGRAMS = {
    "Experiment": "python -m train",
    "FineTune": "python -m finetune",
    "Study": "python -m benchmarks.label_efficiency",
}
"""What runs each kind of experiment file, for whoever gave one to the wrong program."""


class Preempted(Exception):
    """SIGTERM came and what was running has been saved: the program ends, and nothing is wrong."""


def load_config(path: str, kind: type[T]) -> T:
    """The value of `config()` in an experiment file.

    Raises:
      ValueError: there is no such file, it defines no `config()`, or one of another kind.
    """
    file = Path(path)
    if not file.is_file():
        near = sorted(str(p) for p in Path("configs").glob("*.py"))
        raise ValueError(f"no experiment file {path}" + (f"; there are {', '.join(near)}" if near else ""))
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As for every import: a run keeps the text of a class's module, which is looked up here.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        raise ValueError(f"{path} defines no config() -> Experiment")
    value = module.config()
    if not isinstance(value, kind):
        found = type(value).__name__
        remedy = f": use {PROGRAMS[found]}" if found in PROGRAMS else ""
        raise ValueError(f"{path} gives a {found}, not a {kind.__name__}{remedy}")
    return value


def split_code(arguments: Sequence[str]) -> tuple[tuple[Path, ...], list[str]]:
    """Files named by `--code FILE` (repeatable), and the other arguments, whose defaults may come from the run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--code", type=Path, action="append", default=[])
    found, others = parser.parse_known_args(list(arguments))
    return tuple(found.code), others


def parse(experiment: T, arguments: Sequence[str], program: str) -> tuple[T, Path]:
    """The experiment with the command line's overrides, and `--workdir`; `--help` lists every field."""
    help_text = "The run folder: checkpoints, metrics and configuration."
    return parse_with(experiment, arguments, program, ("workdir", Path, tyro.MISSING, help_text))


def parse_with(
    experiment: T, arguments: Sequence[str], program: str, own: tuple[str, type, Any, str]
) -> tuple[T, Any]:
    """The experiment with overrides, and the program's own option, given as (name, type, default, help)."""
    name, own_type, default, help_text = own
    fields: list[tuple[str, Any]] = [
        (name, Annotated[own_type, tyro.conf.arg(help=help_text)]),
        ("experiment", Annotated[type(experiment), tyro.conf.arg(name="")]),
    ]
    kind: Any = dataclasses.make_dataclass("Arguments", fields, frozen=True)
    parsed = tyro.cli(
        kind,
        prog=program,
        args=list(arguments),
        default=kind(**{name: default, "experiment": experiment}),
        config=(tyro.conf.FlagConversionOff,),
    )
    return parsed.experiment, getattr(parsed, name)


def choices(base: type[Any], package: ModuleType) -> Any:
    """An annotation of a field of type `base` that lets a command line choose its class.

    Offered are all subclasses that are not abstract: those in the files of the package, in the base's own, and in what an
    experiment file imports or defines.
    """

    def union() -> Any:
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
        # Of two with one name the later: an experiment file may be loaded again in one process.
        named = {command_name(kind): kind for kind in _concrete_subclasses(base)}
        kinds: list[Any] = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in named.items()]
        return functools.reduce(operator.or_, kinds)

    return tyro.conf.arg(constructor_factory=union)


def command_name(kind: type) -> str:
    """How a command line calls a class.

    >>> [command_name(type(name, (), {})) for name in ("TextClassification", "LoRA", "Full")]
    ['text-classification', 'lora', 'full']
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "-", kind.__name__).lower()


def _concrete_subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from _concrete_subclasses(kind)


def one_line_errors(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run `main`; a mistake of the user becomes one clear line and exit code 2, with HANDOFF_TRACEBACK=1 a traceback."""
    try:
        main(arguments)
    except Preempted as stop:
        print(stop, file=sys.stderr)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        if "HANDOFF_TRACEBACK" in os.environ:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def console(stderr: bool) -> Console:
    """Where tables go; in a log file they get room instead of 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 120)


def multi_host() -> None:
    """Join the other processes of a multi-host run where the environment asks for it (before any device is touched)."""
    if "HANDOFF_COORDINATOR" in os.environ:
        jax.distributed.initialize(
            os.environ["HANDOFF_COORDINATOR"],
            int(os.environ["HANDOFF_PROCESSES"]),
            int(os.environ["HANDOFF_PROCESS"]),
        )
    elif "TPU_WORKER_HOSTNAMES" in os.environ and "," in os.environ["TPU_WORKER_HOSTNAMES"]:
        jax.distributed.initialize()
