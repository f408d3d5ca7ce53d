"""What can happen to a stack, in the words of ``happens.yaml``, for the names of one declaration.

Each word is played by :mod:`.world` on paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saltext.openhim.schema.kinds import (
    DROPPED,
    Flag,
    Key,
    Kind,
    ListOf,
    Number,
    Text,
    Tree,
    choice,
    did_you_mean,
    problem,
    shown,
)
from saltext.openhim.settings import Stack


@dataclass(frozen=True)
class Happening:
    """One thing that happens. values: what the word asks for, such as ``site``."""

    word: str
    values: Mapping[str, Any]

    @property
    def words(self) -> str:
        """It as one clause, for a person: ``power_lost: site north``."""
        told = (f"{key} {_plain(value)}" for key, value in self.values.items())
        return f"{self.word}: {', '.join(told)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class Place(Tree):
    """Either one site or one host."""

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """As a mapping; and one of both must be said, not two."""
        checked = super().check(value, path, problems)
        given = [name for name in ("site", "host") if isinstance(value, Mapping) and name in value]
        if isinstance(value, Mapping) and len(given) != 1:
            found = "both a site and a host" if given else "neither a site nor a host"
            problems.append(problem(path, found, "one of them"))
            return DROPPED
        return checked


@dataclass(frozen=True)
class OneOf(Kind):
    """A mapping with one key, which is a word of the vocabulary."""

    table: Mapping[str, Tree]

    @property
    def words(self) -> str:
        """All words."""
        return "one of " + ", ".join(self.table)

    def check(self, value: Any, path: str, problems: list[str]) -> Any:
        """The happening that it is."""
        if not isinstance(value, Mapping) or len(value) != 1:
            found = shown(value)
            if isinstance(value, Mapping) and value:
                found = f"{len(value)} keys ({', '.join(map(str, value))})"
            problems.append(problem(path, found, "a mapping with one key, " + self.words))
            return DROPPED
        ((word, values),) = value.items()
        if word not in self.table:
            allowed = self.words + did_you_mean(word, tuple(self.table))
            problems.append(problem(f"{path}:{word}", "an unknown word", allowed))
            return DROPPED
        before = len(problems)
        checked = self.table[word].check(values, f"{path}:{word}", problems)
        return DROPPED if len(problems) > before else Happening(word, checked)


def named(what: str, names: Any) -> Text:
    """A name that is declared."""
    known = tuple(sorted(names))
    return Text(words=f"{what}: {', '.join(known) or 'none is declared'}", choices=known or ("",))


def table(stack: Stack) -> dict[str, Tree]:
    """Every word with what it asks for; a name is checked against the stack's declaration."""
    site = named("a site", stack.sites)
    host = named("a host", stack.hosts)
    member = named(
        "a host with a member",
        {m.host.id for rs in stack.replica_sets.values() for m in rs.members},
    )
    core = named("a host with a core", (one.id for one in stack.hosts_with("core")))
    repositories = (stack.declared.get("backup") or {}).get("repositories") or {}
    repository = named("a repository", repositories)
    seconds = Key(Number(minimum=-86400, maximum=86400, whole=False), "Seconds.", required=True)
    place = Place({"site": Key(site, "All its hosts."), "host": Key(host, "This one.")})
    return {
        "power_lost": place,
        "power_back": place,
        "isolated": place,
        "partitioned": Tree(
            {"one": Key(site, "", required=True), "other": Key(site, "", required=True)}
        ),
        "network_back": place,
        "frozen": place,
        "thawed": place,
        "minion_stopped": place,
        "minion_started": place,
        "mongod_stopped": _of("host", member),
        "mongod_hangs": _of("host", member),
        "mongod_started": _of("host", member),
        "unauthorized": _of("host", member),
        "foreign_set": _of("host", member),
        "lagging": Tree({"host": Key(member, "", required=True), "seconds": seconds}),
        "disk_full": _of("host", member),
        "data_lost": _of("host", member),
        "data_corrupted": _of("how", Text()),
        "core_stopped": _of("host", core),
        "core_started": _of("host", core),
        "repository_unreachable": _of("repository", repository),
        "repository_unauthorized": _of("repository", repository),
        "repository_back": _of("repository", repository),
        "new_master": Tree(
            {
                "site": Key(site, "Where it stands.", required=True),
                "record": Key(choice("kept", "lost"), "Of recoveries.", default="kept"),
            }
        ),
        "recovered": Tree(
            {
                "kind": Key(choice("failover", "switchover", "failback", "rebuild"), ""),
                "to": Key(site, "The new active site.", required=True),
                "gave_up": Key(ListOf(site), "The sites that count as lost since."),
                "by": Key(Text(), "Who declared it.", required=True),
                "finished": Key(Flag(), "Whether it came to its end.", default="true"),
            }
        ),
        "decided": Tree(
            {
                "for": Key(Text(), "Who declared the recovery that is to hold.", required=True),
                "by": Key(Text(), "Who decides.", required=True),
            }
        ),
        "fenced": place,
        "attested": Tree({"site": Key(site, "", required=True), "by": Key(Text(), "", True)}),
        "rejoined": _of("site", site),
        "compared": Tree(
            {
                "host": Key(member, "", required=True),
                "diverged": Key(Flag(), "Whether it wrote alone.", required=True),
                "kept": Key(Flag(), "Whether those writes are kept apart.", default="false"),
            }
        ),
        "egress_denied": _of("site", site),
    }


def _of(name: str, kind: Kind) -> Tree:
    return Tree({name: Key(kind, "", required=True)})
