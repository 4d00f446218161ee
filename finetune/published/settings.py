"""Entries of a config.json, asked for by type and range: an error names the file, the entry and the value that is there."""

import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

Json = Mapping[str, Any]
LARGEST = 2**31 - 1
"""No size or number of a model is above it."""
_SHOWN = 80
_IDS, _SHARES = re.compile(r".*_token_id"), re.compile(r".*(dropout|pdrop|dropout_prob|dropout_rate)")


class Settings:
    """An object of a JSON file. Where an entry is missing, its default holds, which may be of any type."""

    def __init__(self, values: Json, file: str = "config.json", within: str = ""):
        """`within` stands before the names of entries in an error: of an object in an object, "outer."."""
        self.values, self.file, self._within = values, file, within

    def has(self, key: str) -> bool:
        """Whether there is such an entry; null is one."""
        return key in self.values

    def value(self, key: str, default: Any = None) -> Any:
        """An entry of any type."""
        return self.values[key] if key in self.values else default

    def integer(self, key: str, default: Any = None, least: int = 1, of: str = "") -> int:
        """A whole number; `of` is what it is here, for the error."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"which is no int{of and f' for {of}'}", value)
        self._bound(key, value, least, LARGEST)
        return value

    def number(
        self, key: str, default: Any = None, least: float = 0.0, below: float = math.inf, of: str = ""
    ) -> float:
        """A finite number, whole ones too."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            self.refuse(key, f"which is no float{of and f' for {of}'}", value)
        if value >= below:
            self.refuse(key, f"which is not below {below:g}", value)
        self._bound(key, value, least, LARGEST)
        return value

    def _bound(self, key: str, value: float, least: float, largest: float) -> None:
        if value < least:
            self.refuse(key, f"which is below {least}", value)
        if value > largest:
            self.refuse(key, f"which is above {largest:,}", value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; null where that is what no entry means, too."""
        value = self.value(key, default)
        if value is None and not default:
            return False
        if not isinstance(value, bool):
            self.refuse(key, "which is neither true nor false", value)
        return value

    def one_of(self, key: str, default: str, known: tuple[str, ...]) -> str:
        """One of these words."""
        value = self.value(key, default)
        if value not in known:
            self.refuse(key, f"but there are {' and '.join(map(repr, known))}", value)
        return str(value)

    def check_kinds(self) -> None:
        """Refuse ids of tokens that are none and rates of dropout that are none: exports carry them on."""
        for key, value in self.values.items():
            if value is None:
                continue
            if _SHARES.fullmatch(key):
                self.number(key)
            elif _IDS.fullmatch(key):
                ids = value if isinstance(value, list) else [value]
                if not ids or any(
                    isinstance(x, bool) or not isinstance(x, int) or abs(x) > LARGEST for x in ids
                ):
                    self.refuse(key, "which is no id of a token")

    def object(self, key: str) -> "Settings | None":
        """An object in this one; None where it is missing or null."""
        value = self.value(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, "which is no object", value)
        return None if value is None else Settings(value, self.file, f"{self._within}{key}.")

    def refuse(self, key: str, why: str, *found: Any) -> NoReturn:
        """Raise the ValueError that says what the entry is (or `found`, its default) and what is wrong with it."""
        value = repr(found[0] if found else self.value(key))
        value = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        said = value if key in self.values else f"missing (so {value})" if found else "missing"
        raise ValueError(f"{self.file}: {self._within}{key} is {said}, {why}")
