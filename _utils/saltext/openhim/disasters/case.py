"""One disaster: a folder with what stands where, what happens, and what must be answered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from saltext.openhim import schema, settings
from saltext.openhim.disasters import vocabulary
from saltext.openhim.disasters.vocabulary import Happening, named
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import layout, preflight
from saltext.openhim.recovery.layout import Layout
from saltext.openhim.recovery.observations import Evidence, Status
from saltext.openhim.schema.kinds import (
    DROPPED,
    Either,
    Flag,
    Free,
    Key,
    Kind,
    ListOf,
    MapOf,
    Text,
    Tree,
    did_you_mean,
)
from saltext.openhim.settings import Stack

README = "README.md"
TOPOLOGY = "topology.yaml"
HAPPENS = "happens.yaml"
EXPECTED = "expected.yaml"

#: LibYAML's, where it is there, reads a declaration ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: What a member or a core may count as, beside a state such as SECONDARY.
STATUSES = tuple(status.name.lower() for status in Status)
STATES = ("PRIMARY", "SECONDARY", "RECOVERING", "ROLLBACK", "STARTUP2", "not initiated")


class CaseError(OpenHIMError):
    """A case says what it may not say; ``problems`` names each by file and path."""

    def __init__(self, name: str, problems: list[str]):
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        head = f"{count} in the disaster {name!r}:"
        super().__init__("\n".join([head, *(f"  - {one}" for one in problems)]))


@dataclass(frozen=True)
class WayForward:
    """What to do. words: for a person. happens: what that changes. then: the verdict (such as
    ``failover south``) that is ``allowed`` after it. resync: whether that request asks for it."""

    words: str
    happens: tuple[Happening, ...] = ()
    then: str = ""
    resync: bool = False


@dataclass(frozen=True)
class Expected:
    """What must be answered.

    silent: the hosts that are not heard, all of them. members, cores: what each counts as, a status
    or a state, or several. allowed: all verdicts that are; every other one must be refused.
    refused: words that the reasons must have, by verdict.
    """

    silent: tuple[str, ...]
    members: Mapping[str, tuple[str, ...]]
    cores: Mapping[str, tuple[str, ...]]
    allowed: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    way_forward: WayForward


@dataclass(frozen=True)
class Case:
    """One disaster. about: its README. pillar: the declaration that it is about."""

    name: str
    title: str
    about: str
    pillar: Mapping[str, Any]
    happens: tuple[Happening, ...]
    expected: Expected

    @cached_property
    def stack(self) -> Stack:
        """What its pillar declares."""
        return settings.from_pillar(self.pillar)


def cases(folder: str | Path) -> list[str]:
    """The names of the cases in a folder: each is a folder with a ``happens.yaml``."""
    return sorted(path.parent.name for path in Path(folder).glob(f"*/{HAPPENS}"))


def title(folder: str | Path) -> str:
    """The heading of a case.

    Raises :class:`CaseError` when it has none.
    """
    folder = _there(folder, (README,))
    problems: list[str] = []
    found, _ = _readme(folder, {}, problems)
    if problems:
        raise CaseError(folder.name, problems)
    return found


def read(folder: str | Path) -> Case:
    """The case in a folder.

    Raises :class:`CaseError` with everything that is wrong in its files.
    """
    folder = _there(folder, (README, TOPOLOGY, HAPPENS, EXPECTED))
    problems: list[str] = []
    heading, about = _readme(folder, {}, problems)
    pillar = _topology(folder, problems)
    happens, expected = (_yaml(folder, name, problems) for name in (HAPPENS, EXPECTED))
    if problems:
        raise CaseError(folder.name, problems)
    stack = settings.from_pillar(pillar)
    table = vocabulary.OneOf(vocabulary.table(stack))
    before = ListOf(table, at_least=1).check(happens, HAPPENS, problems)
    said = _expected_kind(stack, table).check(expected, EXPECTED, problems)
    if not problems:
        problems += [
            f"{EXPECTED}:refused:{name}: found it under allowed, too; allowed one of both"
            for name in said["refused"]
            if name in said["allowed"]
        ]
    if problems:
        raise CaseError(folder.name, problems)
    return Case(folder.name, heading, about, pillar, tuple(before), _expected(said))


def read_for(folder: str | Path, pillar: Mapping[str, Any], names: Mapping[str, str]) -> Case:
    """The case in a folder as it would be for another stack, before any recovery of that one.

    names: site or host of the case → that of the stack, where they are not called the same. Of what
    is expected only the way forward is left: the rest is of the case's own topology.

    Raises :class:`CaseError` with everything that is wrong, such as a host that is not there.
    """
    folder = _there(folder, (README, HAPPENS, EXPECTED))
    problems: list[str] = []
    heading, about = _readme(folder, names, problems)
    happens, expected = (_yaml(folder, name, problems, names) for name in (HAPPENS, EXPECTED))
    openhim = {key: value for key, value in pillar["openhim"].items() if key != "recovery"}
    stack = settings.from_pillar({"openhim": openhim})
    table = vocabulary.OneOf(vocabulary.table(stack))
    if not problems:
        before = ListOf(table, at_least=1).check(happens, HAPPENS, problems)
        kind = Tree({"way_forward": _expected_kind(stack, table).keys["way_forward"]}, open=True)
        said = kind.check(expected, EXPECTED, problems)
    if problems:
        hint = "say with names which site or host of this stack is meant, or take another disaster"
        raise CaseError(folder.name, [*problems, hint])
    way = _way_forward(said["way_forward"])
    nothing = Expected((), {}, {}, (), {}, way)
    return Case(folder.name, heading, about, {"openhim": openhim}, tuple(before), nothing)


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A text in which names of a case's stack are those of another."""
    if not names:
        return text
    longest = sorted(names, key=len, reverse=True)
    pattern = r"(?<![\w-])(" + "|".join(map(re.escape, longest)) + r")(?![\w-])"
    return re.sub(pattern, lambda found: str(names[found[1]]), text)


def _there(folder: str | Path, files: Sequence[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        near = did_you_mean(folder.name, tuple(cases(folder.parent)))
        raise CaseError(folder.name, [f"found no folder of that name in {folder.parent}{near}"])
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CaseError(folder.name, [f"{name}: found no such file" for name in missing])
    return folder


def _readme(folder: Path, names: Mapping[str, str], problems: list[str]) -> tuple[str, str]:
    """Heading and paragraph."""
    text = renamed((folder / README).read_text(encoding="utf-8"), names)
    heading, _, about = text.partition("\n")
    if not heading.startswith("# ") or not about.strip():
        problems.append(f"{README}: found no heading with a paragraph; allowed '# Title' and text")
    return heading.removeprefix("# ").strip(), about.strip()


def requests(stack: Stack) -> list[str]:
    """The names of all verdicts that a preflight of the stack gives: ``failover south``…"""
    empty = Evidence(layout_of(stack), (), "")
    return [verdict_name(vars(one)) for one in preflight.requests(empty)]


def verdict_name(one: Mapping[str, Any]) -> str:
    """What a request or a verdict is called: its verb, site and host, as far as it has them."""
    return " ".join(filter(None, (one["verb"], one["site"], one["host"])))


def layout_of(stack: Stack) -> Layout:
    """What a recovery must know of a declaration, as the preflight has it."""
    plan = layout.from_stack(stack)
    targets = stack.declared.get("targets") or {}
    return replace(plan, max_lag=float(targets.get("rpo_seconds", plan.max_lag)))


def _topology(folder: Path, problems: list[str]) -> dict[str, Any]:
    entry = _yaml(folder, TOPOLOGY, problems)
    kind = Tree(
        {
            "pillar": Key(Text(words="a file, relative to the case"), "", required=True),
            "differences": Key(Free(), "Laid over openhim; nothing (null) takes a key away."),
        }
    )
    checked = kind.check(entry, TOPOLOGY, problems) if entry is not DROPPED else DROPPED
    if checked is DROPPED or "pillar" not in checked:
        return {}
    pillar = _yaml(folder, checked["pillar"], problems)
    if not isinstance(pillar, Mapping):
        return {}
    declared = _with(pillar.get("openhim") or {}, checked.get("differences") or {})
    problems += [f"{TOPOLOGY}: {one}" for one in schema.check({"openhim": declared})]
    return {"openhim": declared}


def _with(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top; what is nothing (null) there is taken away."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = _with(result[key], value)
        else:
            result[key] = value
    return result


def _yaml(
    folder: Path, name: str, problems: list[str], names: Mapping[str, str] | None = None
) -> Any:
    try:
        text = renamed((folder / name).read_text(encoding="utf-8"), names or {})
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe one
    except OSError as error:
        problems.append(f"{name}: cannot be read: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"{name}: is no YAML: {' '.join(str(error).split())}")
    return DROPPED


def _expected_kind(stack: Stack, happening: Kind) -> Tree:
    members = {m.host.id for rs in stack.replica_sets.values() for m in rs.members}
    cores = [one.id for one in stack.hosts_with("core")]
    seen = named("what it counts as", (*STATUSES, *STATES))
    counts = Either(seen, ListOf(seen, at_least=1))
    verdict = named("a verdict", requests(stack))
    words = Either(Text(), ListOf(Text(), at_least=1))
    asked = named("a host with a member or a core", {*members, *cores})
    return Tree(
        {
            "silent": Key(ListOf(asked), "", required=True),
            "members": Key(MapOf(counts, named("a host with a member", members)), "", True),
            "cores": Key(MapOf(counts, named("a host with a core", cores)), "", True),
            "allowed": Key(ListOf(verdict), "", required=True),
            "refused": Key(MapOf(words, verdict), "", required=True),
            "way_forward": Key(
                Tree(
                    {
                        "words": Key(Text(), "", required=True),
                        "happens": Key(ListOf(happening), ""),
                        "then": Key(verdict, ""),
                        "resync": Key(Flag(), "", default="false"),
                    }
                ),
                "",
                required=True,
            ),
        }
    )


def _expected(said: Mapping[str, Any]) -> Expected:
    return Expected(
        tuple(said["silent"]),
        {host: _several(value) for host, value in said["members"].items()},
        {host: _several(value) for host, value in said["cores"].items()},
        tuple(said["allowed"]),
        {name: _several(value) for name, value in said["refused"].items()},
        _way_forward(said["way_forward"]),
    )


def _way_forward(way: Mapping[str, Any]) -> WayForward:
    return WayForward(
        way["words"],
        tuple(way.get("happens") or ()),
        way.get("then", ""),
        way.get("resync", False),
    )


def _several(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
