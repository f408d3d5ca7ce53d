"""A primary gives way to another site and loses nothing; and who has left the history is found out
from real oplogs, of members that run and of members that do not."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
from pymongo import WriteConcern
from saltext.openhim.mongo import change, divergence, handover, offline, promotion
from saltext.openhim.mongo.connection import vantage

from tests.functional.conftest import PATIENCE
from tests.functional.mongodb.conftest import THREE

MOVE = {"epoch": 1, "id": "the move", "kind": "switchover", "active_site": "south",
        "profile": "production", "lost_sites": []}  # fmt: skip
LOSS = {"epoch": 2, "id": "the loss", "kind": "failover", "active_site": "south",
        "profile": "reduced", "lost_sites": ["north"]}  # fmt: skip


#: So many documents are on every member when it is killed, in no checkpoint yet.
KEPT = 300


@pytest.fixture(autouse=True)
def own_notes(tmp_path, monkeypatch):
    """All hosts of these tests are this one, and its own folders are not theirs."""
    monkeypatch.setattr(handover, "NOTES_DIRECTORY", str(tmp_path / "handovers"))
    monkeypatch.setattr(promotion, "NOTES_DIRECTORY", str(tmp_path / "promotions"))


@pytest.fixture(scope="module")
def moved(replica_set):
    """A set that the tests of this file move about."""
    cluster = replica_set(THREE)
    yield cluster
    cluster.stop()


def under(cluster, overlay):
    pillar = copy.deepcopy(cluster.pillar)
    pillar["openhim"]["recovery"] = overlay
    return pillar


def everywhere(cluster, overlay):
    """What every host of the set does, all at once, as an orchestration runs it."""
    pillar = under(cluster, overlay)

    def run(host):
        return handover.hand_over(vantage(pillar, host, "openhim"), PATIENCE)

    with ThreadPoolExecutor(len(cluster.members)) as pool:
        return dict(zip(cluster.members, pool.map(run, cluster.members), strict=True))


def test_a_preview_tells_the_priorities_and_the_hand_over_and_changes_nothing(moved, loaders):
    pillar = under(moved, MOVE)
    assert moved.primary() == "north-db1"
    before = moved.configs()
    states = loaders("north-db1", pillar, test=True).states
    ret = states["mongodb_replset.handed_over"](name="openhim")
    south = moved.members["south-db1"].name
    assert ret["result"] is None
    assert f"{south}: priority from 1 to 11" in ret["changes"]["would"]
    assert f"the primary hands over to {south}" in ret["changes"]["would"]
    assert moved.configs() == before
    assert moved.primary() == "north-db1"


def test_the_primary_hands_over_and_its_last_write_is_in_the_new_one(moved, loaders):
    pillar = under(moved, MOVE)
    with moved.members["north-db1"].client() as client:
        client.openhim.story.insert_one({"number": 1})
    done = everywhere(moved, MOVE)
    assert moved.primary() == "south-db1"
    assert any("handed over to" in line for line in done["north-db1"])
    assert (done["north-db2"], done["south-db1"]) == ([], [])
    noted = loaders("north-db1", pillar).modules["openhim_dr.handed_over"]("openhim")
    assert noted["epoch"] == "the move"
    asked = {"old": noted, "never": {"ts": [noted["ts"][0], 999], "term": noted["term"]},
             "ancient": {"ts": [1, 1], "term": 1}}  # fmt: skip
    has = loaders("south-db1", pillar).modules["openhim_dr.has_writes"]("openhim", asked)
    assert has == {"old": True, "never": False, "ancient": None}
    assert {m["tags"]["epoch"] for m in moved.members["south-db1"].config()["members"]} == {
        "the move"
    }
    with moved.members["south-db1"].client() as client:
        assert client.openhim.story.count_documents({"number": 1}) == 1


@pytest.mark.parametrize("host", THREE)
def test_a_second_time_nothing_changes(moved, loaders, host, test_mode):
    before = moved.configs()
    states = loaders(host, under(moved, MOVE), test=test_mode).states
    ret = states["mongodb_replset.handed_over"](name="openhim", timeout=PATIENCE)
    assert (ret["result"], ret["changes"]) == (True, {}), ret
    assert moved.configs() == before


def test_back_again_the_declared_priorities_hold(moved):
    """At once, though the old primary has given way only a moment ago."""
    back = {**MOVE, "epoch": 2, "id": "back", "kind": "failback", "active_site": "north"}
    done = everywhere(moved, back)
    assert moved.primary() == "north-db1"
    assert any("handed over to" in line for line in done["south-db1"])
    priorities = {m["host"]: m["priority"] for m in moved.members["north-db1"].config()["members"]}
    assert sorted(priorities.values()) == [1, 9, 10]


@pytest.fixture(scope="module")
def lost(replica_set, tmp_path_factory):
    """north-db1 took one write more than anybody else got, and the site was given up."""
    cluster = replica_set(THREE)
    assert cluster.primary() == "north-db1"
    with cluster.members["north-db1"].client() as client:
        client.openhim.story.with_options(
            write_concern=WriteConcern(3, wtimeout=60000)
        ).insert_many([{"number": number} for number in range(KEPT)])
        for host in ("north-db2", "south-db1"):
            cluster.members[host].kill()
        client.openhim.story.with_options(write_concern=WriteConcern(1, j=True)).insert_one(
            {"number": "lost"}
        )
    cluster.members["north-db1"].kill()
    cluster.members["south-db1"].start().wait()
    here = vantage(under(cluster, LOSS), "south-db1", "openhim")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(promotion, "NOTES_DIRECTORY", str(tmp_path_factory.mktemp("notes")))
        promotion.promote(here, "test", "fire", "a person", PATIENCE)
    yield cluster
    cluster.stop()


class TestAfterALoss:
    """Who has left the history, and how it comes back."""

    @pytest.fixture(autouse=True)
    def data(self, lost, monkeypatch, mongod_binary):
        """Each host's member where the test's mongods keep it."""

        def instances(stack, minion_id):
            folder = lost.members[minion_id].folder / "data"
            return [{"set": "openhim", "data": str(folder), "binary": str(mongod_binary),
                     "unit": "mongod-openhim.service"}]  # fmt: skip

        monkeypatch.setattr("saltext.openhim.mongo.config.instances", instances)

    def stands(self, cluster, host, **arguments):
        return divergence.positions(under(cluster, LOSS), host, **arguments)

    def has(self, cluster, **positions):
        return handover.has(vantage(under(cluster, LOSS), "south-db1", "openhim"), positions)

    def test_a_stopped_member_is_not_looked_into_unless_it_is_asked_for(self, lost):
        assert self.stands(lost, "north-db1") == {}

    def test_who_has_a_write_that_did_not_survive_is_told_from_who_has_not(self, lost):
        """Both were killed, and neither runs: their data is looked into, and nobody notices."""
        before = lost.members["south-db1"].config()
        one = self.stands(lost, "north-db1", look=True)["openhim"]
        two = self.stands(lost, "north-db2", look=True)["openhim"]
        assert self.has(lost, one=one, two=two) == {"one": False, "two": True}
        assert one["ts"] > two["ts"]
        assert lost.members["south-db1"].config() == before
        assert lost.states() == {"south-db1": "primary"}

    def test_data_that_is_in_use_is_an_error_in_words(self, lost, mongod_binary):
        folder = lost.members["south-db1"].folder / "data"
        with pytest.raises(Exception, match="cannot be looked at: mongod ended"):
            offline.newest_entry(str(mongod_binary), folder)

    def test_what_diverged_is_kept_aside_and_the_member_copies_everything_anew(self, lost):
        pillar = under(lost, LOSS)
        kept = divergence.keep_aside(pillar, "north-db1", ["openhim"], 2)
        assert divergence.kept(pillar, "north-db1") == [kept["openhim"]]
        assert self.stands(lost, "north-db1", look=True) == {"openhim": None}
        member = lost.members["north-db1"]
        member.start().wait()
        lost.eventually(lambda: lost.states().get("north-db1") == "secondary", what="the copy")
        assert self.stands(lost, "north-db1")["openhim"] is not None
        with member.client() as client:
            found = sorted(one["number"] for one in client.openhim.story.find())
        assert found == list(range(KEPT))
        with offline.opened(str(member.binary), kept["openhim"]) as client:
            written = client.local["oplog.rs"].find({"ui": {"$exists": True}})
            found = [one["o"].get("number") for one in written if one["ns"] == "openhim.story"]
        assert found[-1] == "lost", "what did not survive must be in what is kept aside"

    def test_a_member_that_is_back_gets_its_vote_back_when_the_rejoin_is_on_record(
        self, lost, loaders
    ):
        """Under the failover's epoch, without the site among the lost ones; one vote at a time."""
        lost.members["north-db2"].start().wait()
        lost.eventually(lambda: lost.states().get("north-db2") == "secondary", what="it is back")
        rejoined = {k: v for k, v in LOSS.items() if k != "profile"} | {"lost_sites": []}
        pillar = under(lost, rejoined)
        change.configure(vantage(pillar, "south-db1", "openhim"), PATIENCE)
        config = lost.members["south-db1"].config()
        names = {mongod.name: host for host, mongod in lost.members.items()}
        votes = {names[m["host"]]: (m["votes"], m["priority"]) for m in config["members"]}
        assert votes == {"north-db1": (1, 10), "north-db2": (1, 9), "south-db1": (1, 11)}
        assert lost.primary() == "south-db1"
        with lost.members["north-db2"].client() as client:
            found = sorted(one["number"] for one in client.openhim.story.find())
        assert found == list(range(KEPT)), "the look into its data, after a crash, did it no harm"
