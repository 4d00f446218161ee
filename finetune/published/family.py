"""What a family of published models is: its configuration and its tensors, in our words. Knows no file and no family."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from flax import linen as nn

from finetune.published.rules import Rules
from model.config import TransformerConfig
from model.heads import Classifier, Discriminator, MaskedLMHead, Pooler

Json = Mapping[str, Any]
Heads = Mapping[str, Callable[[str, str], Rules]]
"""By our name of a head: (prefix, our path of it) -> its rules."""
_TOO_LARGE = 2**31
SPAN = "span"
"""Our name of the head that marks where an answer begins and ends."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One number of config.json and the field of our config that it is."""

    theirs: str
    ours: str
    default: Any
    """What their library takes where the file says nothing."""
    offset: int = 0
    """Theirs minus ours."""


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A key of config.json that our model computes with one value only, which is also what no key at all means."""

    theirs: str
    value: Any
    accepted: tuple[Any, ...] = ()
    """Other ways to say the same."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of published checkpoints."""

    model_type: str
    config: type[TransformerConfig]
    """Ours. Where a family has several (T5), `choose` says which."""
    fields: tuple[Field, ...]
    fixed: tuple[Fixed, ...]
    backbone: Callable[[Any, str], Rules]
    """(our config, prefix of their names) -> rules of the backbone."""
    prefix: str
    """What their headed models put before the names of the backbone."""
    architectures: Mapping[str, Heads]
    """Their classes, each with its heads; the first is the bare backbone, whose own heads may be missing."""
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Tensors of some files that say again what another one says: copy -> original. {p} is the prefix."""
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Patterns (of `re`) of tensors that are not read -> why."""
    read_more: Callable[[Json], dict[str, Any]] = lambda theirs: {}
    """Fields of ours that are no plain number of theirs."""
    write_more: Callable[[Any], dict[str, Any]] = lambda model: {}
    """The inverse, for config.json."""
    choose: Callable[[Json], type[TransformerConfig]] | None = None
    bare: Callable[[Any], Any] = lambda model: model
    """Our config for a file of the bare backbone, which has no table of the logits."""

    def read_config(self, theirs: Json) -> TransformerConfig:
        """Our config of a config.json; ValueError for what our model does not compute."""
        for fixed in self.fixed:
            found = theirs[fixed.theirs] if fixed.theirs in theirs else fixed.value
            if found != fixed.value and found not in fixed.accepted:
                raise ValueError(
                    f"config.json: {fixed.theirs} is {found!r}, but {self.config.__name__} computes {fixed.value!r} only"
                )
        kind = self.config if self.choose is None else self.choose(theirs)
        given = {f.ours: self._number(theirs, f, kind) for f in self.fields}
        try:
            return kind(**given, **self.read_more(theirs))
        except (ValueError, TypeError, KeyError, OverflowError, ArithmeticError) as error:
            raise ValueError(f"config.json: {str(error).removeprefix('config.json: ')}") from error

    def _number(self, theirs: Json, field: Field, kind: type[TransformerConfig]) -> Any:
        if field.theirs not in theirs and field.default is None:
            raise ValueError(
                f"config.json: {field.theirs} is missing, and {self.model_type} has no default for it"
            )
        value = theirs[field.theirs] if field.theirs in theirs else field.default
        wanted = get_type_hints(kind)[field.ours]
        fits = isinstance(value, int) or (
            wanted is float and isinstance(value, float) and math.isfinite(value)
        )
        if not fits or isinstance(value, bool) or abs(value) >= _TOO_LARGE:
            raise ValueError(
                f"config.json: {field.theirs} is {value!r}, which is no {wanted.__name__} for {field.ours}"
            )
        return value - field.offset

    def write_config(self, model: TransformerConfig) -> dict[str, Any]:
        """The config.json of our config."""
        written = {f.theirs: getattr(model, f.ours) + f.offset for f in self.fields}
        written |= {fixed.theirs: fixed.value for fixed in self.fixed}
        return {**written, **self.write_more(model), "model_type": self.model_type}

    def rules(self, model: TransformerConfig, heads: Heads, prefix: str) -> Rules:
        """Rules of the backbone and of these heads."""
        return self.backbone(model, prefix) + head_rules(heads, prefix)

    def architecture_of(self, heads: frozenset[str]) -> str | None:
        """The class with exactly these heads, if there is one."""
        return next((name for name, own in self.architectures.items() if frozenset(own) == heads), None)


def head_rules(heads: Heads, prefix: str) -> Rules:
    """Rules of these heads."""
    return tuple(rule for name, own in heads.items() for rule in own(prefix, f"heads/{name}"))


def head_module(name: str, model: TransformerConfig, classes: int) -> nn.Module:
    """The module behind one of our names."""
    if name == "masked_lm":
        return MaskedLMHead(model)
    if name == "pooler":
        return Pooler(model)
    if name == "discriminator":
        return Discriminator(model)
    if name in ("next_sentence", SPAN):
        return Classifier(model, 2)
    return Classifier(model, classes, model.dropout)
