"""The special tokens of a published tokenizer, and those that somebody added to it, from all the files that name them.

Where files differ, what transformers 5.24 does is followed: tokenizer_config.json counts with the added_tokens_decoder in
it; without one, special_tokens_map.json counts before it, and added_tokens.json and tokenizer.json say what was added.
Source: `_from_pretrained` in its tokenization_utils_base.py and `__init__` in its tokenization_utils_tokenizers.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_CONFIG, _ADDED = "tokenizer_config.json: added_tokens_decoder", "added_tokens.json"
_SENTINEL = "<extra_id_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """What is to be added to a vocabulary, in this order, and what the tokens are for."""

    roles: Mapping[str, str]
    """Tokens by role."""
    added: Sequence[AddedToken]
    """To be added one after another; a token that the vocabulary has keeps its id."""
    places: Mapping[str, tuple[str, int]]
    """Token -> the file that gives it an id, and the id."""

    def check(self, made: Tokenizer) -> None:
        """ValueError if a token has another id than its file says."""
        for token, (file, number) in self.places.items():
            if made.token_to_id(token) != number:
                raise ValueError(
                    f"{file} gives {token!r} the id {number}, but it is {made.token_to_id(token)}"
                )


def special_tokens(
    config: Mapping[str, Any],
    special_map: Mapping[str, Any],
    added: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    usual: Mapping[str, str],
    *,
    own: Sequence[Any] = (),
    spaced: Sequence[str] = (),
) -> SpecialTokens:
    """Gather them.

    Args:
      config: tokenizer_config.json.
      special_map: special_tokens_map.json.
      added: added_tokens.json, {token: id}.
      tokenizer: tokenizer.json, or empty.
      usual: the tokens of the class by role, where no file names one.
      own: tokens that the class or the vocabulary's own file adds, where tokenizer_config.json lists none.
      spaced: roles whose tokens take the space before them, where no file says it.

    Raises:
      ValueError: something there is no token.
    """
    decoded = "added_tokens_decoder" in config and config["added_tokens_decoder"] is not None
    said = {**config, **({} if decoded else special_map)}
    listed = _listed(config, {} if decoded else special_map, own)
    roles, more = _named(said, usual)
    places = dict[str, tuple[str, int]]()
    by_id = dict[int, AddedToken]()
    if decoded:
        for number, token in _object(config["added_tokens_decoder"], _CONFIG).items():
            by_id[_number(number, _CONFIG)] = added_token(token, _CONFIG)
        places = {token.content: (_CONFIG, number) for number, token in by_id.items()}
    else:
        special = {*roles.values(), *(token.content for token in listed)}
        for content, number in added.items():
            kind = content in special
            by_id[_number(number, _ADDED)] = AddedToken(content, normalized=not kind, special=kind)
            places[content] = (_ADDED, int(number))
        for token in tokenizer["added_tokens"] if "added_tokens" in tokenizer else ():
            by_id[_number(token["id"], "tokenizer.json")] = added_token(token, "tokenizer.json")
    known = {token.content: token for token in by_id.values()}
    adding = [by_id[number] for number in sorted(by_id)]
    of_roles = [_special(said, role, token, role in spaced) for role, token in roles.items()]
    for token in (*of_roles, *more, *listed):
        if token.content not in known:
            known[token.content] = token
            adding.append(token)
    named = {*roles.values(), *(token.content for token in more)}
    for token in adding:
        token.special = token.special or token.content in named
    return SpecialTokens(roles=roles, added=adding, places=places)


def _named(said: Mapping[str, Any], usual: Mapping[str, str]) -> tuple[dict[str, str], list[AddedToken]]:
    """Tokens by role, and those of roles that only this model knows."""
    roles: dict[str, str] = {}
    for role in ROLES:
        key = f"{role}_token"
        if key in said:
            token = said[key]
            if token is not None and token != "":
                roles[role] = added_token(token, key).content
        elif role in usual:
            roles[role] = usual[role]
    more = [
        added_token(token, key)
        for key, token in said.items()
        if key.endswith("_token")
        and key.removesuffix("_token") not in ROLES
        and isinstance(token, str | dict)
    ]
    extra = said["extra_special_tokens"] if "extra_special_tokens" in said else None
    if isinstance(extra, dict):
        more += [added_token(token, key) for key, token in extra.items()]
    return roles, more


def _special(said: Mapping[str, Any], role: str, content: str, spaced: bool) -> AddedToken:
    """The token of a role, with what its file says of the space around it."""
    key = f"{role}_token"
    token = said[key] if key in said else content
    plain = AddedToken(content, special=True, lstrip=spaced)
    found = added_token(token, key) if isinstance(token, dict) else plain
    found.special = True
    return found


def _listed(
    config: Mapping[str, Any], special_map: Mapping[str, Any], own: Sequence[Any]
) -> list[AddedToken]:
    """Further special tokens: those that are listed under the newer name, else under the older."""
    newer = tokens_listed(config, "extra_special_tokens") or tokens_listed(
        config, "additional_special_tokens"
    )
    newer = [
        *newer,
        *(token for token in tokens_listed(special_map, "extra_special_tokens") if token not in newer),
    ]
    tokens = newer or list(own) or tokens_listed(special_map, "additional_special_tokens")
    return [added_token(token, "additional_special_tokens") for token in tokens]


def tokens_listed(where: Mapping[str, Any], key: str) -> list[Any]:
    """A list of tokens in a file of settings; empty where there is none, or tokens by names."""
    value = where[key] if key in where and where[key] is not None else []
    if isinstance(value, dict):
        return []
    if not isinstance(value, list):
        raise ValueError(f"{key} is {value!r:.80}, which is no list of tokens")
    return value


def with_sentinels(config: Mapping[str, Any], tokens: Sequence[Any]) -> list[Any]:
    """These tokens, and T5's sentinels where there are none among them."""
    count = sentinels(config)
    there = sum(_SENTINEL in added_token(token, "additional_special_tokens").content for token in tokens)
    if there and count not in (0, there):
        raise ValueError(f"extra_ids is {count}, but additional_special_tokens has {there} sentinels")
    if there:
        return list(tokens)
    return [*tokens, *(f"{_SENTINEL}{i}>" for i in range(count))]


def sentinels(config: Mapping[str, Any]) -> int:
    """How many sentinels T5's class adds."""
    count = config["extra_ids"] if "extra_ids" in config else 100
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
        raise ValueError(f"tokenizer_config.json: extra_ids is {count!r}, which is no number of sentinels")
    return count


def added_token(token: Any, where: str) -> AddedToken:
    """A token, which files write as text or as an object; ValueError where it is neither."""
    if isinstance(token, AddedToken):
        return token
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if isinstance(token, dict) and "content" in token and isinstance(token["content"], str):
        settings = ("single_word", "lstrip", "rstrip", "normalized", "special")
        given = {key: token[key] for key in settings if key in token}
        if all(isinstance(value, bool) for value in given.values()):
            # Of a token that has a role, older files leave this out.
            return AddedToken(token["content"], **given)
    raise ValueError(f"{where} is {token!r:.80}, which is no token")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r:.80}, not an object")
    return value


def _number(value: Any, where: str) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) > 2**31:
        raise ValueError(f"{where} holds {value!r}, which is no id")
    return int(value)
