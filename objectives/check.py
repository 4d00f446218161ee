"""`python -m objectives.check path/to/mine.py`: is this objective sound? Knows no loop and no data.

The file defines one Objective and a function `example()` that makes a small one (objectives.examples says how
small). Without a path every objective of this package is examined.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from objectives.base import Objective
from objectives.examples import example_of, examples, small_batch, small_config
from objectives.properties import examine


def _load(path: Path) -> Objective:
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
    return objective


def _chosen(paths: list[Path]) -> Iterator[tuple[str, Objective]]:
    if not paths:
        yield from examples()
    for path in paths:
        yield str(path), _load(path)


def main(arguments: list[str] | None = None) -> int:
    """Print a verdict per property; 1 if any fails."""
    parser = argparse.ArgumentParser(prog="python -m objectives.check", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", type=Path, help="files with one objective each; default: this package"
    )
    jax.config.update("jax_numpy_rank_promotion", "raise")
    failed = 0
    for name, objective in _chosen(parser.parse_args(arguments).paths):
        print(f"{name}: {type(objective).__name__}")
        for verdict in examine(objective, small_config(objective), small_batch(objective)):
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
