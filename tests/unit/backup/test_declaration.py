"""Which repositories a host can open, and as what."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from salt.loader.context import LoaderContext, loader_context
from saltext.openhim.backup import declaration
from saltext.openhim.backup.declaration import PRUNE, USE
from saltext.openhim.errors import OpenHIMError

from .test_schedule import backups

STORE = {
    "url": "rest:http://producer:{producer}@store/",
    "secret": "key",
    "pruned_by": "north-core",
    "prune_url": "rest:http://keeper:{keeper}@store/",
}
S3 = {
    "url": "s3:https://store/bucket",
    "secret": "key",
    "environment": {"AWS_SECRET_ACCESS_KEY": "producer"},
    "pruned_by": "north-core",
    "prune_environment": {"AWS_SECRET_ACCESS_KEY": "keeper"},
}


def seen_from(host, entry, *known):
    found = backups(host, repositories={"near": entry})
    found.pillar["openhim"]["secrets"] = {name: f"the {name}" for name in known}
    return found


@pytest.mark.parametrize("entry", [STORE, S3], ids=["in the url", "in the environment"])
def test_a_host_that_only_prunes_looks_with_what_it_has(entry):
    keeper = seen_from("north-core", entry, "key", "keeper")
    assert keeper.visible == ["near"]
    opened = keeper.repository("near")
    assert "keeper" in f"{opened.url} {opened.environment}"
    both = seen_from("north-core", entry, "key", "keeper", "producer").repository("near", USE)
    assert "producer" in f"{both.url} {both.environment}"


@pytest.mark.parametrize("entry", [STORE, S3], ids=["in the url", "in the environment"])
def test_another_host_never_uses_what_prunes(entry):
    other = seen_from("south-db1", entry, "key", "keeper")
    assert other.visible == []
    with pytest.raises(OpenHIMError, match="openhim:secrets:producer: found nothing"):
        other.repository("near")
    with pytest.raises(OpenHIMError, match="openhim:secrets:keeper: found nothing"):
        seen_from("north-core", entry, "key", "producer").repository("near", PRUNE)


def test_another_thread_has_the_secrets_too_that_salt_gave_to_the_function():
    """Salt's ``__pillar__`` is empty in threads that the function starts: with Salt's own class."""
    pillar = seen_from("north-core", STORE, "key", "producer").pillar
    given = SimpleNamespace(pack={"__pillar__": pillar}, pack_self=None)
    with loader_context(given):
        found = declaration.from_pillar(LoaderContext().named_context("__pillar__"), "north-core")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: found.visible).result() == ["near"]
            assert pool.submit(lambda: found.repository("near").url).result()


def test_an_audit_database_may_be_empty_where_audits_go_elsewhere():
    here = backups("south-db1")
    names = {kind: database.name for kind, database in here.stack.databases.items()}
    assert here.required() == {names["main"], names["audit"]}
    core = {"config": {"auditing": {"auditEvents": {"interface": "tls"}}}}
    pillar = {"openhim": {**here.pillar["openhim"], "core": core}}
    elsewhere = declaration.from_pillar(pillar, "south-db1")
    assert elsewhere.required() == {names["main"]}
