"""`python -m train CONFIG --workdir W [--code FILE] [overrides]`: pretrain one experiment file."""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from train.build import build
from train.cli import console, load_config, multi_host, parse, run_program, split_code, take_first
from train.experiment import Experiment
from train.loop import Result, run
from train.workdir import check_place, claim, occupied


def pretrain(
    experiment: Experiment, workdir: Path, label: str = "pretrain", code: Sequence[Path] = ()
) -> Result:
    """Build the parts, claim the run folder, train; `code` names files whose classes the companions' runs may name."""
    check_place(workdir)
    built = build(experiment, code)
    with occupied(workdir):
        claim(workdir, built.description, built.tokenizer)
        if jax.process_index() == 0:
            print(*built.reports, sep="\n", end="\n" if built.reports else "", file=sys.stderr)
            if built.passport is not None:
                built.passport.keep(workdir)
                print(f"hand-off from {built.passport.source}", file=sys.stderr)
                console(stderr=True).print(built.passport.table())
        return run(built.experiment, built.parts, workdir, label=label)


def main(arguments: Sequence[str]) -> None:
    """Parse, then pretrain."""
    code, arguments = split_code(arguments)
    usage = "python -m train CONFIG.py --workdir W [--code FILE] [--help | overrides]"
    file, overrides = take_first(arguments, usage, __doc__)
    config = load_config(file, Experiment)
    experiment, workdir = parse(config, overrides, f"python -m train {file} [--code FILE]")
    multi_host()
    result = pretrain(experiment, workdir, code=code)
    state = f"stopped by {result.stopped_by} at" if result.preempted else "finished at"
    print(f"{state} step {result.step} after {result.seconds:.0f} s of training; run folder: {workdir}")


if __name__ == "__main__":
    run_program(main)
