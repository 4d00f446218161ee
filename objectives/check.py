"""`python -m objectives.check [NAME_OR_FILE] [--field=value]`: is this objective sound?

NAME is a file of this package without its ending; FILE is one of yours. It defines one Objective and a function
`example()` that makes a small one (objectives.examples says how small); its fields can be overridden. Without a name every
objective of this package is examined. Exit code 1 if any property fails.
"""

import doctest
import importlib
import inspect
import io
import itertools
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import jax
import tyro
from flax.errors import FlaxError
from rich.console import Console
from rich.table import Table

import objectives
from objectives import properties
from objectives.additivity import declares_its_terms
from objectives.base import Objective
from objectives.examples import example_of, examples, in_small_rows, small_batch, small_config
from objectives.own_file import load_file
from objectives.smallest import shown, smallest
from objectives.verdict import Verdict

AUTHORS_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    FlaxError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a mistake in an objective's file can raise."""
STYLES = {"holds": "green", "fails": "bold red", "does not apply": "dim"}


def _load(target: str) -> ModuleType:
    """The module of a name in this package, or of a file."""
    path = Path(target)
    if path.suffix != ".py":
        if not (Path(objectives.__path__[0]) / f"{target}.py").is_file():
            names = ", ".join(name for name, _ in examples())
            raise SystemExit(f"{target!r} is neither a Python file nor one of {names}")
        return importlib.import_module(f"objectives.{target}")
    try:
        # A name of its own: a file called data.py must not stand in for the package.
        return load_file(path, f"objective_{path.stem}")
    except (ValueError, OSError) as error:
        raise SystemExit(f"{target} cannot be imported: {error}") from error


def _chosen(targets: Sequence[str], overrides: Sequence[str]) -> Iterator[tuple[str, Objective, ModuleType]]:
    if not targets:
        for name, objective in examples():
            yield name, objective, importlib.import_module(f"objectives.{name}")
    for target in targets:
        module = _load(target)
        try:
            example = example_of(module)
        except AUTHORS_ERRORS as error:
            raise SystemExit(f"{target}: {_told(error, module)}") from error
        if example is None:
            raise SystemExit(f"{target} defines no subclass of objectives.base.Objective")
        if overrides:
            program = f"python -m objectives.check {target}"
            example = in_small_rows(
                tyro.cli(type(example), default=example, args=list(overrides), prog=program)
            )
        yield target, example, module


def worked_number_holds(module: ModuleType) -> Verdict:
    """The module's doctests pass, and there is at least one: a number worked by hand, and whence it comes."""
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=said.write)
    detail = "no doctest with a number worked by hand" if not runner.tries else said.getvalue().strip()
    wrong = runner.failures if runner.tries else 1
    return Verdict("its worked number holds", "fails" if wrong else "holds", float(wrong), 0.0, detail)


def verdicts(objective: Objective) -> Iterator[Verdict]:
    """Every property in turn; a failure that lives in some rows comes with the smallest batch that shows it.

    One that ends in an error fails with that error, in one line with the line of the author's file.
    """
    module = inspect.getmodule(type(objective))
    try:
        config, batch = small_config(objective), small_batch(objective)
    except AUTHORS_ERRORS as error:
        yield Verdict("reads a small batch", "fails", detail=_told(error, module))
        return
    told: set[str] = set()
    for check in properties.PROPERTIES:
        try:
            verdict = check(objective, config, batch)
            if verdict.verdict == "fails" and check in properties.LOCAL:
                evidence = shown(smallest(check, objective, config, batch))
                verdict = verdict.with_detail(f"smallest example: {evidence}")
        except AUTHORS_ERRORS as error:
            detail = _told(error, module)
            verdict = Verdict(check.__name__.replace("_", " "), "fails", detail=detail)
            if detail in told:
                # The same mistake again says nothing new.
                verdict = Verdict(
                    verdict.name, "does not apply", detail="ends in an error that is told above"
                )
            told.add(detail)
        if verdict.verdict == "fails" and (
            place := _place(objective, properties.ABOUT.get(check, ("score", "__call__")))
        ):
            verdict = verdict.with_detail(place)
        yield verdict
        if check is declares_its_terms and not verdict:
            # Without the terms that it declares nothing else can be measured.
            return


def _told(error: BaseException, module: ModuleType | None) -> str:
    """The error in one line, with the last line of the author's file that it went through."""
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0] if lines else ''}"
    file = getattr(module, "__file__", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{said} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else said


def _place(objective: Objective, members: Sequence[str]) -> str:
    """The file and line of the first of these methods that its own class defines; empty if it defines none."""
    for member in members:
        found = vars(type(objective)).get(member)
        if inspect.isfunction(found):
            code = found.__code__
            return f"see {member}, {Path(code.co_filename).name}:{code.co_firstlineno}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a verdict per property; 1 if any fails."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    overrides = list(itertools.dropwhile(lambda a: not a.startswith("-"), arguments))
    targets = arguments[: len(arguments) - len(overrides)]
    if overrides and len(targets) != 1:
        raise SystemExit(f"{overrides[0]} overrides a field of one objective, but {len(targets)} are named")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    console = Console()
    failed = 0
    for name, objective, module in _chosen(targets, overrides):
        table = Table(title=f"{name}: {objective}", title_justify="left")
        for column in ("property", "verdict", "figure", "at most", "evidence"):
            table.add_column(column, justify="right" if column in ("figure", "at most") else "left")
        for verdict in itertools.chain([worked_number_holds(module)], verdicts(objective)):
            failed += not verdict
            applies = verdict.verdict != "does not apply"
            figures = (f"{verdict.figure:.2g}", f"{verdict.limit:g}") if applies else ("", "")
            shade = STYLES[verdict.verdict]
            table.add_row(
                verdict.name, f"[{shade}]{verdict.verdict}[/]", *figures, verdict.detail.replace("[", r"\[")
            )
        console.print(table)
    console.print("all sound" if not failed else f"{failed} properties fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
