"""A published checkpoint as a network of ours with its parameters, and the account of every tensor."""

import dataclasses
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from finetune.published.classes import choose_architecture, class_names
from finetune.published.families import family_of
from finetune.published.family import SCORE, Family, Heads, head_module, head_rules
from finetune.published.files import PublishedFiles
from finetune.published.folders import modules_left_out
from finetune.published.names import tensor_names
from finetune.published.rules import Rules, Shapes, leaf_slice
from model.config import TransformerConfig
from model.network import Network, Params
from objectives.segments import Pooling
from train.checkpoint import flat
from train.launch import Launcher
from train.passport import Entry, Passport
from train.tree import nest

log = logging.getLogger(__name__)
_SHOWN = 8


class Published(NamedTuple):
    """A published checkpoint, read."""

    network: Network
    params: Params
    passport: Passport
    family: Family
    architecture: str
    classes: tuple[str, ...]
    """Names of the classifier's classes, where it has one."""
    files: PublishedFiles
    """What it was read from."""

    @property
    def dtype(self) -> str:
        """The dtype of most of its numbers."""
        return self.files.dtype

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return self.files.config

    @property
    def pooling(self) -> Pooling:
        """What stands for a text where its class classifies texts."""
        if any(name == SCORE for name, _ in self.network.heads):
            return "last"
        key = self.family.pooling_key
        return "mean" if key in self.config and self.config[key] == "mean" else "cls"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is read from which tensor."""

    files: PublishedFiles
    family: Family
    model: TransformerConfig
    without_logits: bool
    """Whether the class leaves the table of the logits behind that config.json says there is."""
    architecture: str
    asked: bool
    """Whether the user named the class."""
    prefix: str
    spelled: dict[str, str]
    """Name as it is today -> name in the file."""

    def fetch(self, name: str) -> np.ndarray:
        return self.files.fetch(self.spelled[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files.tensors[self.spelled[name]].shape


def read(folder: str | Path, *, architecture: str = "", launcher: Launcher | None = None) -> Published:
    """The network and parameters of a published checkpoint.

    Args:
      folder: where its config.json and its weights are: model.safetensors, or flax_model.msgpack, or shards.
      architecture: their class whose heads are taken ("BertForMaskedLM"); empty is the one that config.json names.
      launcher: places each parameter on its devices as it is read; None leaves numpy arrays.

    Returns:
      Parameters are float32, whatever the file has.

    Raises:
      ValueError, FileNotFoundError: the files are damaged, of an unknown family, or contradict each other.
    """
    plan = _plan(PublishedFiles(folder), architecture)
    heads = _heads(plan)
    classifies = {"classifier", "token_classifier", SCORE} & heads.keys()
    classes = class_names(plan.files.config, plan.files.config_file) if classifies else ()
    modules = tuple((name, head_module(name, plan.model, len(classes))) for name in heads)
    network = Network(plan.model.build(), modules)
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    rules = plan.family.rules(plan.model, heads, plan.prefix)
    shapes = {"/".join(path): leaf.shape for path, leaf in flat(abstract).items()}
    _check(plan, rules, shapes)
    dropped = list(_account(plan, rules, shapes))
    params = _params(plan, rules, shapes, network, abstract, launcher)
    sources = {path: rule.theirs for rule in rules for path in rule.ours}
    entries = [
        Entry(path=path, status="restored", why=f"from {sources[path]}", shape=shape, stored=shape)
        for path, shape in shapes.items()
    ]
    return Published(
        network=network,
        params=params,
        passport=Passport(source=str(plan.files.folder), entries=(*entries, *dropped)),
        family=plan.family,
        architecture=plan.architecture,
        classes=classes,
        files=plan.files,
    )


def _plan(files: PublishedFiles, architecture: str) -> _Plan:
    family = family_of(files.config, files.config_file)
    stated = family.read_config(files.config, files.config_file)
    prefixes = (family.prefix, *family.prefixes.values())
    names = tensor_names(files.tensors, family.backbone(stated, "")[0].theirs, prefixes, files.folder)
    if names.left_out:
        log.warning(f"{files.folder}: {', '.join(names.left_out)} is left out of the names of its tensors")
    if modules := modules_left_out(files.folder):
        log.warning(f"{files.folder}: {', '.join(modules)} is not read: hidden states are those before it")
    chosen = architecture or choose_architecture(
        family, files.config, files.config_file, names.prefix, names.spelled, stated.tied
    )
    if not architecture and ("architectures" not in files.config or not files.config["architectures"]):
        log.warning(f"{files.config_file} names no architectures: the tensors are those of {chosen}")
    if chosen not in family.architectures:
        raise ValueError(
            f"{files.config_file}: architecture {chosen!r} of {family.model_type} cannot be read; choose one of "
            f"{', '.join(family.architectures)} with --architecture: heads that it lacks are left behind"
        )
    model = family.model_of(stated, chosen)
    return _Plan(
        files=files,
        family=family,
        model=model,
        without_logits=model != stated,
        architecture=chosen,
        asked=bool(architecture),
        prefix=names.prefix,
        spelled=names.spelled,
    )


def _heads(plan: _Plan) -> Heads:
    """Those of the architecture; a bare backbone may lack its own."""
    heads = plan.family.architectures[plan.architecture]
    if plan.architecture != plan.family.bare_architecture:
        return heads
    return {
        name: own
        for name, own in heads.items()
        if any(rule.theirs in plan.spelled for rule in head_rules({name: own}, plan.prefix))
    }


def _check(plan: _Plan, rules: Rules, shapes: Shapes) -> None:
    """Every tensor that is needed is there, and of the shape that config.json asks for."""
    problems = []
    for rule in rules:
        if rule.layers(shapes) > len(plan.spelled):
            raise ValueError(
                f"{plan.files.config_file} asks for {rule.layers(shapes):,} layers, but the file has "
                f"{len(plan.spelled)} tensors"
            )
        wanted = rule.their_shape(shapes)
        for name in rule.names(shapes):
            if name not in plan.spelled:
                problems.append(f"{name} {list(wanted)} is missing")
            elif plan.shape(name) != wanted:
                problems.append(
                    f"{plan.spelled[name]} has shape {list(plan.shape(name))}, but config.json asks for {list(wanted)}"
                )
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        wanted = {name for rule in rules for name in rule.names(shapes)}
        others = [there for name, there in plan.spelled.items() if name not in wanted][:_SHOWN]
        found = f"; what is there instead begins with {', '.join(others)}" if others else ""
        raise ValueError(
            f"{plan.files.folder} is no whole {plan.architecture}: {'; '.join(problems[:_SHOWN])}{more}{found}"
        )


def _account(plan: _Plan, rules: Rules, shapes: Shapes) -> Iterator[Entry]:
    """An entry for every tensor that is not read; ValueError for those that nothing explains."""
    used = {name for rule in rules for name in rule.names(shapes)}
    others = {
        rule.theirs: architecture
        for architecture, heads in plan.family.architectures.items()
        for rule in head_rules(heads, plan.prefix)
    }
    copies = {copy: original.replace("{p}", plan.prefix) for copy, original in plan.family.copies.items()}
    unexpected = []
    for name in plan.spelled:
        if name in used:
            continue
        shape = plan.shape(name)
        entry = functools.partial(Entry, path=name, status="dropped", shape=shape, stored=shape)
        why = next((why for pattern, why in plan.family.ignored.items() if re.fullmatch(pattern, name)), "")
        if name in copies and plan.without_logits:
            yield entry(why=f"the table of the logits, which {plan.architecture} has not")
        elif name in copies:
            original = copies[name]
            if original not in plan.spelled or not np.array_equal(plan.fetch(name), plan.fetch(original)):
                untied = (
                    "; for two, set tie_word_embeddings to false there" if plan.family.with_logits else ""
                )
                raise ValueError(
                    f"{plan.files.folder}: {name} differs from {original}, but config.json asks for one for both{untied}"
                )
            yield entry(why=f"says again what {original} says")
        elif why:
            yield entry(why=why)
        elif name in others:
            yield entry(why=f"of {others[name]}, not of {plan.architecture}")
        elif plan.asked and plan.prefix and not name.startswith(plan.prefix):
            yield entry(why=f"of another head, not of {plan.architecture}")
        else:
            unexpected.append(f"{plan.spelled[name]} {list(shape)}")
    if unexpected:
        more = f" and {len(unexpected) - _SHOWN} more" if len(unexpected) > _SHOWN else ""
        raise ValueError(
            f"{plan.files.folder} has tensors that no {plan.family.model_type} of this config.json has: "
            f"{', '.join(unexpected[:_SHOWN])}{more}"
        )


def _params(
    plan: _Plan, rules: Rules, shapes: Shapes, network: Network, abstract: Params, launcher: Launcher | None
) -> Params:
    """Leaf by leaf, and each device's part of it by itself: no more than that and one tensor is held beside them."""
    shardings = (
        {}
        if launcher is None
        else {"/".join(p): s for p, s in flat(launcher.shardings(abstract, network.logical_axes())).items()}
    )
    leaves: dict[tuple[str, ...], Any] = {}
    for path, shape in shapes.items():
        part = functools.partial(leaf_slice, path, rules=rules, shapes=shapes, fetch=plan.fetch)
        if launcher is None:
            leaves[tuple(path.split("/"))] = part(tuple(slice(None) for _ in shape))
        else:
            leaves[tuple(path.split("/"))] = jax.make_array_from_callback(shape, shardings[path], part)
    return {"backbone": {}, "heads": {}} | nest(leaves)
