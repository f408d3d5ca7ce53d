"""The kinds of values that the pillar's table is made of, and how each is checked.

``check(value, path, problems)`` adds what is wrong to ``problems`` and returns the value without
its malformed parts, so that what belongs together can still be judged: one run finds all problems.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Returned in the place of a value that is of the wrong kind.
DROPPED: Any = type("Dropped", (), {"__repr__": lambda self: "DROPPED"})()


def shown(value: Any) -> str:
    """A value in words, short enough for an error."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        # The classic trap: a country code or an answer that YAML 1.1 reads as a boolean.
        return f"the boolean {str(value).lower()} (YAML reads unquoted yes, no, on and off so)"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else repr(value[:77] + "...")
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return f"a {type(value).__name__} ({value}; quote it, if a text is meant)"


def _has_parts(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def problem(path: str, found: str, allowed: str) -> str:
    """One finding, in the form that all have."""
    return f"{path}: found {found}; allowed {allowed}"


class Kind:
    """What a value may be."""

    @property
    def words(self) -> str:
        """Its name in errors and in the reference."""
        return "anything"

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """Add what is wrong with ``value`` to ``problems``; return what is well-formed of it."""
        if self.accepts(value):
            return value
        problems.append(problem(path, self.found(value), self.words + self.hint(value)))
        return DROPPED

    def accepts(self, value: Any) -> bool:
        """Whether the value is of this kind (for the kinds without parts)."""
        return True

    def found(self, value: Any) -> str:
        """The value in words."""
        return shown(value)

    def hint(self, value: Any) -> str:
        """What to do about a wrong value, when that is known."""
        return ""


@dataclass(frozen=True)
class Text(Kind):
    """A text; one of ``choices``, or wholly matching ``pattern``, when these are given."""

    words: str = "a text"
    choices: tuple[str, ...] = ()
    pattern: str = r"(?s).+"

    def accepts(self, value: Any) -> bool:
        """Whether it is a text, allowed here."""
        if not isinstance(value, str):
            return False
        return value in self.choices if self.choices else bool(re.fullmatch(self.pattern, value))

    def hint(self, value: Any) -> str:
        """Quotes, or the choice that was probably meant."""
        if isinstance(value, (bool, int, float)):
            return " (in quotes)" if not self.choices else ""
        return did_you_mean(value, self.choices)


def choice(*choices: str) -> Text:
    """One of a few words."""
    return Text(words=" or ".join(choices), choices=choices)


@dataclass(frozen=True)
class Secret(Text):
    """A text that is never shown, however wrong it is."""

    words: str = "a text that is not empty"

    def found(self, value: Any) -> str:
        """Only what kind of value it is."""
        if isinstance(value, str):
            return "an empty text" if not value else "a text"
        words = {bool: "a boolean", int: "a number", float: "a number"}
        return words.get(type(value)) or shown(value if _has_parts(value) else None)

    def hint(self, value: Any) -> str:
        """Quotes, where YAML made something else of a secret."""
        return " (in quotes)" if isinstance(value, (bool, int, float)) else ""


@dataclass(frozen=True)
class Number(Kind):
    """A number between two bounds, both allowed; ``whole`` refuses fractions."""

    minimum: float = 0
    maximum: float | None = None
    whole: bool = True

    @property
    def words(self) -> str:
        """Its bounds in words."""
        name = "a whole number" if self.whole else "a number"
        if self.maximum is None:
            return f"{name} from {self.minimum}"
        return f"{name} from {self.minimum} to {self.maximum}"

    def accepts(self, value: Any) -> bool:
        """Whether it is a number within the bounds; a boolean is none."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return value >= self.minimum and (self.maximum is None or value <= self.maximum)

    def hint(self, value: Any) -> str:
        """A number in quotes is a text."""
        return " (without quotes)" if isinstance(value, str) and value.isdigit() else ""


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    words: str = "true or false"

    def accepts(self, value: Any) -> bool:
        """Whether it is a boolean."""
        return isinstance(value, bool)

    def hint(self, value: Any) -> str:
        """A boolean in quotes is a text."""
        return " (without quotes)" if value in ("true", "false", "yes", "no") else ""


@dataclass(frozen=True)
class Address(Kind):
    """An IP address; with ``network``, also a network."""

    network: bool = False

    @property
    def words(self) -> str:
        """Address, or address and network."""
        both = "an IP address or a network such as '10.20.0.0/16'"
        return both if self.network else "an IP address"

    def accepts(self, value: Any) -> bool:
        """Whether it is an address; host bits in a network are an error of the writer."""
        if not isinstance(value, str):
            return False
        try:
            (ipaddress.ip_network if self.network else ipaddress.ip_address)(value)
        except ValueError:
            return False
        return True

    def hint(self, value: Any) -> str:
        """The network that was probably meant."""
        if self.network and isinstance(value, str):
            try:
                return f" (did you mean {str(ipaddress.ip_network(value, strict=False))!r}?)"
            except ValueError:
                pass
        return ""


@dataclass(frozen=True)
class Free(Kind):
    """A mapping that is passed on as it is: its keys belong to another program."""

    words: str = "a mapping"

    def accepts(self, value: Any) -> bool:
        """Whether it is a mapping."""
        return isinstance(value, Mapping)


@dataclass(frozen=True)
class ListOf(Kind):
    """A list, each item of one kind."""

    item: Kind
    at_least: int = 0

    @property
    def words(self) -> str:
        """What its items are."""
        least = f" with at least {self.at_least} item" if self.at_least else ""
        return f"a list{least}, each item {self.item.words}"

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """Check every item; well-formed items stay."""
        if not isinstance(value, (list, tuple)) or len(value) < self.at_least:
            problems.append(problem(path, shown(value), self.words))
            return DROPPED
        items = [self.item.check(v, f"{path}:{i}", problems) for i, v in enumerate(value)]
        return [item for item in items if item is not DROPPED]


@dataclass(frozen=True)
class MapOf(Kind):
    """A mapping whose keys are names that the writer chooses."""

    value: Kind
    key: Text = field(default_factory=Text)
    at_least: int = 0

    @property
    def words(self) -> str:
        """What its keys and values are."""
        least = "with at least one entry, " if self.at_least else ""
        return f"a mapping, {least}from {self.key.words} to {self.value.words}"

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """Check keys and values; an entry with a malformed value stays as an empty one."""
        if not isinstance(value, Mapping) or len(value) < self.at_least:
            problems.append(problem(path, shown(value), self.words))
            return DROPPED
        kept = {}
        for key, entry in value.items():
            if not self.key.accepts(key):
                found = f"{shown(key)} as a key"
                problems.append(
                    problem(f"{path}:{key}", found, self.key.words + self.key.hint(key))
                )
                continue
            checked = self.value.check(entry, f"{path}:{key}", problems)
            # The name is declared, whatever is wrong with its entry: what refers to it is right.
            kept[key] = (
                ({} if isinstance(self.value, Tree) else None) if checked is DROPPED else checked
            )
        return kept


@dataclass(frozen=True)
class Key:
    """One key of a :class:`Tree`."""

    kind: Kind
    description: str
    required: bool = False
    default: str = ""


@dataclass(frozen=True)
class Tree(Kind):
    """A mapping with known keys. ``open`` lets other keys through (another program's)."""

    keys: Mapping[str, Key]
    open: bool = False
    empty: bool = False
    words: str = "a mapping"

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """Check every key; unknown ones and missing required ones are problems."""
        if self.empty and value is None:
            value = {}
        if not isinstance(value, Mapping):
            problems.append(problem(path, shown(value), self.words))
            return DROPPED
        kept = {}
        for name, entry in value.items():
            if name not in self.keys:
                if not self.open:
                    problems.append(self._unknown(name, path))
                continue
            checked = self.keys[name].kind.check(entry, f"{path}:{name}", problems)
            if checked is not DROPPED:
                kept[name] = checked
        problems += [
            problem(f"{path}:{name}", "nothing", f"{key.kind.words} (required)")
            for name, key in self.keys.items()
            if key.required and name not in value
        ]
        return kept

    def _unknown(self, name: Any, path: str) -> str:
        allowed = ", ".join(sorted(self.keys)) or "no keys yet"
        return problem(
            f"{path}:{name}", "an unknown key", allowed + did_you_mean(name, tuple(self.keys))
        )


@dataclass(frozen=True)
class Either(Kind):
    """One of several kinds: the first that accepts the outer form of the value checks it."""

    simple: Kind
    nested: Kind

    @property
    def words(self) -> str:
        """Both."""
        return f"{self.simple.words}, or {self.nested.words}"

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """Mappings and lists are the nested kind's, all else the simple one's."""
        if _has_parts(value):
            return self.nested.check(value, path, problems)
        if self.simple.accepts(value):
            return value
        problems.append(problem(path, shown(value), self.words + self.simple.hint(value)))
        return DROPPED


def did_you_mean(name: Any, known: tuple[str, ...]) -> str:
    """The known name that ``name`` is nearly, as the end of a sentence; empty without one."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.7)
    return f" (did you mean {near[0]!r}?)" if near else ""
