"""A name server for all files of this folder; each test has a name of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from saltext.openhim.cut_over.name_server import Key, NameServer

from tests.functional.cut_over.name_server import ZONE, Knot

SITES = {"north": ("10.0.0.1", "2001:DB8::1"), "south": ("10.0.0.2",)}
TTL = 60

_names = itertools.count()


@pytest.fixture(scope="package")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knot]:
    """Knot DNS with two zones and two keys."""
    with Knot(tmp_path_factory.mktemp("knot")).running() as server:
        yield server


@pytest.fixture
def name_server(knot: Knot) -> Callable[..., NameServer]:
    """A factory: our client for a name that nothing has touched; ``changes`` are its fields'."""
    name = f"him{next(_names)}.{ZONE}"

    def make(**changes: object) -> NameServer:
        fields = {
            "name": name,
            "zone": ZONE,
            "address": "127.0.0.1",
            "port": knot.port,
            "ttl": TTL,
            "key": Key("mover", "hmac-sha256", knot.mover),
            "sites": SITES,
            "timeout": 5,
        }
        return NameServer(**{**fields, **changes})  # type: ignore[arg-type]

    return make
