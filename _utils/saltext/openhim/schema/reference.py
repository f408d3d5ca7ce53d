"""Writes the reference page of the pillar from the table that also checks it.

``python -m saltext.openhim.schema.reference FILE`` writes the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from saltext.openhim.schema.kinds import Either, Free, Key, Kind, ListOf, MapOf, Tree
from saltext.openhim.schema.table import OPENHIM

HEAD = """\
# The pillar

Everything that the pillar may say below `openhim`. This page is written from the table that
`openhim.pillar_check` uses (`make docs`): edit `_utils/saltext/openhim/schema/table.py`, not this
page. `pillar/openhim/production.sls` is an example of all of it.

    salt-call openhim.pillar_check

tells every problem of a minion's pillar at once, each as `path: found X; allowed Y`. It is the
first state of every run too, so that nothing is touched under a pillar that is not allowed. Beside
the kind of each value it checks what must fit together: members on declared hosts with the role
`mongodb`; an odd number of at most seven votes; the highest priority at the active site and lower
ones elsewhere; no two programs on one port of a host; and on each host the secrets that its roles
need.

In a path, `<name>` stands for a name of your own, and `[]` for each item of a list.
"""

COLUMNS = "| key | what it may be | default | what it means |\n|---|---|---|---|\n"


def page() -> str:
    """The whole page, in Markdown."""
    return HEAD + "".join(_sections("openhim", OPENHIM))


def _sections(path: str, tree: Tree) -> Iterator[str]:
    """A table of the tree's keys, then the sections of the trees below."""
    yield f"\n## `{path}`\n\n{COLUMNS}"
    if not tree.keys:
        yield "| | no keys yet | | |\n"
    for name, key in tree.keys.items():
        yield _row(name, key)
    for name, key in tree.keys.items():
        for suffix, inner in _trees(key.kind):
            yield from _sections(f"{path}:{name}{suffix}", inner)


def _row(name: str, key: Key) -> str:
    default = "**required**" if key.required else key.default
    cells = (f"`{name}`", _kind(key.kind), default, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _kind(kind: Kind) -> str:
    """A kind in words; what has a section of its own is named shortly."""
    if isinstance(kind, MapOf):
        return f"a mapping from {kind.key.words} to {_kind(kind.value)}"
    if isinstance(kind, ListOf):
        return f"a list; each item {_kind(kind.item)}"
    if isinstance(kind, Either):
        return f"{_kind(kind.simple)}; or {_kind(kind.nested)}"
    if isinstance(kind, Free):
        return f"{kind.words}, passed on as it is"
    return "a mapping (below)" if isinstance(kind, Tree) else kind.words


def _trees(kind: Kind) -> Iterator[tuple[str, Tree]]:
    """The trees inside a kind, each with what its path has more."""
    if isinstance(kind, Tree):
        yield "", kind
    elif isinstance(kind, MapOf):
        yield from ((f":<name>{suffix}", tree) for suffix, tree in _trees(kind.value))
    elif isinstance(kind, ListOf):
        yield from ((f":[]{suffix}", tree) for suffix, tree in _trees(kind.item))
    elif isinstance(kind, Either):
        yield from _trees(kind.nested)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
