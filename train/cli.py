"""The border between a user's command line and the rooms: experiment files by path, overrides, one-line errors.

What tyro parses becomes the typed values of a run; what a user can mend becomes one line and an exit code.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import io
import itertools
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

from data.paths import NoPath, local_path, path_options
from model.ranges import check_ranges
from objectives.own_file import call, load_file

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
    """The value of `config()` in an experiment file, which may import what lies beside it.

    Raises:
      ValueError: there is no such file, it cannot be run, it defines no `config()`, or one of another kind.
    """
    file = local_path(path)
    if not file.is_file():
        raise ValueError(f"no experiment file {path}{_nearest(path)}")
    module = load_file(file, f"experiment_{file.stem}")
    if not hasattr(module, "config"):
        raise ValueError(f"{path} defines no config() -> {kind.__name__}")
    value = call(module, "config", file)
    if not isinstance(value, kind):
        found = type(value).__name__
        remedy = f": use {PROGRAMS[found]}" if found in PROGRAMS else ""
        raise ValueError(f"{path} gives a {found}, not a {kind.__name__}{remedy}")
    return value


def _nearest(path: str) -> str:
    """The experiment files here that are spelt most like the path, for an error."""
    names = {Path(file).stem: file for file in _configs()}
    near = difflib.get_close_matches(Path(path).stem, names, n=3, cutoff=0.0)
    return f"; there are {', '.join(names[name] for name in near)}" if near else ""


def _configs() -> list[str]:
    return sorted(str(file) for file in Path("configs").glob("*.py"))


def take_first(arguments: Sequence[str], usage: str, about: str | None) -> tuple[str, list[str]]:
    """What a program is about, a file or a run, which stands before its options; and those.

    Args:
      arguments: the command line.
      usage: how the program is called.
      about: what it does, for `--help` before there is anything whose fields could be listed.

    Raises:
      ValueError: nothing is named.
      SystemExit: help was asked for, and printed.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], list(arguments[1:])
    if set(arguments) & {"-h", "--help"}:
        lines = [f"usage: {usage}", "", (about or "").strip()]
        if "CONFIG" in usage:
            files = _configs()
            lines += ["", "CONFIG.py --help lists every field."]
            lines += [f"There are {', '.join(files)}."] if files else []
        print("\n".join(lines))
        raise SystemExit(0)
    raise ValueError(f"usage: {usage}")


def split_code(arguments: Sequence[str]) -> tuple[tuple[Path, ...], list[str]]:
    """Files named by `--code FILE` (repeatable), and the other arguments, whose defaults may come from the run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--code", action="append", default=[])
    found, others = parser.parse_known_args(list(arguments))
    return tuple(map(local_path, found.code)), others


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
    parsed = _parsed(kind, program, arguments, kind(**{name: default, "experiment": experiment}))
    check_ranges(parsed.experiment)
    if dataclasses.is_dataclass(own_type):
        check_ranges(getattr(parsed, name), f"{name}.")
    return parsed.experiment, getattr(parsed, name)


def command_line(
    kind: Any,
    program: str,
    arguments: Sequence[str],
    default: Any = tyro.MISSING_NONPROP,
    *,
    about: str = "",
    switches: bool = False,
) -> Any:
    """The options of a program as a dataclass: paths expanded, every number in its range.

    Args:
      kind: the dataclass, or a union of several with a subcommand each.
      program: how it is called.
      arguments: the command line.
      default: what its fields are by default; else what their declarations say.
      about: what the program does; else what the dataclass says of itself.
      switches: whether --x and --no-x set a field that is True or False, instead of --x True.

    Raises:
      ValueError: a value cannot be; in one line.
      SystemExit: an option is unknown or missing, or help was asked for; what there is to say has been printed.
    """
    parsed = _parsed(kind, program, arguments, default, about, switches)
    check_ranges(parsed)
    return parsed


def _parsed(
    kind: Any,
    program: str,
    arguments: Sequence[str],
    default: Any,
    about: str = "",
    switches: bool = False,
) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                kind,
                prog=program,
                description=about or None,
                args=list(arguments),
                default=default,
                config=() if switches else (tyro.conf.FlagConversionOff,),
                registry=path_options(),
            )
    except SystemExit:
        if "Value error" in said.getvalue().partition("\n")[0]:
            raise ValueError(_unboxed(said.getvalue())) from None
        sys.stderr.write(said.getvalue())
        raise
    except NoPath as error:
        raise ValueError(str(error)) from error
    sys.stderr.write(said.getvalue())
    return parsed


def _unboxed(box: str) -> str:
    """The words of tyro's box, up to its first rule, as one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    said = " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines))
    inside = re.match(r"Error parsing ([^-].*?): (.*)", said)
    if inside is None:
        return said.removeprefix("Error parsing ")
    where, words = inside[1].removeprefix("experiment").removeprefix("."), inside[2]
    # Most dataclasses name the place of their fields themselves.
    return words if where in words else f"{where}: {words}"


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
