"""A set of one member, which most of what a backup does can be tried on."""

import contextlib

import pytest
from saltext.openhim.backup import declaration

KEPT = ("admin", "config", "local")
HOST = "north-db1"


def archived(replica_set, folder):
    """A set of one member with restore points and an oplog archive, read by whom may only read.

    Its ``backups`` are those that ``HOST`` sees; the repositories are in ``folder``.
    """
    users = {
        "operator": {
            "secret": "mongodb_operator",
            "roles": [{"role": "root", "db": "admin"}],
            "operator": True,
        },
        "backup": {"secret": "mongodb_openhim", "roles": [{"role": "backup", "db": "admin"}]},
    }
    cluster = replica_set({HOST: {"site": "north"}}, users=users)
    openhim = cluster.pillar["openhim"]
    openhim["backup"] = {
        "taken_by": HOST,
        "user": "backup",
        "repositories": {"near": {"url": str(folder / "near"), "secret": "near"}},
        "oplog": {
            "archived_by": HOST,
            "repository": {"url": str(folder / "slices"), "secret": "slices"},
            "interval_seconds": 1,
        },
        "schedule": {},
    }
    openhim["secrets"] |= {"near": "near-key", "slices": "slices-key"}
    cluster.folder = folder
    cluster.backups = declaration.from_pillar(cluster.pillar, HOST)
    cluster.backups.repository().initialise()
    return cluster


@pytest.fixture(scope="package")
def single(replica_set):
    """A running set of one member; whoever steps it down waits until it is primary again."""
    cluster = replica_set({"north-db1": {"site": "north"}})
    yield cluster
    cluster.stop()


@pytest.fixture
def client(single):
    """A direct connection to that member, whose databases are gone after the test."""
    single.primary()
    with single.members["north-db1"].client() as client:
        yield client
        single.primary()
        for name in set(client.list_database_names()) - set(KEPT):
            client.drop_database(name)


@pytest.fixture
def as_user(single, client):
    """A context manager: a connection as a user of the roles given."""

    @contextlib.contextmanager
    def connected(*roles):
        client.admin.command("createUser", "tester", pwd="tester-secret", roles=list(roles))
        try:
            with single.members["north-db1"].client("tester", "tester-secret", "admin") as other:
                yield other
        finally:
            client.admin.command("dropUser", "tester")

    return connected
