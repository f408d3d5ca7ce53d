"""A set of one member, which most of what a backup does can be tried on."""

import contextlib

import pytest

KEPT = ("admin", "config", "local")


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
