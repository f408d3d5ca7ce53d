"""Root on production has the producer's credentials and password, and cannot delete the backups."""

import os
import urllib.error
import urllib.request
from base64 import b64encode

import pytest
from saltext.openhim.backup import points
from saltext.openhim.backup.repository import AppendOnly, RepositoryError
from saltext.openhim.backup.retention import Policy
from saltext.openhim.backup.verification import Verification

DATA = os.urandom(2_000_000)


@pytest.fixture
def attacked(make, rest):
    """A repository with one committed restore point, as its producer reaches it."""
    repository = make(rest.url())
    repository.initialise()
    with taking(repository) as point:
        point.store("openhim.archive", lambda out: out.write(DATA))
        point.commit()
    return repository


def taking(repository):
    return points.Taking(repository, "demo", by="test", why="an attack")


def intact(repository):
    (point,) = points.listing(repository.uncached(), "demo").points
    with points.open_part(repository.uncached(), point, "openhim.archive") as stream:
        assert stream.read() == DATA
    return point


def test_nothing_is_deleted_by_restic(attacked):
    point = intact(attacked)
    with pytest.raises(AppendOnly, match="add and not delete: it is append-only"):
        attacked.forget(point.snapshots, prune=True)
    with pytest.raises(AppendOnly):
        attacked.forget([point.manifest_snapshot])
    with pytest.raises(RepositoryError):
        attacked.key_remove(_other_key(attacked))
    attacked._ask(["unlock", "--remove-all"])
    attacked._ask(["prune", "--max-unused", "0"])
    intact(attacked)


def test_nothing_is_deleted_or_overwritten_by_hand(attacked, rest):
    intact(attacked)
    stored = [path for path in rest.folder.rglob("*") if path.is_file()]
    assert len(stored) >= 6
    authorization = b64encode(f"{rest.user}:{rest.password}".encode()).decode()
    before = {path: path.read_bytes() for path in stored}
    for path in stored:
        kind, name = path.relative_to(rest.folder).parts[0], path.name
        where = "config" if kind == "config" else f"{kind}/{name}"
        for method, body in (("DELETE", None), ("POST", b"overwritten"), ("PUT", b"overwritten")):
            request = urllib.request.Request(
                f"http://127.0.0.1:{rest.port}/{where}", body, method=method
            )
            request.add_header("Authorization", f"Basic {authorization}")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)  # noqa: S310
            assert refused.value.code in (403, 405), (method, where)
    assert {path: path.read_bytes() for path in stored} == before
    intact(attacked)


def test_the_other_side_pulls_and_prunes_with_its_own_password(attacked, make, tmp_path):
    """What production cannot do, the pulling host can; and production does not know its password."""
    point = intact(attacked)
    pulled = make(tmp_path / "pulled", password="only the pulling host knows")
    pulled.initialise(copy_chunker_from=attacked)
    (copied,) = points.copy(attacked, pulled, "demo")
    assert copied.id == point.id
    intact(pulled)
    assert not pulled.opens_with(attacked.password)
    assert pulled.forget(copied.snapshots, prune=True) == list(copied.snapshots)
    assert points.listing(pulled, "demo").points == ()
    intact(attacked)


def test_a_forged_point_with_a_forged_verification_pushes_no_good_one_out(attacked, rest, make):
    """Whoever can add makes points of junk, and says of each that it was verified."""
    secret = "only who verifies and prunes has it"
    (good,) = points.listing(attacked, "demo").points
    points.mark_verified(make(rest.url(), verification_secret=secret), good, verification(good))
    with taking(attacked) as point:
        point.store("openhim.archive", lambda out: out.write(b"junk"))
        forged = points.mark_verified(attacked, point.commit(), verification(point.committed))
    keeper = make(rest.folder, verification_secret=secret)
    policy = Policy(last=1)
    done = points.prune(keeper, "demo", policy, minimum_verified=1, confirm=True, free=False)
    assert done.removed == ()
    assert set(done.decision.keep) == {good.id, forged.id}
    lied_to = points.prune(attacked, "demo", policy, minimum_verified=1)
    assert lied_to.decision.remove == (good.id,), "the secret is what tells them apart"


def verification(point):
    return Verification(
        point.id, point.stack, point.manifest_sha256, True, "2026-11-22T09:00:00Z", "x", "y"
    )


def test_a_failed_backup_of_an_append_only_producer_leaves_no_snapshot(attacked):
    def dies(out):
        out.write(DATA)
        raise OSError("the database went away")

    with pytest.raises(OSError, match="went away"), taking(attacked) as point:
        point.store("openhim.archive", dies)
    known = points.listing(attacked, "demo")
    assert (len(known.points), known.leftovers) == (1, ())


def test_parts_that_cannot_be_removed_are_leftovers(attacked):
    with pytest.raises(OSError, match="went away"), taking(attacked) as point:
        point.store("openhim.archive", lambda out: out.write(b"whole"))
        raise OSError("the other database went away")
    known = points.listing(attacked, "demo")
    assert len(known.points) == 1
    assert [left.parts for left in known.leftovers] == [("openhim.archive",)]


def _other_key(repository):
    repository.key_add("a key of the attacker's")
    return next(key["id"] for key in repository.key_list() if not key["current"])


def test_the_server_is_the_one_that_refuses(attacked, rest, make):
    """The same folder without append-only lets them: so it is this that protects, not our code."""
    del attacked
    folder = make(rest.folder)
    (point,) = points.listing(folder, "demo").points
    assert len(folder.forget(point.snapshots)) == 2
