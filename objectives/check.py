"""`python -m objectives.check path/to/mine.py`: is this objective sound? Knows no loop and no data.

The file defines one Objective and a function `example()` that makes a small one (objectives.examples says how
small). Without a path every objective of this package is examined.
"""

import argparse
import doctest
import importlib
import importlib.util
import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax

from objectives.base import Objective
from objectives.examples import example_of, examples, small_batch, small_config
from objectives.properties import Verdict, examine


def _load(path: Path) -> tuple[Objective, ModuleType]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    try:
        objective = example_of(module)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if objective is None:
        raise SystemExit(f"{path} defines no subclass of objectives.base.Objective")
    return objective, module


def _chosen(paths: list[Path]) -> Iterator[tuple[str, Objective, ModuleType]]:
    if not paths:
        for name, objective in examples():
            yield name, objective, importlib.import_module(f"objectives.{name}")
    for path in paths:
        yield str(path), *_load(path)


def worked_number_holds(module: ModuleType) -> Verdict:
    """The module's doctests pass, and there is at least one: a number worked by hand, and whence it comes."""
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=said.write)
    detail = "no doctest with a number worked by hand" if not runner.tries else said.getvalue().strip()
    wrong = runner.failures if runner.tries else 1
    return Verdict("its worked number holds", "fails" if wrong else "holds", float(wrong), 0.0, detail)


def main(arguments: list[str] | None = None) -> int:
    """Print a verdict per property; 1 if any fails."""
    parser = argparse.ArgumentParser(prog="python -m objectives.check", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", type=Path, help="files with one objective each; default: this package"
    )
    jax.config.update("jax_numpy_rank_promotion", "raise")
    failed = 0
    for name, objective, module in _chosen(parser.parse_args(arguments).paths):
        print(f"{name}: {type(objective).__name__}")
        found = examine(objective, small_config(objective), small_batch(objective))
        for verdict in itertools.chain([worked_number_holds(module)], found):
            failed += not verdict
            figure = (
                ""
                if verdict.verdict == "does not apply"
                else f"{verdict.figure:.2g} (at most {verdict.limit:g})"
            )
            print(f"  {verdict.verdict:>14}  {verdict.name:<30} {figure:<22} {verdict.detail}")
    print("all sound" if not failed else f"{failed} properties fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
