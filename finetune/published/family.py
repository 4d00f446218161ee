"""What a family of published models is: its configuration and its tensors, in our words. families.py lists them."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

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
SCORE = "score"
"""Our name of the head that classifies a text by its last token."""


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
    prefixes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Classes that put something else before the names of the backbone."""
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Tensors of some files that say again what another one says: copy -> original. {p} is the prefix."""
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Patterns (of `re`) of tensors that are not read -> why."""
    read_more: Callable[[Json], dict[str, Any]] = lambda theirs: {}
    """Fields of ours that are no plain number of theirs."""
    write_more: Callable[[Any], dict[str, Any]] = lambda model: {}
    """The inverse, for config.json."""
    choose: Callable[[Json], type[TransformerConfig]] | None = None
    with_logits: str = ""
    """The class that alone has a table of the logits of its own; empty where none has, or all."""
    untabled: Callable[[Any], Any] = lambda model: model
    """Our config for the other classes."""
    pooling_key: str = ""
    """What config.json calls the way in which a text is pooled for its classifier; empty where there is one way only."""
    tokenizer_kinds: tuple[str, ...] = ()
    """Kinds of tokenizers that their class of it can be; empty is any."""
    names_types: bool = False
    """Whether their models take token_type_ids."""

    def read_config(self, theirs: Json) -> TransformerConfig:
        """Our config of a config.json; ValueError for what our model does not compute."""
        try:
            kind = self.config if self.choose is None else self.choose(theirs)
            self._check_fixed(theirs)
            hints = get_type_hints(kind)
            given = {f.ours: self._number(theirs, f, hints[f.ours]) for f in self.fields}
            more = self.read_more(theirs)
            for name, value in more.items():
                if not _fits(value, hints[name]):
                    raise ValueError(f"{name} would be {value!r}, which is no {_spelled(hints[name])}")
            return kind(**given, **more)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"config.json: {str(error).removeprefix('config.json: ')}") from error

    def _check_fixed(self, theirs: Json) -> None:
        for fixed in self.fixed:
            found = theirs[fixed.theirs] if fixed.theirs in theirs else fixed.value
            if found != fixed.value and found not in fixed.accepted:
                raise ValueError(
                    f"{fixed.theirs} is {found!r}, but {self.config.__name__} computes {fixed.value!r} only here"
                )

    def _number(self, theirs: Json, field: Field, wanted: Any) -> Any:
        if field.theirs not in theirs and field.default is None:
            raise ValueError(f"{field.theirs} is missing, and {self.model_type} has no default for it")
        value = theirs[field.theirs] if field.theirs in theirs else field.default
        if not _fits(value, wanted):
            raise ValueError(f"{field.theirs} is {value!r}, which is no {_spelled(wanted)} for {field.ours}")
        return value - field.offset

    def write_config(self, model: TransformerConfig) -> dict[str, Any]:
        """The config.json of our config."""
        written = {f.theirs: getattr(model, f.ours) + f.offset for f in self.fields}
        written |= {fixed.theirs: fixed.value for fixed in self.fixed}
        return {**written, **self.write_more(model), "model_type": self.model_type}

    def rules(self, model: TransformerConfig, heads: Heads, prefix: str) -> Rules:
        """Rules of the backbone and of these heads."""
        return self.backbone(model, prefix) + head_rules(heads, prefix)

    def model_of(self, model: Any, architecture: str) -> Any:
        """Our config as a file of this class has it: without a table of the logits where the class has none."""
        return model if self.with_logits in ("", architecture) else self.untabled(model)

    def prefix_of(self, architecture: str) -> str:
        """What this class puts before the names of the backbone."""
        if architecture == self.bare_architecture:
            return ""
        return self.prefixes[architecture] if architecture in self.prefixes else self.prefix

    @property
    def bare_architecture(self) -> str:
        """Their class without a head of its own."""
        return next(iter(self.architectures))


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value of JSON is of the type of a field, and of a size that a model could have."""
    options = get_args(wanted) or (wanted,)
    if value is None or isinstance(value, bool):
        return type(value) in options
    if isinstance(value, int):
        return (int in options or float in options) and abs(value) < _TOO_LARGE
    return isinstance(value, float) and float in options and math.isfinite(value) and abs(value) < _TOO_LARGE


def _spelled(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted)


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
    if name == SCORE:
        return Classifier(model, classes, bias=False)
    if name in ("next_sentence", SPAN):
        return Classifier(model, 2)
    return Classifier(model, classes, model.dropout)
