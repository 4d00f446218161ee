"""What a family of published models is: its configuration and its tensors, in our words. families.py lists them."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from flax import linen as nn

from finetune.published.rules import Rules
from finetune.published.settings import Json, Settings
from model.config import TransformerConfig
from model.heads import Classifier, Discriminator, MaskedLMHead, Pooler

Heads = Mapping[str, Callable[[str, str], Rules]]
"""By our name of a head: (prefix, our path of it) -> its rules."""
RATES = ("dropout", "attention_dropout")
"""Our fields that are below 1."""
TANH = "gelu_new"
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "gelu": ("gelu_python",),
    TANH: ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"),
    "silu": ("swish",),
    "relu": (),
}
"""Their names of activations, and other names of the same function (transformers/activations.py)."""
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
    alias: str = ""
    """Another key of the same, which counts where both are there."""

    def key(self, settings: Settings) -> str:
        """The key that counts."""
        return self.alias if self.alias and settings.has(self.alias) else self.theirs

    def read(self, settings: Settings, wanted: Any) -> float:
        """What is there, as our field."""
        key = self.key(settings)
        if wanted is int:
            least = (0 if self.ours in ("types", "window") else 1) + self.offset
            return settings.integer(key, self.default, least, of=self.ours) - self.offset
        return settings.number(key, self.default, below=1 if self.ours in RATES else math.inf, of=self.ours)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A key of config.json that our model computes with one value only, which is also what no key at all means."""

    theirs: str
    value: Any
    accepted: tuple[Any, ...] = ()
    """Other ways to say the same; null is one where the value is false."""

    def check(self, settings: Settings, ours: str) -> None:
        """Raise ValueError where the file says something else."""
        found = settings.value(self.theirs, self.value)
        same = (self.value, *self.accepted, *((None,) if self.value is False else ()))
        if found not in same:
            settings.refuse(self.theirs, f"but {ours} computes {self.value!r} only here")


def activation(theirs: str, name: str) -> Fixed:
    """A key that must name this activation, by whatever name."""
    return Fixed(theirs, name, accepted=ACTIVATIONS[name])


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
    read_more: Callable[[Settings], dict[str, Any]] = lambda theirs: {}
    """Fields of ours that are no plain number of theirs."""
    write_more: Callable[[Any], dict[str, Any]] = lambda model: {}
    """The inverse, for config.json."""
    usual: Json = dataclasses.field(default_factory=dict)
    """What config.json says besides, unless the one that was read said something else."""
    choose: Callable[[Settings], type[TransformerConfig]] | None = None
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

    def read_config(self, theirs: Json, file: str = "config.json") -> TransformerConfig:
        """Our config of a config.json (at `file`); ValueError for what our model does not compute, naming the entry."""
        settings = Settings(theirs, file)
        kind = self.config if self.choose is None else self.choose(settings)
        for fixed in self.fixed:
            fixed.check(settings, self.config.__name__)
        for field in self.fields:
            if field.default is None and not settings.has(field.theirs):
                settings.refuse(field.theirs, f"and {self.model_type} has no default for it")
        hints = get_type_hints(kind)
        given = {f.ours: f.read(settings, hints[f.ours]) for f in self.fields}
        given |= self.read_more(settings)
        settings.check_kinds()
        try:
            return kind(**given)
        except ValueError as error:
            said = [f for f in self.fields if re.search(rf"\b{f.ours}\b", str(error))]
            named = ", ".join(
                f"{f.key(settings)} is {settings.value(f.key(settings), f.default)}" for f in said
            )
            raise ValueError(f"{file}: {error}" + (f": {named}" if named else "")) from error

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
