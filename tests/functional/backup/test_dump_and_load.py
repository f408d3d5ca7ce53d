"""What a dump and a restore do to a real server's databases."""

import datetime
import io
import itertools
import threading

import bson
import pytest
from bson import ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, GEOSPHERE, TEXT, MongoClient, ReadPreference
from pymongo.errors import ConfigurationError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from saltext.openhim.backup import archive, cursor, dump, load
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable

from tests.functional.conftest import eventually

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)


class Acting(io.BytesIO):
    """A stream that calls ``action`` once, when the first documents are written to it.

    By then the list of namespaces is out, and what is read ahead may be too.
    """

    def __init__(self, action):
        super().__init__()
        self._action = action

    def write(self, data):
        if self._action and self.tell():
            action, self._action = self._action, None
            action()
        return super().write(data)


def dumped(client, *databases, **options):
    """The archive and what is said to be in it."""
    out = io.BytesIO()
    return dump.dump(client, databases or ["openhim"], out, **options), out.getvalue()


def by_name(namespaces):
    return {each.collection: each for each in namespaces}


def body(data):
    """An archive without its list of namespaces, in which sizes are estimates."""
    return data[data.index(archive.TERMINATOR) :]


def described(client, db):
    """Everything that a database is beside its documents."""
    database = client.get_database(db, codec_options=archive.EXACT)
    found = {}
    for info in database.list_collections():
        kind, name = info["type"], info["name"]
        if not name.startswith("system.") or name.startswith(archive.BUCKETS):
            indexes = [] if kind == "view" else list(map(dict, database[name].list_indexes()))
            found[name] = (kind, info["options"], sorted(indexes, key=lambda i: i["name"]))
    return found


def documents(client, db, collection):
    raw = client.get_database(db, codec_options=bson.CodecOptions(document_class=RawBSONDocument))
    return [each.raw for each in raw[collection].find()]


def fill_with_everything(client):
    db = client.openhim
    db.channels.insert_many([{"name": f"channel {n}", "urlPattern": "^/a$"} for n in range(3)])
    db.channels.create_index("name", unique=True)
    db.create_collection("log", capped=True, size=100_000, max=50)
    for n in range(80):
        db.log.insert_one({"n": n})
    db.create_collection("people", collation={"locale": "fr", "strength": 1})
    db.people.insert_many([{"name": "Élodie"}, {"name": "elodie"}])
    db.people.create_index("name", collation={"locale": "de", "strength": 2})
    db.places.insert_one({"at": {"type": "Point", "coordinates": [36.8, -1.3]}, "text": "clinic"})
    db.places.create_index([("at", GEOSPHERE)])
    db.places.create_index([("text", TEXT)], weights={"text": 5}, default_language="french")
    db.places.create_index([("$**", ASCENDING)])
    db.places.create_index([("x", "hashed")])
    db.transactions.insert_many(
        [{"n": n, "status": "Failed" if n % 3 else "ok"} for n in range(500)]
    )
    db.transactions.create_index(
        [("status", 1), ("n", -1)], partialFilterExpression={"status": {"$type": "string"}}
    )
    db.transactions.create_index("gone", expireAfterSeconds=3600, sparse=True)
    db.create_collection(
        "checked",
        validator={"name": {"$regex": "^a", "$options": "i"}, "kind": Regex("^b")},
        validationLevel="moderate",
    )
    # Older than its validator: a restore must take it all the same.
    db.command("insert", "checked", documents=[{"name": "zzz"}], bypassDocumentValidation=True)
    db.create_collection("measures", timeseries={"timeField": "t", "metaField": "m"})
    db.measures.insert_many(
        [{"t": NOW + datetime.timedelta(hours=n), "m": n % 3} for n in range(40)]
    )
    db.measures.create_index([("m.x", 1), ("t", 1)])
    db.create_collection(
        "failed", viewOn="transactions", pipeline=[{"$match": {"status": "Failed"}}]
    )
    db.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    db.clustered.insert_one({"_id": 1})
    db.create_collection("empty")
    raw = bson.encode({"_id": 1, "a.b": 1, "nested": {"c.d": 2, "$e": 3}, "": 4})
    db.command("insert", "odd", documents=[RawBSONDocument(raw)])
    db["with.dots and spaces"].insert_one({"_id": ObjectId()})


def test_everything_comes_back_as_it_was(client):
    fill_with_everything(client)
    before = described(client, "openhim")
    done, data = dumped(client)
    loaded = load.load(io.BytesIO(data), client, rename={"openhim": "again"})
    assert described(client, "again") == before
    now = dump.contents(client, ["again"])
    for was, read, is_ in zip(done.namespaces, loaded.namespaces, now.namespaces, strict=True):
        same = ("collection", "type", "count", "bytes", "digest", "options")
        assert [getattr(was, key) for key in same] == [getattr(read, key) for key in same]
        assert [getattr(was, key) for key in same] == [getattr(is_, key) for key in same]
    assert [each["n"] for each in client.again.log.find()] == list(range(30, 80))
    assert client.again.failed.count_documents({}) == client.openhim.failed.count_documents({}) > 0
    assert client.again.measures.count_documents({}) == 40
    assert documents(client, "again", "odd") == documents(client, "openhim", "odd")


def test_the_manifest_s_facts_are_the_server_s(client):
    fill_with_everything(client)
    done, _ = dumped(client)
    found = by_name(done.namespaces)
    assert (done.server_version, done.fcv) == ("6.0.5", "6.0")
    assert found["transactions"].count == 500
    sizes = client.openhim.command("collStats", "transactions")["size"]
    assert found["transactions"].bytes == sizes
    assert found["transactions"].snapshot and not found["log"].snapshot
    assert (found["failed"].type, found["measures"].type) == ("view", "timeseries")
    assert [each["name"] for each in found["channels"].indexes] == ["_id_", "name_1"]
    info = next(client.openhim.list_collections(filter={"name": "channels"}))
    assert found["channels"].uuid == bytes(info["info"]["uuid"]).hex()
    assert found["channels"].uuid in found["channels"].metadata


def test_configuration_comes_first_then_names_in_order(client):
    fill_with_everything(client)
    client.openhim_audit.audits.insert_one({})
    client.openhim_audit.users.insert_one({})
    done, data = dumped(client, "openhim_audit", "openhim")
    names = [each.namespace for each in done.namespaces]
    assert names[:2] == ["openhim.channels", "openhim_audit.users"]
    assert names[2:] == sorted(names[2:])
    assert [each.namespace for each in archive.Reader(io.BytesIO(data)).entries] == names


def test_the_same_documents_are_the_same_bytes(client):
    fill_with_everything(client)
    _, one = dumped(client, readers=1)
    client.other.noise.insert_one({})
    _, two = dumped(client, readers=3)
    assert body(one) == body(two)


def test_a_backup_user_may_dump_and_a_restore_user_may_restore(client, as_user):
    fill_with_everything(client)
    with as_user("backup") as user:
        done, data = dumped(user)
    assert done.count > 500
    with as_user("restore") as user:
        load.load(io.BytesIO(data), user, rename={"openhim": "again"})
    assert described(client, "again") == described(client, "openhim")


def test_a_user_without_rights_is_told(client, as_user):
    client.openhim.users.insert_one({})
    with as_user() as user, pytest.raises(OpenHIMError, match="does not allow it"):
        dumped(user)


def test_documents_of_16_mb_pass(client):
    room = archive.MAX_DOCUMENT - len(bson.encode({"_id": 1, "x": b""}))
    for number in range(3):
        raw = bson.encode({"_id": number, "x": bytes([number]) * room})
        client.openhim.command("insert", "large", documents=[RawBSONDocument(raw)])
    done, data = dumped(client)
    load.load(io.BytesIO(data), client, rename={"openhim": "again"})
    assert dump.contents(client, ["again"]).namespaces[0].digest == done.namespaces[0].digest
    assert done.namespaces[0].bytes == 3 * archive.MAX_DOCUMENT


def test_an_empty_database_is_an_empty_archive(client):
    done, data = dumped(client, "nothing")
    assert done.namespaces == []
    assert load.load(io.BytesIO(data), client).namespaces == []
    assert "nothing" not in client.list_database_names()


def test_a_selection_is_what_it_says(client):
    fill_with_everything(client)
    done, data = dumped(client, selection=["openhim.ch*", "openhim.log"])
    assert sorted(by_name(done.namespaces)) == ["channels", "checked", "log"]
    loaded = load.load(
        io.BytesIO(data), client, selection=["openhim.log"], rename={"openhim": "again"}
    )
    assert [each.namespace for each in loaded.namespaces] == ["again.log"]
    assert client.again.list_collection_names() == ["log"]
    with pytest.raises(Refused, match=r"nothing in the archive fits openhim\.x"):
        load.load(io.BytesIO(data), client, selection=["openhim.x"])


# One moment


@pytest.fixture
def writing(client):
    """A writer: numbered pairs in transactions, and a total that never changes."""
    db = client.openhim
    db.command("create", "left")
    db.command("create", "right")
    db.accounts.insert_many([{"_id": n, "held": 100} for n in range(10)])
    stop, acknowledged = threading.Event(), []

    def write():
        majority = WriteConcern("majority")
        for number in itertools.count():
            if stop.is_set():
                return
            with client.start_session() as session:
                with session.start_transaction(ReadConcern("snapshot"), majority):
                    db.left.insert_one({"_id": number}, session=session)
                    db.accounts.update_one(
                        {"_id": number % 10}, {"$inc": {"held": -1}}, session=session
                    )
                    db.right.insert_one({"_id": number, "x": "y" * 3000}, session=session)
                    db.accounts.update_one(
                        {"_id": (number + 1) % 10}, {"$inc": {"held": 1}}, session=session
                    )
                acknowledged.append((session.operation_time, number))

    thread = threading.Thread(target=write)
    thread.start()
    eventually(lambda: len(acknowledged) > 50, what="the writer")
    yield acknowledged
    stop.set()
    thread.join()


def test_every_number_acknowledged_before_the_moment_is_there_and_none_after_it(client, writing):
    def until_more():
        count = len(writing)
        eventually(lambda: len(writing) > count + 30, what="writes during the dump")

    out = Acting(until_more)
    done = dump.dump(client, ["openhim"], out)
    load.load(io.BytesIO(out.getvalue()), client, rename={"openhim": "again"})
    left = sorted(each["_id"] for each in client.again.left.find())
    right = sorted(each["_id"] for each in client.again.right.find())
    assert left == right == list(range(len(left)))
    before = [number for moment, number in writing if moment <= done.at]
    after = [number for moment, number in writing if moment > done.at]
    assert len(before) > 10 and len(after) >= 30
    assert max(before) == left[-1]
    assert sum(each["held"] for each in client.again.accounts.find()) == 1000


def test_a_moment_of_the_past_can_be_named(client):
    client.openhim.users.insert_one({"_id": 1})
    first, _ = dumped(client)
    client.openhim.users.insert_one({"_id": 2})
    client.openhim.later.insert_one({})
    done, data = dumped(client, at=first.at)
    assert done.left_out == ["openhim.later"]
    assert [(each.collection, each.count) for each in done.namespaces] == [("users", 1)]
    assert read_documents(data) == {"openhim.users": [{"_id": 1}]}


def read_documents(data):
    found = {}
    for event in archive.Reader(io.BytesIO(data)):
        held = found.setdefault(event.entry.namespace, [])
        if isinstance(event, archive.Documents):
            held += [bson.decode(bytes(each)) for each in event.documents]
    return found


@pytest.mark.parametrize("before_the_list", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda db, session: db.later.insert_one({}, session=session),
        lambda db, session: db.users.create_index("name", session=session),
        lambda db, session: db.drop_collection("users", session=session),
        lambda db, session: db.users.rename("later", session=session),
        lambda db, session: db.command(
            "create", "later", viewOn="users", pipeline=[], session=session
        ),
    ],
    ids=["made", "an index", "dropped", "renamed", "a view"],
)
def test_what_changes_while_the_collections_are_listed_shows_as_the_moment_has_it(
    client, monkeypatch, change, before_the_list
):
    db = client.openhim
    db.users.insert_one({"_id": 1})
    db.command("create", "empty")
    unchanged = shape(dumped(client)[0].namespaces)
    listing, seen = dump._list, []

    def meanwhile():
        if not seen:
            with client.start_session() as session:
                change(db, session)
                seen.append(session.operation_time)

    def listed(*arguments):
        if before_the_list:
            meanwhile()
        found = listing(*arguments)
        meanwhile()
        return found

    monkeypatch.setattr(dump, "_list", listed)
    done, _ = dumped(client)
    changed = shape(dumped(client)[0].namespaces)
    assert changed != unchanged
    assert shape(done.namespaces) == (changed if done.at >= seen[0] else unchanged)


def shape(namespaces):
    return {each.collection: (each.count, len(each.indexes)) for each in namespaces}


def test_a_moment_before_a_collection_was_dropped_is_refused(client):
    client.openhim.users.insert_one({"_id": 1})
    first, _ = dumped(client)
    client.openhim.users.drop()
    with pytest.raises(dump.Changed, match=r"openhim\.users was dropped.*take it again"):
        dumped(client, at=first.at)


def test_a_database_that_must_be_there_and_is_not_is_refused(client):
    client.openhim.users.insert_one({"_id": 1})
    with pytest.raises(Refused, match=r"no collection in openhim_audit,.*dropped, or has it"):
        dumped(client, "openhim", "openhim_audit", required=["openhim", "openhim_audit"])
    assert dumped(client, "openhim", "openhim_audit", required=["openhim"])[0].count == 1
    client.openhim_audit.audits.insert_one({"_id": 1})
    assert dumped(client, "openhim", "openhim_audit", required=["openhim_audit"])[0].count == 2


def test_a_moment_that_has_not_come_is_refused(client):
    client.openhim.users.insert_one({"_id": 1})
    with pytest.raises(Refused, match=r"can't read at 2100.*greater than the current clusterTime"):
        dumped(client, at=Timestamp(datetime.datetime(2100, 1, 1), 1))


def test_deletes_during_the_dump_do_not_show(client, monkeypatch):
    monkeypatch.setattr(dump, "READ_AHEAD_BYTES", 1000)
    db = client.openhim
    db.alerts.insert_many([{"at": NOW, "n": n, "x": "y" * 1000} for n in range(4000)])
    db.zzz.insert_many([{"n": n} for n in range(50)])

    def expire():
        db.alerts.delete_many({})
        db.zzz.delete_many({})

    out = Acting(expire)
    done = dump.dump(client, ["openhim"], out, readers=1)
    assert db.zzz.count_documents({}) == 0
    assert {name: len(docs) for name, docs in read_documents(out.getvalue()).items()} == {
        "openhim.alerts": 4000,
        "openhim.zzz": 50,
    }
    assert done.count == 4050


@pytest.fixture
def between_batches(monkeypatch):
    """Has something done when a batch of a collection was read, before the next one."""

    def set_up(action):
        class Interrupted(dump.RawCursor):
            def __iter__(self):
                for number, batch in enumerate(super().__iter__()):
                    yield batch
                    action(number)

        monkeypatch.setattr(dump, "RawCursor", Interrupted)

    return set_up


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("limits", [{"max": 1000, "size": 10**7}, {"size": 200_000}])
def test_a_capped_collection_never_has_more_than_fits_into_it(
    client, between_batches, monkeypatch, limits, held
):
    if not held:
        monkeypatch.setattr(dump, "_CAPPED_RETRY_BYTES", 0)
    monkeypatch.setattr(cursor, "REPLY_BYTES", 20_000)
    log = client.openhim.create_collection("log", capped=True, **limits)
    numbers = itertools.count()

    def write(count):
        log.insert_many([{"_id": next(numbers), "x": "y" * 150} for _ in range(count)])

    write(2000)
    before = [each["_id"] for each in log.find()]
    # Fewer than are read: the reader stays ahead of the end that is overwritten.
    between_batches(lambda number: write(50))
    done, data = dumped(client)
    assert next(numbers) > 2200
    assert [each["_id"] for each in read_documents(data)["openhim.log"]] == before
    load.load(io.BytesIO(data), client, rename={"openhim": "again"})
    assert dump.contents(client, ["again"]).namespaces[0].digest == done.namespaces[0].digest


@pytest.mark.parametrize(("times", "outcome"), [(1, "read again"), (9, "told")])
def test_a_capped_collection_that_is_overwritten_while_it_is_read(
    client, between_batches, monkeypatch, times, outcome
):
    monkeypatch.setattr(cursor, "REPLY_BYTES", 20_000)
    log = client.openhim.create_collection("log", capped=True, size=10**7, max=1000)
    log.insert_many([{"x": "y" * 150} for _ in range(1000)])
    left = [times]

    def overwrite(number):
        if left[0]:
            left[0] -= 1
            log.insert_many([{"x": "z" * 150} for _ in range(1500)])

    between_batches(overwrite)
    if outcome == "told":
        with pytest.raises(dump.Changed, match=r"openhim\.log is capped, and writers overwrote it"):
            dumped(client)
    else:
        _, data = dumped(client)
        assert [each["x"][0] for each in read_documents(data)["openhim.log"]] == ["z"] * 1000


def test_a_capped_collection_whose_newest_document_goes_is_read_again(
    client, between_batches, monkeypatch
):
    monkeypatch.setattr(cursor, "REPLY_BYTES", 20_000)
    log = client.openhim.create_collection("log", capped=True, size=10**7)
    log.insert_many([{"_id": n, "x": "y" * 150} for n in range(1000)])
    numbers = itertools.count(1000)

    def write(number):
        log.delete_one({"_id": 999})
        log.insert_one({"_id": next(numbers)})

    between_batches(write)
    _, data = dumped(client)
    found = [each["_id"] for each in read_documents(data)["openhim.log"]]
    assert found == [*range(999), *range(1000, found[-1] + 1)]
    # Up to the newest when the second reading began, with several batches to come.
    assert 1000 < found[-1] < next(numbers) - 5


def test_what_is_made_during_the_dump_is_not_in_it(client):
    client.openhim.users.insert_one({"_id": 1})
    out = Acting(lambda: client.openhim.later.insert_one({}))
    done = dump.dump(client, ["openhim"], out)
    assert "later" in client.openhim.list_collection_names()
    assert [each.collection for each in done.namespaces] == ["users"]


@pytest.mark.parametrize(
    "change",
    [
        lambda db: db.zzz.drop(),
        lambda db: db.zzz.rename("other"),
        lambda db: (db.zzz.drop(), db.zzz.insert_one({"_id": 1})),
        lambda db: db.client.drop_database("openhim"),
    ],
    ids=["dropped", "renamed", "made anew", "database dropped"],
)
@pytest.mark.parametrize("checked_by_uuid", [True, False])
def test_a_collection_that_changes_its_identity_spoils_the_dump(
    client, change, checked_by_uuid, monkeypatch
):
    db = client.openhim
    # Too much to be read ahead, so that zzz is not read before it changes.
    monkeypatch.setattr(dump, "READ_AHEAD_BYTES", 1000)
    if not checked_by_uuid:
        # Servers before 6.0 can't check that themselves.
        monkeypatch.setattr(dump, "_BY_UUID", (99, 0))
    db.aaa.insert_many([{"x": "y" * 1000} for _ in range(3000)])
    db.zzz.insert_many([{"n": n} for n in range(50)])
    out = Acting(lambda: change(db))
    with pytest.raises(
        dump.Changed, match=r"openhim\.(zzz|aaa) was dropped, renamed.*take it again"
    ):
        dump.dump(client, ["openhim"], out, readers=1)
    with pytest.raises(archive.ArchiveDamaged, match="cut off"):
        read_documents(out.getvalue())


def test_an_index_that_is_built_meanwhile_does_no_harm(client, monkeypatch):
    monkeypatch.setattr(dump, "READ_AHEAD_BYTES", 1000)
    db = client.openhim
    db.aaa.insert_many([{"x": "y" * 1000} for _ in range(3000)])
    db.zzz.insert_many([{"n": n} for n in range(50)])
    out = Acting(lambda: db.zzz.create_index("n"))
    done = dump.dump(client, ["openhim"], out, readers=1)
    assert by_name(done.namespaces)["zzz"].count == 50


def test_a_moment_that_the_server_forgot_is_told_with_the_setting(client):
    db = client.openhim
    db.aaa.insert_many([{"x": "y" * 1000} for _ in range(3000)])
    done, _ = dumped(client)
    name = "minSnapshotHistoryWindowInSeconds"
    client.admin.command({"setParameter": 1, name: 0})
    try:

        def forgotten():
            db.aaa.update_many({}, {"$inc": {"n": 1}})
            client.admin.command("appendOplogNote", 1, data={})
            try:
                dumped(client, at=done.at)
            except dump.SnapshotTooOld as error:
                return str(error)

        message = eventually(forgotten, what="forgetting")
    finally:
        client.admin.command({"setParameter": 1, name: 300})
    assert "no longer keeps" in message and "it keeps 0 s of history" in message
    assert f"Raise {name}" in message


def test_an_election_during_the_dump_does_no_harm(client, single, monkeypatch):
    monkeypatch.setattr(dump, "READ_AHEAD_BYTES", 1000)
    db = client.openhim
    db.aaa.insert_many([{"x": "y" * 1000} for _ in range(6000)])
    db.zzz.insert_many([{"n": n} for n in range(50)])

    def step_down():
        client.admin.command("replSetStepDown", 1, force=True)

    out = Acting(step_down)
    try:
        done = dump.dump(client, ["openhim"], out, readers=1)
    except dump.Changed as error:
        # Rare: a connection was made in the milliseconds between two states.
        assert "neither primary nor secondary" in str(error)
        single.primary()
        return
    assert done.count == 6050
    assert len(read_documents(out.getvalue())["openhim.aaa"]) == 6000
    single.primary()


def test_a_connection_made_between_two_states_is_told_as_such(client, between_batches):
    client.openhim.aaa.insert_one({})

    def as_pymongo_says_it(number):
        raise ConfigurationError("Sessions are not supported by this MongoDB deployment")

    between_batches(as_pymongo_says_it)
    with pytest.raises(dump.Changed, match=r"neither primary nor .* openhim\.aaa.*Take the dump"):
        dumped(client)


def test_a_server_that_dies_is_told_and_the_archive_is_none(cluster_factory):
    cluster = cluster_factory({"north-db1": {"site": "north"}})
    mongod = cluster.members["north-db1"]
    with mongod.client() as other:
        name = f"localhost:{mongod.port}"
        other.admin.command(
            "replSetInitiate", {"_id": "openhim", "members": [{"_id": 0, "host": name}]}
        )
        eventually(lambda: other.admin.command("hello")["isWritablePrimary"], what="a primary")
    with mongod.client() as other:
        other.openhim.aaa.insert_many([{"x": "y" * 1000} for _ in range(60_000)])
        out = Acting(mongod.kill)
        with pytest.raises(Unreachable, match=f"{mongod.port} does not answer"):
            dump.dump(other, ["openhim"], out, readers=1)
    with pytest.raises(archive.ArchiveDamaged, match="cut off"):
        read_documents(out.getvalue())
    cluster.stop()


def test_a_client_of_the_whole_set_is_refused(client, single):
    (port,) = (mongod.port for mongod in single.members.values())
    password = "".join(single.pillar["openhim"]["secrets"]["mongodb_keyfile"].split())
    with (
        MongoClient(
            f"localhost:{port}",
            replicaSet="openhim",
            username="__system",
            password=password,
            authSource="local",
            read_preference=ReadPreference.PRIMARY,
        ) as of_the_set,
        pytest.raises(Refused, match="directConnection=True"),
    ):
        dumped(of_the_set)


def test_progress_is_told(client):
    client.openhim.aaa.insert_many([{"x": "y" * 1000} for _ in range(3000)])
    told = []
    done, data = dumped(client, progress=told.append)
    assert told[-1].done_bytes == told[-1].total_bytes == done.bytes
    assert told[0].total_bytes == pytest.approx(done.bytes, rel=0.01)
    told.clear()
    load.load(io.BytesIO(data), client, rename={"openhim": "again"}, progress=told.append)
    assert told[-1].done_bytes == done.bytes and told[-1].seconds_left == 0


# Restores


@pytest.fixture
def data(client):
    """An archive of everything."""
    fill_with_everything(client)
    return dumped(client)[1]


def test_nothing_is_overwritten_unasked(client, data):
    client.openhim.channels.update_many({}, {"$set": {"changed": True}})
    client.openhim.empty.drop()
    before = dump.contents(client, ["openhim"])
    with pytest.raises(Refused, match=r"there already.*openhim\.channels.*Nothing was touched"):
        load.load(io.BytesIO(data), client)
    assert dump.contents(client, ["openhim"]).namespaces == before.namespaces


def test_what_is_there_is_replaced_when_told(client, data):
    before = described(client, "openhim")
    client.openhim.channels.update_many({}, {"$set": {"changed": True}})
    client.openhim.channels.create_index("changed")
    client.openhim.stranger.insert_one({"_id": "mine"})
    loaded = load.load(io.BytesIO(data), client, overwrite=True)
    assert loaded.untouched == ["openhim.stranger"]
    assert client.openhim.stranger.find_one() == {"_id": "mine"}
    assert client.openhim.channels.count_documents({"changed": True}) == 0
    client.openhim.stranger.drop()
    assert described(client, "openhim") == before


def test_single_namespaces_are_renamed_and_views_follow(client, data):
    load.load(
        io.BytesIO(data),
        client,
        selection=["openhim.transactions", "openhim.failed"],
        rename={"openhim.transactions": "drill.orders", "openhim": "drill"},
    )
    assert sorted(client.drill.list_collection_names()) == ["failed", "orders", "system.views"]
    assert client.drill.failed.count_documents({}) == client.openhim.failed.count_documents({})


def test_two_namespaces_do_not_become_one(client, data):
    with pytest.raises(Refused, match=r"would both become again\.log"):
        load.load(
            io.BytesIO(data), client, rename={"openhim.empty": "again.log", "openhim": "again"}
        )
    assert "again" not in client.list_database_names()


def test_configuration_is_told_when_it_is_complete_and_before_history(client, data):
    seen = []

    def configured():
        seen.append(sorted(client.again.channels.index_information()))
        seen.append(client.again.channels.count_documents({}))
        seen.append(client.again.transactions.count_documents({}))

    load.load(
        io.BytesIO(data),
        client,
        rename={"openhim": "again"},
        configuration_first=True,
        on_configured=configured,
    )
    assert seen == [["_id_", "name_1"], 3, 0]


def test_documents_that_are_twice_in_the_backup_are_told_without_their_content(client):
    twice = [bson.encode({"_id": "Jane Doe"})] * 2
    with pytest.raises(
        load.DuplicateKey, match=r"again\.c: 1 of 2 documents.*the same _id"
    ) as error:
        load.load(made({"again.c": twice}), client)
    assert "Jane" not in str(error.value)


def made(namespaces, indexes=()):
    """An archive of these documents."""
    entries = []
    for name in namespaces:
        db, collection = name.split(".")
        metadata = archive.metadata_json(collection, "collection", {}, indexes)
        entries.append(archive.Entry(db, collection, metadata=metadata))
    out = io.BytesIO()
    writer = archive.Writer(out, archive.Header("6.0.5", "saltext-openhim 0.1"), entries)
    for name, found in namespaces.items():
        writer.begin(*name.split("."))
        for each in found:
            writer.documents(each)
        writer.end()
    writer.finish()
    return io.BytesIO(out.getvalue())


def test_documents_that_contradict_a_unique_index_are_told_and_restored(client):
    stream = made(
        {"again.c": [bson.encode({"_id": n, "name": "Jane Doe"}) for n in range(2)]},
        [{"v": 2, "key": {"name": 1}, "name": "name_1", "unique": True}],
    )
    with pytest.raises(
        load.DuplicateKey, match=r"the same name, which a unique index.*name_1"
    ) as error:
        load.load(stream, client)
    assert "Jane" not in str(error.value)
    assert client.again.c.count_documents({}) == 2


def test_a_damaged_document_is_told(client):
    broken = bytearray(bson.encode({"_id": "Jane Doe", "text": "hello"}))
    broken[broken.index(b"\x02text")] = 0x99
    with pytest.raises(archive.ArchiveDamaged, match=r"refuses a document of again\.c.*BSON") as e:
        load.load(made({"again.c": [bytes(broken)]}), client)
    assert "Jane" not in str(e.value)


@pytest.mark.parametrize("where", [0.5, 0.9, 0.999])
def test_an_archive_that_was_cut_off_is_told(client, data, where):
    with pytest.raises(archive.ArchiveDamaged, match="cut off"):
        load.load(io.BytesIO(data[: int(len(data) * where)]), client, rename={"openhim": "again"})


def test_a_flipped_bit_is_told_with_its_namespace(client, data):
    changed = bytearray(data)
    changed[data.rindex(b"Failed")] ^= 1
    with pytest.raises(archive.ArchiveDamaged, match=r"documents of openhim\.transactions are not"):
        load.load(io.BytesIO(bytes(changed)), client, rename={"openhim": "again"})


def test_an_oplog_and_the_server_s_own_databases_are_left_out(client):
    stream = made({"again.c": [], "admin.secrets": [bson.encode({"_id": 1})]})
    assert load.load(stream, client).skipped == ["admin.secrets"]
    assert "secrets" not in client.admin.list_collection_names()


def test_options_that_the_server_does_not_know_are_told(client):
    metadata = archive.metadata_json("c", "collection", {"fancy": True}, [])
    out = io.BytesIO()
    writer = archive.Writer(
        out, archive.Header("6.0.5", "x"), [archive.Entry("again", "c", metadata=metadata)]
    )
    writer.begin("again", "c")
    writer.end()
    writer.finish()
    with pytest.raises(OpenHIMError, match=r"again\.c can't be made.*fancy.*Compare the server's"):
        load.load(io.BytesIO(out.getvalue()), client)


def test_a_restore_outlasts_an_election(client, single):
    client.openhim.aaa.insert_many([{"n": n, "x": "y" * 1000} for n in range(30_000)])
    done, data = dumped(client)
    stepped = []

    def step_down(_progress):
        if not stepped:
            stepped.append(client.admin.command("replSetStepDown", 1, force=True))

    load.load(io.BytesIO(data), client, rename={"openhim": "again"}, progress=step_down)
    assert stepped
    assert dump.contents(client, ["again"]).namespaces[0].digest == done.namespaces[0].digest


def test_the_building_of_indexes_outlasts_an_election(client, data, single, monkeypatch):
    build, stepped = load._build, []

    def step_down(*arguments):
        if not stepped:
            stepped.append(client.admin.command("replSetStepDown", 1, force=True))
        build(*arguments)

    monkeypatch.setattr(load, "_build", step_down)
    load.load(io.BytesIO(data), client, rename={"openhim": "again"})
    assert stepped
    assert described(client, "again") == described(client, "openhim")


def test_a_collection_that_lost_its_options_meanwhile_is_told(client, data, monkeypatch):
    fill = load._fill

    def undone(*arguments):
        # What a new primary does that never heard of the collection.
        client.again.log.drop()
        fill(*arguments)

    monkeypatch.setattr(load, "_fill", undone)
    with pytest.raises(
        OpenHIMError, match=r"again\.log is no longer as it was made.*restore again"
    ):
        load.load(io.BytesIO(data), client, rename={"openhim": "again"})


@pytest.mark.parametrize(
    ("document", "index", "words"),
    [
        ({"at": "Jane Doe"}, {"key": {"at": "2dsphere"}, "2dsphereIndexVersion": 3}, "16755"),
        ({"a": ["Jane"], "b": ["Doe"]}, {"key": {"a": 1, "b": 1}}, "CannotIndexParallelArrays"),
        ({}, {"key": {"a": "nonsense"}}, "Unknown index plugin 'nonsense'"),
        ({}, {"key": {"a": 1}, "fancy": 1}, "The field 'fancy' is not valid"),
    ],
)
def test_an_index_that_cannot_be_built_is_told_without_a_document(client, document, index, words):
    stream = made({"again.c": [bson.encode(document)]}, [{"v": 2, "name": "mine", **index}])
    with pytest.raises(OpenHIMError, match=r"again\.c: the indexes mine can't be built") as error:
        load.load(stream, client)
    assert words in str(error.value)
    assert "Jane" not in str(error.value)


def test_no_document_is_logged_at_any_level(client, caplog):
    caplog.set_level(0)
    client.openhim.users.insert_one({"_id": "Jane Doe"})
    caplog.clear()
    _, data = dumped(client)
    load.load(io.BytesIO(data), client, rename={"openhim": "again"})
    assert "Jane" not in caplog.text
