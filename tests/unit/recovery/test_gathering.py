"""What the master makes of answers; mocked: the hosts, and the master's own look."""

from copy import deepcopy
from dataclasses import replace

import pytest
from saltext.openhim import evidence, record
from saltext.openhim.fleet import Answers
from saltext.openhim.recovery.epochs import plain

from tests.unit.recovery.declared import DECLARED, epoch

WEST = {"site": "west", "address": "10.0.3.1", "roles": ["master"]}


class Fleet:
    """Hosts that answer, by function; who is not in a function's answers is silent."""

    def __init__(self):
        self.answers = {"openhim_dr.sighting": {}, "openhim_lease.granted": {}}
        self.reasons, self.gone = {}, set()

    def asked(self, opts, hosts, function, arguments=(), timeout=30, silent=(), gone=None):
        self.not_waited_for = set(silent)
        said = {
            host: {"ret": ret, "retcode": int(isinstance(ret, str)), "at": 1000.0}
            for host, ret in self.answers[function].items()
            if host in hosts
        }
        self.gone = gone(said) if gone else self.gone
        return Answers(frozenset(said), said)

    def grants(self, host, records=(), **left):
        told = {"grants": left, "epochs": plain(records), "time": 1000.5}
        self.answers["openhim_lease.granted"][host] = told

    def sees(self, host, cores=(), **members):
        """members: host → why its member is not reached; empty where it is."""
        own = dict.fromkeys(
            ("gate_open", "fenced", "admits", "holds_data", "can_keep_aside", "caught_up"), True
        )
        self.answers["openhim_dr.sighting"][host] = {
            **own,
            "members": {
                f"rs/{host.replace('_', '-')}:27017": {
                    "saw": "unreachable" if why else "SECONDARY", "detail": why,
                    "epoch": None, "set_id": None, "committed": None,
                }
                for host, why in members.items()
            },
            "cores": dict.fromkeys(cores, "unreachable"),
            "repositories": {}, "objections": {}, "epochs": [], "time": 1000.0,
        }  # fmt: skip


@pytest.fixture
def fleet(monkeypatch):
    found = Fleet()
    monkeypatch.setattr("saltext.openhim.fleet.asked", found.asked)
    monkeypatch.setattr("saltext.openhim.evidence._own_looks", lambda stack: found.reasons)
    return found


@pytest.fixture
def gathered(fleet, tmp_path, monkeypatch):
    """The evidence about a stack with a lease; its witness is a host of its own at a third site."""
    pillar = {"openhim": deepcopy(DECLARED)}
    pillar["openhim"]["sites"]["west"] = {}
    pillar["openhim"]["hosts"]["west-master"] = WEST
    pillar["openhim"]["lease"] = {"enabled": True, "max_skew_seconds": 1}
    monkeypatch.setattr("saltext.openhim.fleet.declaration", lambda *_: pillar)

    def gather(silent=(), heard=(), **lease):
        pillar["openhim"]["lease"].update(lease)
        opts = {"ext_pillar": [{"openhim_recovery": str(tmp_path)}]}
        asked = replace(evidence.question(opts, "example"), silent=silent, heard=heard)
        return evidence.gather(asked, remember=False)

    return gather


def test_a_witness_that_takes_no_part_in_writes_is_asked_for_its_leases(fleet, gathered):
    fleet.grants("west-master", records=[epoch()], north=12.5, south=None)
    found = gathered()
    witness = found.heard["west-master"]
    assert {grant.site: grant.left for grant in witness.grants} == {
        "north": 12.5,
        "south": float("inf"),
    }
    assert (witness.epochs, witness.clock) == ((epoch(),), 0.5)
    assert found.layout.witnesses == ("west-master",)
    assert found.layout.max_skew == 1
    assert "west-master" not in found.unheard, "it is no host that takes part in a write"


@pytest.mark.parametrize("answer", [None, "this host is not the witness of the lease", {"x": 1}])
def test_a_witness_without_an_answer_that_can_be_read_is_silent(fleet, gathered, answer):
    if answer is not None:
        fleet.answers["openhim_lease.granted"]["west-master"] = answer
    assert "west-master" not in gathered().heard


def test_a_witness_with_a_member_says_both_or_is_silent(fleet, gathered):
    fleet.grants("south-db1", north=3.0)
    assert "south-db1" not in gathered(witness="south-db1").heard
    fleet.sees("south-db1")
    both = gathered(witness="south-db1").heard["south-db1"]
    assert (both.fenced, [grant.left for grant in both.grants]) == (True, [3.0])


def test_a_witness_of_an_earlier_epoch_is_asked_too(fleet, gathered, tmp_path):
    """Its leases may still run, whatever the declaration says now."""
    values = {
        "kind": "failback", "active_site": "north", "profile": "production", "lost_sites": [],
        "declared_by": "Ada", "reason": "again", "declared_at": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    record.declare("example", tmp_path, parent=None, witnesses=("west-master",), **values)
    fleet.grants("west-master", north=7.0)
    assert gathered(enabled=False).heard["west-master"].grants[0].left == 7.0


def test_without_a_lease_nobody_is_asked_for_one(gathered, fleet):
    fleet.grants("west-master", north=7.0)
    found = gathered(enabled=False)
    assert "west-master" not in found.heard
    assert found.layout.witnesses == ()


@pytest.mark.parametrize("enabled", [True, False])
def test_who_was_silent_a_moment_ago_is_asked_and_not_waited_for_again(fleet, gathered, enabled):
    gathered(silent=("north-db1",), enabled=enabled)
    assert fleet.not_waited_for == {"north-db1"}


@pytest.fixture
def question(fleet, gathered, tmp_path):
    """What a plan asked a moment ago, when one host answered; another answers since."""
    opts = {"ext_pillar": [{"openhim_recovery": str(tmp_path)}]}
    fleet.sees("south-core")
    gathered()
    fleet.sees("south-db1")
    return lambda *attested: evidence.question(opts, "example", attested)


def test_a_decision_right_after_its_plan_asks_nobody_again(question):
    assert set(evidence.of_just_now(question(), 15).heard) == {"south-core"}


def test_what_is_attested_with_the_decision_counts_and_nothing_of_the_plan_s(question):
    words = {"site": "north", "by": "Ada", "words": "off", "at": "now"}
    (attested,) = evidence.of_just_now(question(words), 15).attestations
    assert (attested.site, attested.by) == ("north", "Ada")
    assert evidence.of_just_now(question(), 15).attestations == ()


def test_a_decision_long_after_its_plan_asks_everybody_again(question):
    assert set(evidence.of_just_now(question(), 0).heard) == {"south-core", "south-db1"}


def test_a_decision_after_another_recovery_asks_everybody_again(question):
    asked = replace(question(), history=(epoch(),))
    assert set(evidence.of_just_now(asked, 15).heard) == {"south-core", "south-db1"}


def test_where_the_provider_is_asked_too_everybody_is_asked_again(question):
    asked = replace(question(), power=True)
    assert set(evidence.of_just_now(asked, 15).heard) == {"south-core", "south-db1"}


def test_a_decision_upon_another_declaration_asks_everybody_again(question):
    asked = question()
    asked = replace(asked, pillar={**asked.pillar, "another": True})
    assert set(evidence.of_just_now(asked, 15).heard) == {"south-core", "south-db1"}


@pytest.mark.parametrize(
    ("why", "gone"), [("timed out", {"north-db1"}), ("connection refused", set()), ("", set())]
)
def test_a_host_is_gone_where_nobody_got_an_answer_of_any_kind(fleet, gathered, why, gone):
    fleet.sees("south-db1", north_db1=why)
    fleet.sees("south-core", north_db1="timed out")
    gathered()
    assert fleet.gone == gone


@pytest.mark.parametrize(
    ("reason", "gone"),
    [("timed out", {"north-core"}), ("connection refused", set()), (None, set())],
)
def test_so_is_a_host_of_openhim_which_the_master_looks_at_itself(fleet, gathered, reason, gone):
    fleet.reasons = {"north-core": reason}
    fleet.sees("south-core", cores=["north-core"])
    gathered()
    assert fleet.gone == gone


def test_who_was_heard_a_moment_ago_is_not_gone(fleet, gathered):
    fleet.sees("south-db1", north_db1="timed out")
    gathered(heard=("north-db1",))
    assert fleet.gone == set()


@pytest.mark.parametrize("completed", [False, True])
def test_nobody_is_gone_elsewhere_than_at_the_site_that_is_at_stake(
    fleet, gathered, tmp_path, completed
):
    """There a lease or a fence may drop what others send."""
    values = {
        "kind": "failover", "active_site": "south", "profile": "reduced", "lost_sites": ["north"],
        "declared_by": "Ada", "reason": "fire", "declared_at": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    fleet.sees("south-core", north_db1="timed out", south_db1="timed out")
    gathered()
    assert fleet.gone == {"north-db1"}, "south is not active"
    done = record.declare("example", tmp_path, parent=None, **values)
    if completed:
        record.complete("example", done.id, "2026-01-31T12:01:00+00:00", tmp_path)
    gathered()
    assert fleet.gone == ({"south-db1"} if completed else {"north-db1", "south-db1"})


def test_a_host_whose_answer_is_an_error_says_nothing_of_others(fleet, gathered):
    fleet.answers["openhim_dr.sighting"]["south-db1"] = "a traceback"
    gathered()
    assert fleet.gone == set()
