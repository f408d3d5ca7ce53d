"""A replay ends with exactly what there was at the time that was asked for."""

import random
import threading
from datetime import datetime, timedelta, timezone

import pytest
from bson import Timestamp
from pymongo import IndexModel, WriteConcern
from saltext.openhim.backup.oplog import chain
from saltext.openhim.backup.oplog.chain import TimeNotReachable
from saltext.openhim.backup.oplog.replay import ReplayFailed, replay, replay_to
from saltext.openhim.backup.oplog.slices import DamagedSlice
from saltext.openhim.backup.oplog.store import compact
from saltext.openhim.errors import Unauthorized

from tests.functional.backup.oplog.conftest import (
    SET,
    archiver_of,
    archiving,
    contents,
    copy_at,
    majority_time,
    snapshot,
    structure,
    until_archived,
    write,
)
from tests.functional.conftest import eventually

RENAME = {"openhim": "restored"}


@pytest.fixture(autouse=True)
def no_ttl(client):
    """As on every server that is restored to."""
    client.admin.command({"setParameter": 1, "ttlMonitorEnabled": False})
    yield
    client.admin.command({"setParameter": 1, "ttlMonitorEnabled": True})


def _replayed(client, store, base, to, **options):
    options = {"rename": RENAME, "databases": ["openhim"], **options}
    return replay_to(client, store, replica_set=SET, base=base, to=to, **options)


def _note(client):
    """A cluster time that the majority has, after all that was written."""
    write(client.other.notes, {})
    return majority_time(client)


def _through(single, client, store, change, at_once=True):
    """The base before ``change``, the archive of it, and the replay of it beside it."""
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    change()
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    done = _replayed(client, store, base, to)
    assert contents(client, "restored") == contents(client, "openhim")
    assert structure(client, "restored") == _renamed(structure(client, "openhim"))
    return done


def _renamed(found):
    return {
        name: (kind, options, [{**index} for index in indexes])
        for name, (kind, options, indexes) in found.items()
    }


class Writers:
    """Numbered documents, one by one and in transactions; what was acknowledged, and when asked."""

    def __init__(self, client, collection):
        self.client = client
        self.collection = collection
        self.begun, self.acknowledged = 0, 0
        self.stop = threading.Event()
        self.ended_well = False

    def one(self):
        number = self.begun
        self.begun += 1
        write(self.collection, {"_id": number, "x": "y" * random.randint(0, 300)})  # noqa: S311
        self.acknowledged = number + 1

    def several(self):
        first, self.begun = self.begun, self.begun + 5

        def insert(session):
            for number in range(first, first + 5):
                self.collection.insert_one({"_id": number, "tx": first}, session=session)

        with self.client.start_session() as session:
            session.with_transaction(insert)
        self.acknowledged = first + 5

    def wait_for(self, more):
        enough = self.acknowledged + more
        eventually(lambda: self.acknowledged >= enough, what="more numbers")

    def run(self):
        while not self.stop.is_set():
            self.one()
            self.several()
        self.ended_well = True


def test_bounds_every_acknowledged_number_is_there_and_no_later_one(single, client, store):
    """The heart of it: any number of times, each against the very contents of that time."""
    majority = {"write_concern": WriteConcern("majority")}
    writers = [
        Writers(client, client.openhim.get_collection(f"numbers{n}", **majority)) for n in range(2)
    ]
    for each in writers:
        each.one()
    base = majority_time(client)
    threads = [threading.Thread(target=each.run, daemon=True) for each in writers]
    with archiving(single, store, interval=0.3, begin_at=base) as archiver:
        for thread in threads:
            thread.start()
        moments = []
        for _ in range(4):
            for each in writers:
                each.wait_for(12)
            before = [each.acknowledged for each in writers]
            at = majority_time(client)
            moments.append((at, before, [each.begun for each in writers]))
        for each in writers:
            each.stop.set()
        for thread in threads:
            thread.join(30)
        assert all(each.ended_well for each in writers)
        until_archived(archiver, _note(client))
    for at, acknowledged, begun in moments:
        client.drop_database("restored")
        copy_at(client, "openhim", "restored", base)
        done = _replayed(client, store, base, at)
        assert contents(client, "restored") == snapshot(client, "openhim", at)
        assert done.transactions > 0
        for number, each in enumerate(writers):
            there = sorted(client.restored[each.collection.name].distinct("_id"))
            assert there == list(range(len(there)))
            assert acknowledged[number] <= len(there) <= begun[number]
    assert moments[0][1] < moments[-1][1]


def test_it_begins_after_the_bases_entry_and_stops_at_the_very_one(single, client, store):
    begin = _note(client)
    base = write(client.openhim.numbers, {"_id": 0})
    times = [write(client.openhim.numbers, {"_id": number}) for number in range(1, 6)]
    archiver_of(single, store, begin_at=begin).catch_up()
    for number, at in enumerate(times, 1):
        client.drop_database("restored")
        copy_at(client, "openhim", "restored", base)
        done = _replayed(client, store, base, at)
        assert (done.last, done.applied) == (at, {"inserts": number})
        assert client.restored.numbers.distinct("_id") == list(range(number + 1))
        just_before = Timestamp(at.time, at.inc - 1)
        client.drop_database("restored")
        copy_at(client, "openhim", "restored", base)
        _replayed(client, store, base, just_before)
        assert client.restored.numbers.distinct("_id") == list(range(number))


def test_updates_upserts_and_deletions(single, client, store):
    numbers = client.openhim.numbers
    numbers.insert_many(
        [{"_id": n, "a": list(range(20)), "b": {"c.d": 1, "$e": 2}} for n in range(9)]
    )

    def change():
        numbers.update_many({}, {"$set": {"a.3": "changed", "new.deep": 1}, "$unset": {"b": 1}})
        numbers.update_one({"_id": 2}, {"$push": {"a": {"$each": [1, 2], "$slice": -5}}})
        numbers.replace_one({"_id": 3}, {"whole": True})
        numbers.update_one({"_id": "upserted"}, {"$inc": {"n": 1}}, upsert=True)
        numbers.update_one({"_id": "upserted"}, {"$inc": {"n": 1}}, upsert=True)
        numbers.delete_one({"_id": 4})
        numbers.insert_one({"_id": 4, "again": True})
        numbers.delete_many({"_id": {"$in": [5, 6]}})
        numbers.find_one_and_update({"_id": 7}, [{"$set": {"p": {"$size": "$a"}}}])

    done = _through(single, client, store, change)
    assert done.applied["updates"] >= 12 and done.applied["deletes"] == 3


def test_a_transaction_larger_than_an_entry_is_replayed_whole(single, client, store):
    client.openhim.big.insert_one({"_id": "before"})

    def change():
        with client.start_session() as session, session.start_transaction():
            for number in range(20):
                client.openhim.big.insert_one(
                    {"_id": number, "x": "z" * 1_000_000}, session=session
                )
            client.openhim.big.delete_one({"_id": "before"}, session=session)

    done = _through(single, client, store, change)
    assert done.transactions == 1 and done.applied == {"inserts": 20, "deletes": 1}


def test_a_chain_that_began_before_the_base_is_found_in_an_older_slice(single, client, store):
    begin = write(client.openhim.big, {"_id": "before"})
    with client.start_session() as session, session.start_transaction():
        for number in range(20):
            client.openhim.big.insert_one({"_id": number, "x": "z" * 1_000_000}, session=session)
    chained = list(
        client.local["oplog.rs"].find(
            {"ts": {"$gt": begin}, "o.applyOps": {"$exists": 1}}, {"ts": 1}
        )
    )
    assert len(chained) == 2
    # A slice ends after each entry.
    archiver_of(single, store, begin_at=begin, max_bytes=1).catch_up()
    for base, there in ((chained[0]["ts"], 1), (chained[1]["ts"], 21)):
        client.drop_database("restored")
        copy_at(client, "openhim", "restored", base)
        assert client.restored.big.count_documents({}) == there
        done = _replayed(client, store, base, _note_archived(single, client, store))
        assert client.restored.big.count_documents({}) == 21
        assert done.operations == 21 - there


def _note_archived(single, client, store):
    to = _note(client)
    archiver_of(single, store).catch_up()
    return to


def test_an_aborted_transaction_leaves_nothing(single, client, store):
    client.openhim.numbers.insert_one({"_id": 0})

    def change():
        with client.start_session() as session:
            session.start_transaction()
            client.openhim.numbers.insert_one({"_id": 1}, session=session)
            session.abort_transaction()
        client.openhim.numbers.insert_one({"_id": 2})

    assert _through(single, client, store, change).applied == {"inserts": 1}


def test_collections_and_indexes_that_come_and_go(single, client, store):
    db = client.openhim
    db.numbers.insert_many([{"_id": n, "n": n, "at": datetime.now(timezone.utc)} for n in range(5)])
    db.going.insert_one({})
    db.numbers.create_index("old")

    def change():
        db.create_collection("empty")
        db.create_collection("german", collation={"locale": "de", "strength": 2})
        db.create_collection("checked", validator={"n": {"$gt": 0}}, validationLevel="moderate")
        db.checked.insert_one({"n": 5})
        db.command("insert", "checked", documents=[{"n": -1}], bypassDocumentValidation=True)
        db.create_collection("capped", capped=True, size=8192, max=5)
        db.capped.insert_many([{"_id": n} for n in range(12)])
        db.numbers.create_indexes(
            [
                IndexModel("n", unique=True),
                IndexModel("at", expireAfterSeconds=3600),
                IndexModel([("a", 1), ("b", -1)], partialFilterExpression={"a": {"$gt": 1}}),
                IndexModel("name", collation={"locale": "en", "strength": 2}, sparse=True),
                IndexModel([("body", "text")]),
                IndexModel([("place", "2dsphere")]),
                IndexModel([("$**", 1)], hidden=True),
            ]
        )
        db.numbers.drop_index("old_1")
        db.command("collMod", "numbers", index={"keyPattern": {"at": 1}, "expireAfterSeconds": 60})
        db.command("collMod", "checked", validator={"n": {"$gt": 1}})
        db.going.drop()
        db.going.insert_one({"_id": "a new one"})
        db.temporary.insert_one({"_id": 1})
        db.temporary.rename("renamed")
        db.one.insert_one({"_id": 1})
        db.two.insert_one({"_id": 2})
        db.one.rename("two", dropTarget=True)
        db.plain.insert_many([{"_id": n} for n in range(3)])
        db.command("convertToCapped", "plain", size=10000)
        db.numbers.aggregate([{"$match": {"n": {"$gt": 2}}}, {"$out": "made"}])
        db.create_collection("seen", viewOn="numbers", pipeline=[{"$match": {"n": 1}}])
        db.command("collMod", "seen", viewOn="numbers", pipeline=[{"$match": {"n": 2}}])
        db.create_collection("unseen", viewOn="numbers", pipeline=[])
        db.drop_collection("unseen")
        with client.start_session() as session, session.start_transaction():
            db.born_in_a_transaction.insert_one({"_id": 1}, session=session)

    done = _through(single, client, store, change)
    assert done.applied["commands"] >= 25
    assert [each["_id"] for each in client.restored.capped.find()] == list(range(7, 12))
    assert client.restored.seen.count_documents({}) == 1


def test_a_time_series(single, client, store):
    client.openhim.numbers.insert_one({"_id": 1})

    def change():
        client.openhim.create_collection(
            "series", timeseries={"timeField": "t", "metaField": "m"}, expireAfterSeconds=10**9
        )
        now = datetime(2026, 1, 1, tzinfo=timezone.utc)
        for number in range(10):
            client.openhim.series.insert_one({"t": now + timedelta(number), "m": 1, "n": number})
        client.openhim.gone.insert_one({})
        client.openhim.create_collection("passing", timeseries={"timeField": "t"})
        client.openhim.passing.drop()

    _through(single, client, store, change)
    fields = {"_id": 0}
    assert list(client.restored.series.find({}, fields)) == list(
        client.openhim.series.find({}, fields)
    )


def test_a_dropped_database(single, client, store):
    client.openhim.numbers.insert_one({"_id": 1})

    def change():
        client.drop_database("openhim")
        client.openhim.after.insert_one({"_id": 2})

    _through(single, client, store, change)


@pytest.fixture
def deleting(replica_set):
    """A set whose TTL monitor is quick."""
    quick = ["--setParameter", "ttlMonitorSleepSecs=1"]
    cluster = replica_set({"north-db1": {"site": "north"}}, extra=quick)
    yield cluster
    cluster.stop()


def test_what_ttl_deleted_before_the_time_is_gone_and_the_rest_is_there(deleting, client, store):
    now = datetime.now(timezone.utc)
    with deleting.members["north-db1"].client() as source:
        events = source.openhim.events
        base = write(events, {"_id": "soon", "at": now + timedelta(seconds=2)})
        before = write(events, {"_id": "late", "at": now + timedelta(hours=1)})
        events.create_index("at", expireAfterSeconds=1)
        eventually(lambda: events.distinct("_id") == ["late"], what="the TTL monitor")
        to = _note(source)
        archiver_of(deleting, store, begin_at=base).catch_up()
    # The TTL monitor is off where it is restored to.
    client.restored.events.insert_one({"_id": "soon", "at": now + timedelta(seconds=2)})
    _replayed(client, store, base, before)
    assert client.restored.events.distinct("_id") == ["late", "soon"]
    _replayed(client, store, before, to)
    assert client.restored.events.distinct("_id") == ["late"]
    assert client.restored.events.index_information()["at_1"]["expireAfterSeconds"] == 1


def test_the_largest_document_and_many_bytes_in_a_batch(single, client, store):
    client.openhim.big.insert_one({"_id": "before"})

    def change():
        client.openhim.big.insert_one({"_id": 1, "x": b"z" * ((16 << 20) - 40)})
        client.openhim.big.insert_many([{"x": b"z" * (3 << 20)} for _ in range(6)])
        client.openhim.big.update_one({"_id": 1}, {"$set": {"x": "small"}})

    _through(single, client, store, change)


def test_a_base_that_lacks_a_document_is_an_error_and_never_a_stub(single, client, store):
    client.openhim.numbers.insert_one({"_id": "secret", "a": 1})
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    client.openhim.numbers.update_one({"_id": "secret"}, {"$set": {"a": "confidential"}})
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    client.restored.numbers.delete_one({"_id": "secret"})
    with pytest.raises(ReplayFailed, match=r"an update of restored.numbers .* is not there") as why:
        _replayed(client, store, base, to)
    assert "secret" not in str(why.value) and "confidential" not in str(why.value)
    assert client.restored.numbers.count_documents({}) == 0


def test_a_second_replay_over_the_same_base_ends_the_same_when_it_is_said_to_be_one(
    single, client, store
):
    client.openhim.numbers.insert_many([{"_id": n} for n in range(5)])
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    numbers = client.openhim.numbers
    numbers.update_one({"_id": 1}, {"$set": {"a": 1}})
    numbers.delete_one({"_id": 1})
    numbers.update_one({"_id": 2}, {"$push": {"a": 1}})
    client.openhim.passing.insert_one({"_id": 1})
    client.openhim.passing.drop()
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    _replayed(client, store, base, to)
    with pytest.raises(ReplayFailed):
        _replayed(client, store, base, to)
    done = _replayed(client, store, base, to, fuzzy=["restored.*"])
    assert contents(client, "restored") == contents(client, "openhim")
    assert done.skipped["restored.numbers (change of what is deleted later)"] == 1


@pytest.mark.parametrize("lacks", ["the document", "the collection"])
def test_what_precedes_a_change_that_may_fail_is_applied_once(single, client, store, lacks):
    """The server rolls it back in the one case, and not in the other."""
    client.openhim.numbers.insert_many([{"_id": n} for n in range(3)])
    client.openhim.passing.insert_many([{"_id": n} for n in range(3)])
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    if lacks == "the document":
        client.restored.passing.delete_one({"_id": 1})
    else:
        client.restored.passing.drop()
    numbers, passing = client.openhim.numbers, client.openhim.passing
    numbers.update_one({"_id": 1}, {"$set": {"a": 1}})
    numbers.delete_one({"_id": 1})
    numbers.insert_one({"_id": 4})
    passing.update_one({"_id": 1}, {"$set": {"a": 1}})
    passing.delete_one({"_id": 1})
    numbers.insert_one({"_id": 5})
    passing.drop()
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    done = _replayed(client, store, base, to, fuzzy=["restored.passing"])
    assert contents(client, "restored") == contents(client, "openhim")
    assert (done.applied["inserts"], done.applied["updates"]) == (2, 1)


def test_a_fuzzy_base_that_lacks_what_is_not_deleted_is_still_an_error(single, client, store):
    client.openhim.numbers.insert_one({"_id": 1})
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    client.openhim.numbers.update_one({"_id": 1}, {"$set": {"a": 1}})
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    client.restored.numbers.delete_one({"_id": 1})
    with pytest.raises(ReplayFailed, match="1 documents that the oplog changes are not there"):
        _replayed(client, store, base, to, fuzzy=["restored.*"])


def test_what_is_not_selected_is_left_alone_and_named(single, client, store):
    client.openhim.numbers.insert_one({"_id": 1})
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    client.openhim.numbers.insert_one({"_id": 2})
    client.openhim.secrets.insert_one({"_id": 1})
    client.openhim.secrets.create_index("a")
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    done = _replayed(client, store, base, to, selection=["openhim.numbers"])
    assert client.restored.list_collection_names() == ["numbers"]
    assert done.skipped["openhim.secrets (not selected)"] == 3
    assert done.skipped["other.notes (not selected)"] >= 1
    assert client.restored.numbers.distinct("_id") == [1, 2]


def test_one_collection_can_get_another_name(single, client, store):
    client.openhim.numbers.insert_one({"_id": 1})
    base = _note(client)
    client.restored.people.insert_one({"_id": 1})
    client.openhim.numbers.insert_one({"_id": 2})
    client.openhim.numbers.create_index("a")
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    names = {"openhim.numbers": "restored.people"}
    _replayed(client, store, base, to, rename=names, selection=["openhim.numbers"])
    assert client.restored.people.distinct("_id") == [1, 2]
    assert "a_1" in client.restored.people.index_information()


def test_a_hole_is_refused_before_anything_is_written(single, client, store):
    client.openhim.numbers.insert_one({"_id": 0})
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    before = contents(client, "restored")
    archiver = archiver_of(single, store, begin_at=base, max_bytes=1)
    for number in range(1, 6):
        client.openhim.numbers.insert_one({"_id": number})
    to = _note(client)
    archiver.catch_up()
    store.remove([store.headers()[2].name])
    with pytest.raises(TimeNotReachable, match="a slice is missing"):
        _replayed(client, store, base, to)
    assert contents(client, "restored") == before


def test_unchecked_a_damaged_slice_ends_the_replay_with_its_name(single, client, store):
    client.openhim.numbers.insert_one({"_id": 0})
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    client.openhim.numbers.insert_one({"_id": 1})
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    (header,) = store.headers()
    path = store.folder / header.name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedSlice, match="cut off"):
        _replayed(client, store, base, to, check_first=False)
    with pytest.raises(TimeNotReachable, match=r"can.t be reached: .* cut off"):
        _replayed(client, store, base, to)


def test_compacted_slices_replay_the_same(single, client, store):
    client.openhim.numbers.insert_one({"_id": 0})
    base = _note(client)
    times = [write(client.openhim.numbers, {"_id": number}) for number in range(1, 9)]
    archiver_of(single, store, begin_at=base, max_bytes=1).catch_up()
    groups = chain.compactable(store.headers(), SET, until=times[5], seconds=10**6)
    assert len(groups) == 1 and len(groups[0]) > 3
    count = len(store.headers())
    compact(store, groups[0])
    assert len(store.headers()) == count - len(groups[0]) + 1
    for number in (3, 8):
        client.drop_database("restored")
        copy_at(client, "openhim", "restored", base)
        _replayed(client, store, base, times[number - 1])
        assert client.restored.numbers.distinct("_id") == list(range(number + 1))


def test_two_roles_suffice(single, client, store, as_user):
    client.openhim.numbers.insert_one({"_id": 1})
    base = _note(client)
    copy_at(client, "openhim", "restored", base)
    client.openhim.numbers.insert_one({"_id": 2})
    client.openhim.create_collection("capped", capped=True, size=4096)
    client.openhim.numbers.create_index("a")
    client.openhim.one.insert_one({})
    client.openhim.one.rename("two")
    client.openhim.command("collMod", "numbers", validator={"a": 1}, validationAction="warn")
    client.openhim.create_collection("seen", viewOn="numbers", pipeline=[])
    client.openhim.two.drop()
    to = _note(client)
    archiver_of(single, store, begin_at=base).catch_up()
    with (
        as_user("readWriteAnyDatabase") as user,
        pytest.raises(Unauthorized, match="needs the roles"),
    ):
        _replayed(user, store, base, to)
    with as_user("restore", "readWriteAnyDatabase") as user:
        _replayed(user, store, base, to)
    assert contents(client, "restored") == contents(client, "openhim")


def test_users_sessions_and_the_sets_own_are_skipped_and_named(single, client, store, as_user):
    client.openhim.numbers.insert_one({"_id": 1})

    def change():
        with as_user("read"):
            client.openhim.numbers.insert_one({"_id": 2})
        client.openhim.numbers.create_index("a")

    skipped = _through(single, client, store, change).skipped
    assert skipped["admin.system.users (MongoDB's own)"] == 2
    assert skipped["startIndexBuild (its end counts)"] == 1
    assert skipped["config.system.indexBuilds (MongoDB's own)"] >= 2


def test_the_bases_own_time_is_reached_without_an_archive(single, client, store):
    base = _note(client)
    assert replay(client, store, chain.plan([], SET, base=base, to=base)).operations == 0
