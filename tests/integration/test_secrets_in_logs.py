"""Master and minion log nearly all that they can; no secret of the pillar is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import salt.version

from lab import environments
from tests.integration.conftest import REPOSITORY, Site, started

#: The lowest level at which Salt itself logs no secret (docs/topics/secrets.md): a minion of 3006
#: logs its whole pillar at ``trace``.
LEVEL = "trace" if salt.version.__saltstack_version__.major >= 3008 else "debug"

#: Public: every client of the stack has it.
PUBLIC = {"tls_ca"}

#: What stands in a job's arguments is logged: the search below must find it.
LOGGED = "c4a9-a-value-that-is-logged"


@pytest.fixture(scope="module")
def talkative(event_listener: Any) -> Iterator[Site]:
    """A master and a minion that log at that level."""
    roots = [REPOSITORY / "salt"]
    environment = environments.plain()
    with started("talkative", environment, roots, event_listener, log_level=LEVEL) as site:
        for synced in (site.run("saltutil.sync_all"), site.salt("saltutil.sync_all")):
            assert synced.returncode == 0, synced.data
        yield site


@pytest.fixture(scope="module")
def returned(talkative: Site) -> str:
    """What the jobs of a person return: everything rendered, checked and tried in test mode."""
    site = talkative
    site.salt("test.echo", LOGGED)
    tried = site.salt("state.apply", "openhim", test=True).data
    assert any(key.startswith("file_|-the members share a key_|-") for key in tried), tried
    # A state that is not there would log nothing.
    missing = [state["comment"] for state in tried.values() if "was not found" in state["comment"]]
    assert missing == []
    answers = [tried]
    answers.append(site.salt("state.show_sls", "openhim").data)
    answers.append(site.salt("openhim.pillar_check").data)
    # No server is up: an error's message must not hold what it was tried with either.
    answers.append(site.salt("mongodb_replset.status").data)
    request = {
        "to_site": "south",
        "confirm": "example",
        "declared_by": "a test",
        "reason": "a test",
    }
    answers.append(site.run("openhim_dr.failover_plan", **request).data)
    return json.dumps(answers)


def parts(secret: str) -> list[str]:
    """A secret, or each line of one that has lines: a log may show them apart, or quoted."""
    lines = [line.strip() for line in secret.strip().splitlines()]
    return [line for line in lines if line and not line.startswith("-----")]


def found_in(text: str, site: Site) -> list[str]:
    """The names of the secrets that a text holds."""
    secrets = {name: value for name, value in site.secrets().items() if name not in PUBLIC}
    assert {"mongodb_keyfile", "mongodb_operator", "tls_ca_key"} <= set(secrets)
    return [name for name, value in secrets.items() if any(p in text for p in parts(value))]


def test_nothing_that_is_returned_holds_a_secret(talkative: Site, returned: str) -> None:
    """Neither the rendered states nor their results, nor an error's message."""
    assert found_in(returned, talkative) == []


def test_no_secret_is_logged(talkative: Site, returned: str) -> None:
    """By master and minion, whose logs hold all else that went between them."""
    for path in talkative.root.rglob("*.log"):
        log = path.read_text()
        assert f"[{LEVEL.upper()}" in log and LOGGED in log, (
            f"{path.name} is not what this test is about"
        )
        assert found_in(log, talkative) == [], path.name


def test_no_file_that_others_can_read_holds_a_secret(talkative: Site, returned: str) -> None:
    """Salt keeps minions' pillars in its caches: those must be root's alone."""
    readable = [
        path
        for path in talkative.root.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o077
        if found_in(path.read_bytes().decode(errors="replace"), talkative)
    ]
    assert readable == []
