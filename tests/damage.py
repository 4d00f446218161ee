"""Damage to files, for tests that demand one clear line of whatever reads them."""

import copy
import json

ODD = (
    None,
    True,
    -1,
    0,
    3,
    10**30,
    1e300,
    0.5,
    "",
    "x",
    "train.experiment:Run",
    "os:system",
    [],
    [1],
    {},
    {"type": 3},
    {"type": "x"},
)
"""Values put in the place of others."""


def mutated(value, chance):
    """A JSON value with one random thing in it changed: replaced, removed, added, renamed or nested."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    holder, key = chance.choice(places)
    kind = chance.randrange(5)
    if kind == 0:
        holder[key] = copy.deepcopy(chance.choice(ODD))
    elif kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[chance.choice(("type", "x", ""))] = copy.deepcopy(chance.choice(ODD))
    elif kind == 3 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = [holder[key]] if chance.random() < 0.5 else {"type": holder[key]}
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def damaged_bytes(content, chance):
    """A file's bytes with one bit flipped, cut short, or with something in them."""
    kind = chance.randrange(4)
    if kind == 0 or not content:
        return content[: chance.randrange(len(content) + 1)]
    if kind == 1:
        at = chance.randrange(len(content))
        return content[:at] + b"\0garbage" + content[at:]
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def nested(depth):
    """JSON text that is nested so deep."""
    return '{"a": ' * depth + json.dumps(None) + "}" * depth


def folder_instead(path):
    path.unlink()
    path.mkdir()
