"""Companions of a run: frozen networks that its objective reads, handed off from the runs that trained them.

They are placed beside the state and never trained or saved.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from data.prepare import TOKENIZER_FILE
from data.tokenizer import Tokenizer
from model.config import ModelConfig, TextConfig
from model.network import Network, Params
from objectives.base import Objective
from train.experiment import INIT, Run
from train.launch import Launcher
from train.passport import Passport, whole
from train.restore import Source, digest, open_run

Named = Sequence[tuple[str, str]]
"""(name, run folder or one checkpoint of it) of each companion."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Companion:
    """One of them, opened."""

    name: str
    source: Source
    network: Network
    params: Params
    """Numpy arrays."""
    passport: Passport

    def report(self) -> str:
        """One line: whence it comes, and how much of that run it is."""
        restored = sum(entry.status == "restored" for entry in self.passport.entries)
        left = sorted(
            {"/".join(e.path.split("/")[:2]) for e in self.passport.entries if e.status == "dropped"}
        )
        behind = f", {', '.join(left)} left behind" if left else ""
        return f"companion {self.name} from {self.source.checkpoint}: {restored} leaves restored{behind}"

    def description(self) -> dict[str, Any]:
        """What tells its numbers from others: a resumed run must read the same."""
        return {"step": self.source.step, "digest": digest(self.params)}


def check_companions(objective: Objective, named: Named) -> None:
    """A run for every companion that the objective declares, once, and for no other."""
    declared, given = list(objective.companions), [name for name, _ in named]
    kind = type(objective).__name__
    if missing := [name for name in declared if name not in given]:
        raise ValueError(
            f"{kind} reads the companion networks {declared}, but companions names {given}: name the run that trained "
            f"{missing[0]!r} with --companions {missing[0]} RUN"
        )
    if needless := [name for name in given if name not in declared]:
        raise ValueError(
            f"companions names {needless}, but {kind} reads {declared or 'none'}: leave {needless} out, or choose an "
            "objective that reads them"
        )
    if len(set(given)) != len(given):
        raise ValueError(f"companions names {given}: each name takes one run")


def open_companions(
    run: Run,
    objective: Objective,
    model: ModelConfig,
    init: Source | None = None,
    code: Sequence[Path] = (),
) -> tuple[Companion, ...]:
    """The companions of a run on this model, whose objective was told its rows.

    Args:
      run: names them.
      objective: reads them.
      model: of the run itself.
      init: the opened run that this one starts from, if any.
      code: as `open_run` takes it.

    Raises:
      FileNotFoundError: a run folder or its checkpoint is not there.
      ValueError: a run is damaged, or its network cannot stand beside this model; with both values.
    """
    return tuple(
        _fit(name, init if init is not None and folder == INIT else open_run(folder, code), objective, model)
        for name, folder in run.companions
    )


def _fit(name: str, source: Source, objective: Objective, model: ModelConfig) -> Companion:
    own, what = source.model, f"the companion {name} ({source.checkpoint})"
    if isinstance(own, TextConfig) and isinstance(model, TextConfig) and own.vocab_size != model.vocab_size:
        raise ValueError(
            f"{what} has vocab_size {own.vocab_size}, but model.vocab_size is {model.vocab_size}: both read the same ids; "
            f"set --model.vocab-size {own.vocab_size} --data.tokenizer {source.folder / TOKENIZER_FILE}"
        )
    if own.encoder_decoder != model.encoder_decoder:
        raise ValueError(
            f"{what} is a {type(own).__name__}, the model a {type(model).__name__}: both or neither must be an "
            "encoder-decoder"
        )
    try:
        own.check_rows(objective.rows.length)
        objective.check(own)
    except ValueError as error:
        raise ValueError(f"{what} cannot serve this objective: {error}") from error
    network = Network(own.build(), tuple(objective.companion_heads(name, own)))
    params, passport = whole(source, network)
    return Companion(name=name, source=source, network=network, params=params, passport=passport)


def check_tokenizers(companions: Sequence[Companion], tokenizer: Tokenizer | None) -> None:
    """Equal ids must mean equal text in all networks."""
    if tokenizer is None:
        return
    for companion in companions:
        # What each puts around texts is no part of what ids mean.
        other, own = (t.with_framing("cls_sep") for t in (companion.source.tokenizer, tokenizer))
        if other.fingerprint != own.fingerprint:
            source = companion.source
            raise ValueError(
                f"the companion {companion.name} ({source.checkpoint}) reads tokenizer {other.fingerprint[:16]}..., this "
                f"run {own.fingerprint[:16]}...: equal ids would be other texts; set --data.tokenizer "
                f"{source.folder / TOKENIZER_FILE}"
            )


def place_companions(
    companions: Mapping[str, Params], network: Network, launcher: Launcher
) -> dict[str, Params]:
    """Their parameters on the devices in canonical form, laid out by the same rules as the model's."""
    networks = dict(network.companions)
    return {
        name: jax.tree.map(jax.device_put, params, launcher.shardings(params, networks[name].logical_axes()))
        for name, params in companions.items()
    }
