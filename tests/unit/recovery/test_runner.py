"""The runner's decisions on a failover; mocked: the master, and what its hosts answer."""

from dataclasses import replace

import pytest
import salt.exceptions
from saltext.openhim import evidence, record
from saltext.openhim.fleet import Answers
from saltext.openhim.recovery import steps
from saltext.openhim.recovery.epochs import plain
from saltext.openhim.recovery.observations import Grant, Report, probed
from saltext.openhim.recovery.verdicts import Request
from saltext.openhim.runners import openhim_dr

from tests.unit.recovery.declared import ASKED, DECLARED, OFF, VOTES, WHY, lost, seeing, stack


class Hosts:
    """What the hosts are like, to be changed by a test, and what they were asked."""

    def __init__(self, directory):
        self.directory = directory
        self.traces = {"votes": VOTES, "noted": False, "epoch": None}
        self.asked = []
        self.told, self.closed = set(), set()
        self.change = lambda found: found

    def history(self):
        return tuple(record.history("example", self.directory))

    def pillar(self, opts=None, name="example", parameter="confirm"):
        known = self.history()
        overlay = known[-1].overlay() if known else {}
        return {"openhim": {**DECLARED, "recovery": overlay}}

    def gather(self, asked, repositories=False, remember=True):
        known = asked.history
        found = lost(known)
        reports = tuple(
            replace(r, epochs=known if r.host in self.told else (), admits=r.host in self.told)
            for r in found.reports
        )
        return self.change(
            replace(found, reports=reports, attestations=evidence._attestations(asked))
        )

    def cmd(self, opts, hosts, function, arguments, timeout):
        self.asked.append((sorted(hosts), function))
        if function == "openhim_dr.tell":
            self.told |= set(hosts)
        if function == "openhim_dr.close":
            self.closed |= set(hosts)
        own = {
            "epochs": plain(self.history()), "gate_open": True, "fenced": False,
            "holds_data": True, "can_keep_aside": True, "caught_up": True, "time": 0.0,
        }  # fmt: skip
        return {
            host: {"ret": {**own, "admits": host not in self.closed}, "retcode": 0, "at": 0.0}
            for host in hosts
        }

    def ask(self, opts, hosts, function, arguments=(), timeout=30):
        self.asked.append((hosts, function))
        return {host: self.traces for host in hosts}


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """North is lost, and nobody has declared anything."""
    known = Hosts(tmp_path)
    opts = {"ext_pillar": [{"openhim_recovery": str(tmp_path)}]}
    monkeypatch.setattr(openhim_dr, "__opts__", opts, raising=False)
    monkeypatch.setattr("saltext.openhim.fleet.declaration", known.pillar)
    monkeypatch.setattr("saltext.openhim.fleet.cmd", known.cmd)
    monkeypatch.setattr("saltext.openhim.fleet.ask", known.ask)
    monkeypatch.setattr("saltext.openhim.fleet.asked", lambda *_, **__: Answers(frozenset()))
    monkeypatch.setattr("saltext.openhim.evidence.gather", known.gather)
    return known


def refused(function, *args, **kwargs):
    with pytest.raises(salt.exceptions.CommandExecutionError) as error:
        function(*args, **kwargs)
    return str(error.value)


def test_without_a_proof_that_the_lost_site_is_off_nothing_is_declared(hosts):
    plan = openhim_dr.failover_plan(**ASKED)
    assert len(plan["refusals"]) == 1
    assert "north is not proven closed" in plan["refusals"][0]
    assert "attest that" in plan["refusals"][0]
    assert "the failover is refused:\nnorth is not" in refused(openhim_dr.failover_declare, **ASKED)
    assert hosts.history() == ()


def test_a_word_for_the_lost_site_is_enough_and_is_recorded_with_who_gave_it(hosts):
    plan = openhim_dr.failover_plan(**ASKED, attest=OFF)
    assert plan["refusals"] == []
    assert plan["unseen"] == ["north-core", "north-db1", "north-db2"]
    assert plan["promote"] == {"rs": "south-db1"}
    assert (plan["hosts"], plan["cores"]) == (["south-core", "south-db1"], ["south-core"])
    assert plan["handing_over"] == ["south-db1"]
    assert plan["overlay"]["lost_sites"] == ["north"]
    assert hosts.history() == (), "a question changes nothing"
    assert openhim_dr.failover_declare(**ASKED, attest=OFF) == {"epoch": 1, "resumed": False}
    (epoch,) = hosts.history()
    (word,) = epoch.attestations
    assert (word["site"], word["words"], word["by"]) == ("north", OFF["north"], "Ada")
    assert word["at"]


@pytest.mark.parametrize(
    ("attest", "expected"),
    [
        ("north is off", "attest: found 'north is off'; a mapping from a site"),
        ({"west": "it is off"}, "attest: found 'west'; those that can be off are north"),
        ({"south": "it is off"}, "attest: found 'south'; those that can be off are north"),
        ({"north": " "}, "attest: north: found ' '; say how it is known"),
        ({"north": True}, "attest: north: found True; say how it is known"),
    ],
)
def test_what_is_no_attestation_is_refused_in_words(hosts, attest, expected):
    (said,) = openhim_dr.failover_plan(**ASKED, attest=attest)["refusals"]
    assert said.startswith(expected)


def test_a_failover_that_was_declared_goes_on_and_is_not_declared_again(hosts):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    assert openhim_dr.failover_declare(**ASKED) == {"epoch": 1, "resumed": True}
    assert len(hosts.history()) == 1


def test_it_is_secured_by_the_word_that_is_on_record(hosts):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    done = openhim_dr.secure("failover", **ASKED)
    assert (done["next"], done["done"]) == (steps.PROMOTE, ["tell: south-core, south-db1"])


def test_a_host_of_the_lost_site_that_answers_is_fenced_and_for_the_silent_ones_a_word_is_needed(
    hosts, monkeypatch
):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    fenced = set()

    def back(found):
        """north-core is there again; of the epoch it learns as the others do."""
        reports = {r.host: r for r in found.reports}
        known = hosts.history() if "north-core" in hosts.told else ()
        reports["north-core"] = replace(
            reports["south-core"], host="north-core", site="north", cores=(), epochs=known,
            admits="north-core" not in hosts.closed, fenced="north-core" in fenced,
        )  # fmt: skip
        return replace(found, reports=tuple(reports.values()))

    hosts.change = back
    asked = hosts.cmd

    def cmd(opts, minions, function, arguments, timeout):
        if function == "openhim_fence.fence":
            assert arguments == [1, "Ada", "fire"]
            fenced.update(minions)
        return asked(opts, minions, function, arguments, timeout)

    monkeypatch.setattr("saltext.openhim.fleet.cmd", cmd)
    done = openhim_dr.secure("failover", **ASKED)
    assert fenced == {"north-core"}
    assert "fence: north-core" in done["done"]
    assert done["next"] == steps.PROMOTE


@pytest.fixture
def leased(hosts, monkeypatch):
    """North is cut off and has a lease, which a host at a third site witnesses."""
    monkeypatch.setattr("saltext.openhim.advance.PAUSE", 0.01)
    left = [2.0, 1.0, -0.4, -9.0]

    def with_witness(found):
        plan = replace(found.layout, witnesses=("west-master",))
        known = hosts.history() if "west-master" in hosts.told else ()
        # Its clock is looked at beside a host's that is elsewhere.
        reports = [replace(r, clock=0.0) if r.answered else r for r in found.reports]
        witness = Report(
            "west-master", True, "west", epochs=known, clock=0.0,
            grants=(Grant("north", left[0]),),
        )  # fmt: skip
        if known:
            del left[: len(left) > 1]
        return replace(found, layout=plan, reports=(*reports, witness))

    hosts.change = with_witness
    return left


def test_a_lease_that_runs_out_is_waited_for_and_proves_more_than_a_word(hosts, leased):
    plan = openhim_dr.failover_plan(**ASKED)
    assert (plan["refusals"], plan["wait_seconds"]) == ([], 2.5)
    assert plan["hosts"] == ["south-core", "south-db1"], "a witness has no part in it"
    openhim_dr.failover_declare(**ASKED)
    assert hosts.history()[0].witnesses == (), "a reduced environment has no lease"
    done = openhim_dr.secure("failover", **ASKED)
    assert done["next"] == steps.PROMOTE
    assert "tell: south-core, south-db1, west-master" in done["done"]
    (reason,) = done["waited"]
    assert reason == "the lease of north has not run out yet"
    (step,) = hosts.history()[0].timeline
    assert step["step"] == f"waited until it was over: {reason}"
    assert 0 < step["waited_seconds"] == hosts.history()[0].waited


def test_a_witness_is_asked_anew_once_it_was_told(hosts, leased, monkeypatch):
    """It may have granted a lease in the old epoch between its answer and the new one."""
    openhim_dr.failover_declare(**ASKED)
    leased[:] = [-9.0]
    looks = []
    gather = hosts.gather
    monkeypatch.setattr(
        "saltext.openhim.evidence.gather", lambda *a, **k: looks.append(1) or gather(*a, **k)
    )
    openhim_dr.secure("failover", **ASKED)
    assert len(looks) == 2


def test_a_planned_move_declares_the_lease_again(hosts, leased):
    found = hosts.change(lost(()))
    for verb, expected in (("failover", ()), ("switchover", ("west-master",))):
        assert openhim_dr._witnesses(Request(verb, "south"), found) == expected
    assert openhim_dr._witnesses(Request("failback", "west"), found) == ()


@pytest.fixture
def elected(hosts):
    """MongoDB has elected a primary at south by itself."""
    hosts.change = lambda found: seeing(found, "south-core", south_db1="PRIMARY")
    return hosts


def test_openhim_alone_moves_to_where_there_is_a_primary_and_nothing_is_promoted(elected):
    (reason,) = openhim_dr.core_plan(**ASKED)["refusals"]
    assert "north is not proven closed" in reason
    plan = openhim_dr.core_plan(**ASKED, attest=OFF)
    assert (plan["refusals"], plan["in_place"]) == ([], False)
    assert (plan["cores"], plan["counted"]) == (["south-core"], ["south-db1"])
    assert plan["rpo"]["seconds"] is None
    assert "MongoDB's own election" in plan["rpo"]["words"]
    assert elected.history() == (), "a question changes nothing"
    assert openhim_dr.core_declare(**ASKED, attest=OFF) == {"epoch": 1, "resumed": False}
    (epoch,) = elected.history()
    assert (epoch.kind, epoch.profile, epoch.lost_sites) == ("core", "production", ("north",))
    assert (epoch.evidence["host"], epoch.witnesses) == ("south-core", ())
    assert openhim_dr.core_declare(**ASKED) == {"epoch": 1, "resumed": True}
    assert openhim_dr.secure("core", **ASKED, host="south-core")["done"] == [
        "tell: south-core, south-db1"
    ]


def test_a_failover_beside_an_elected_primary_names_the_way(elected):
    said = "\n".join(openhim_dr.failover_plan(**ASKED, attest=OFF)["refusals"])
    assert "rs/south-db1:27017: PRIMARY (seen from south-core, south-db1)" in said
    assert "Use orch.core or orch.switchover, which go with the primary" in said


def test_openhim_does_not_move_while_no_set_has_a_primary(hosts):
    (reason,) = openhim_dr.core_plan(**ASKED, attest=OFF)["refusals"]
    assert "rs has no primary that anybody sees" in reason


def test_on_which_host_must_be_said_only_where_there_are_several(elected):
    said = "\n".join(openhim_dr.core_plan(**ASKED, host="south-db1", attest=OFF)["refusals"])
    assert "host: found 'south-db1'; those at 'south' with a core are south-core" in said
    nowhere = openhim_dr.core_plan(**{**ASKED, "to_site": "west"})["refusals"]
    assert "site: found 'west'" in "\n".join(nowhere)


def test_at_the_active_site_itself_nothing_goes_on_record(elected):
    """Its host was lost and is made anew, or another one of the site takes over."""

    def at_north(found):
        found = seeing(found, "south-core", south_db1="PRIMARY")
        there = {r.host: r for r in found.reports}
        there["north-core"] = replace(
            there["south-core"], host="north-core", site="north",
            cores=(probed("north-core", "not running"),),
        )  # fmt: skip
        return replace(found, reports=tuple(there.values()))

    elected.change = at_north
    request = {**ASKED, "to_site": "north"}
    plan = openhim_dr.core_plan(**request)
    assert (plan["refusals"], plan["in_place"], plan["overlay"]) == ([], True, {})
    assert plan["cores"] == ["north-core"]
    done = openhim_dr.core_declare(**request)
    assert done == {"epoch": None, "resumed": False, "in_place": True}
    assert elected.history() == ()


@pytest.mark.parametrize(("has", "rpo"), [(True, 0.0), (None, None), (False, None)])
def test_what_an_election_gave_up_is_known_only_from_members_that_can_be_asked(
    elected, monkeypatch, has, rpo
):
    openhim_dr.core_declare(**ASKED, attest=OFF)
    told = {host: {"rs": True} for host in ("north-db2", "south-db1")} | {"north-db1": {"rs": has}}
    monkeypatch.setattr("saltext.openhim.evidence.histories", lambda asked, seen: told)
    monkeypatch.setattr(openhim_dr, "_ask", lambda found, *_, **__: {found[0]: "Successful"})
    result = openhim_dr.conclude("example")
    assert result["rpo_seconds"] == rpo
    assert result["synthetic"] == {"south-core": "Successful"}
    assert result["rto_from_declaration_seconds"] >= 0
    assert elected.history()[0].result["notes"] == result["notes"]


@pytest.fixture
def provider(hosts, monkeypatch, tmp_path):
    """North's provider can be asked: a real program, with a file for each of its hosts."""
    folder = tmp_path / "provider"
    folder.mkdir()
    program = folder / "provider"
    program.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\n'
        'if [ "$1" = off ]; then echo "$2" >> told; test -e broken || echo off > "$2"\n'
        'else cat "$2" 2> /dev/null || echo on; fi\n'
    )
    program.chmod(0o700)
    entry = {
        "run": [str(program), "off", "{host}"], "state": [str(program), "state", "{host}"],
        "when_off": "off", "timeout_seconds": 1,
    }  # fmt: skip
    declared = {**DECLARED, "fencing": {"power_off": entry}}

    def pillar(opts=None, name="example", parameter="confirm"):
        known = hosts.history()
        overlay = known[-1].overlay() if known else {}
        return {"openhim": {**declared, "recovery": overlay}}

    def gather(asked, repositories=False, remember=True):
        found = replace(hosts.gather(asked), powers=asked.powers, switchable=True)
        return evidence._with_powers(asked, found) if asked.power else found

    monkeypatch.setattr("saltext.openhim.fleet.declaration", pillar)
    monkeypatch.setattr("saltext.openhim.evidence.gather", gather)
    return folder


def test_what_is_lost_and_silent_is_switched_off_by_its_provider_and_needs_nobodys_word(
    hosts, provider
):
    """The plan asks how the hosts' power is, and no more."""
    assert openhim_dr.failover_plan(**ASKED)["refusals"] == []
    assert not (provider / "told").exists()
    openhim_dr.failover_declare(**ASKED)
    assert not (provider / "told").exists()
    done = openhim_dr.secure("failover", **ASKED)
    assert done["next"] == steps.PROMOTE
    north = ["north-core", "north-db1", "north-db2"]
    told = [f"power off: {host} (it says 'off')" for host in north]
    assert sorted(done["done"])[:3] == told
    assert sorted((provider / "told").read_text().split()) == north
    (epoch,) = hosts.history()
    noted = sorted((one["site"], one["host"], one["by"]) for one in epoch.power_offs)
    assert noted == [("north", host, "Ada") for host in north]
    assert all(one["words"] == f"{provider}/provider: it says 'off'" for one in epoch.power_offs)
    assert openhim_dr.history("example")[0]["power_offs"] == list(epoch.power_offs)
    # Again: they are looked at anew, and not told anew.
    assert openhim_dr.secure("failover", **ASKED)["next"] == steps.PROMOTE
    assert sorted((provider / "told").read_text().split()) == north
    assert len(hosts.history()[0].power_offs) == 3
    (provider / "north-core").write_text("on again\n")
    (provider / "broken").touch()
    assert "of north-core: it says 'on again'" in refused(openhim_dr.secure, "failover", **ASKED)


def test_a_provider_that_switches_nothing_off_proves_nothing_and_a_word_still_does(hosts, provider):
    openhim_dr.failover_declare(**ASKED)
    (provider / "broken").touch()
    said = refused(openhim_dr.secure, "failover", **ASKED)
    assert "north is not proven closed" in said
    assert "of north-db1: it says 'on'" in said
    assert "attest that" in said
    assert hosts.history()[0].power_offs == ()
    assert openhim_dr.secure("failover", **ASKED, attest=OFF)["next"] == steps.PROMOTE


def test_a_living_primary_forbids_it_even_once_it_is_declared(hosts):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    hosts.change = lambda found: seeing(found, "south-core", north_db1="PRIMARY")
    said = refused(openhim_dr.secure, "failover", **ASKED)
    assert "rs/north-db1:27017: PRIMARY (seen from south-core)" in said
    assert "nobody is promoted beside a living primary" in said


def test_a_step_that_fails_on_a_host_that_answers_ends_it_in_words(hosts, monkeypatch):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    broken = {"ret": "the disk is full", "retcode": 1, "at": 0.0}
    monkeypatch.setattr(
        "saltext.openhim.fleet.cmd", lambda opts, minions, *_: dict.fromkeys(minions, broken)
    )
    said = refused(openhim_dr.secure, "failover", **ASKED)
    assert said.startswith("south-core: could not tell: the disk is full")


def test_a_step_that_is_said_to_be_done_and_is_not_ends_it(hosts, monkeypatch):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    hosts.change = lambda found: replace(
        found, reports=tuple(replace(r, epochs=()) for r in found.reports)
    )
    own = hosts.cmd

    def deaf(opts, minions, *rest):
        answers = own(opts, minions, *rest)
        return {h: {**a, "ret": {**a["ret"], "epochs": []}} for h, a in answers.items()}

    monkeypatch.setattr("saltext.openhim.fleet.cmd", deaf)
    said = refused(openhim_dr.secure, "failover", **ASKED)
    assert "could not tell: it says that it did, and it is not so" in said


def test_what_was_measured_is_told_to_every_host_that_answers_once_it_is_done(hosts, monkeypatch):
    """Told at the declaration only, a host's copy would know of the decision and not of its end."""
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    openhim_dr.reached("example", "told")
    record.conclude("example", hosts.history()[0].id, {"rpo_seconds": 0.0}, hosts.directory)
    told = {}

    def asked(opts, minions, function, arguments=(), timeout=30):
        told.update(dict.fromkeys(minions, (function, *arguments)))
        fine = {"ret": {}, "retcode": 0, "at": 0.0}
        full = {"ret": "the disk is full", "retcode": 1, "at": 0.0}
        return Answers(frozenset(), {"south-core": fine, "south-db1": full})

    monkeypatch.setattr("saltext.openhim.fleet.asked", asked)
    found = openhim_dr.complete("example")
    (epoch,) = hosts.history()
    assert (epoch.timeline[0]["step"], epoch.result) == ("told", {"rpo_seconds": 0.0})
    assert told["north-db1"] == told["south-core"] == ("openhim_dr.tell", plain([epoch]))
    assert found == {
        "completed_at": epoch.completed_at,
        "told": ["south-core"],
        "not_told": {
            "south-db1": "the disk is full",
            **dict.fromkeys(("north-core", "north-db1", "north-db2"), "it gave no answer"),
        },
    }


def test_the_time_of_a_step_is_the_one_on_record(hosts):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    first = openhim_dr.reached("example", "told")["at"]
    assert openhim_dr.reached("example", "told")["at"] == first
    assert hosts.history()[0].timeline == ({"step": "told", "at": first},)


def test_who_only_wants_the_runbook_is_waited_for_by_no_decision(hosts, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "saltext.openhim.bystanders.afterwards", lambda *_: asked.append(1) or {"runbook_at": []}
    )
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    assert asked == []
    assert openhim_dr.failover_plan(**ASKED)["runbook_at"] == []
    assert asked == [1]


def test_what_is_not_on_record_is_not_secured(hosts):
    said = refused(openhim_dr.secure, "failover", **ASKED, attest=OFF)
    assert said == "no failover to south is under way on record; declare it first"


def test_a_failover_that_promoted_nobody_is_taken_back(hosts):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    done = openhim_dr.withdraw("example", **WHY)
    assert (["south-db1"], "openhim_dr.traces") in hosts.asked
    assert (done["epoch"], done["kind"], done["active_site"]) == (2, "withdrawal", "north")
    assert (done["profile"], done["lost_sites"]) == ("production", [])
    assert [epoch.kind for epoch in hosts.history()] == ["failover", "withdrawal"]
    assert stack(**done).replica_sets["rs"].initiator.name == "north-db1:27017"


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        ({"votes": {**VOTES, "north-db1:27017": 0, "north-db2:27017": 0}}, "have no vote"),
        ({"noted": True, "epoch": 1}, "has noted that its promotion in epoch 1 began"),
    ],
)
def test_what_the_survivor_has_of_a_promotion_forbids_it(hosts, traces, expected):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    hosts.traces = {**hosts.traces, **traces}
    assert expected in refused(openhim_dr.withdraw, "example", **WHY)
    assert len(hosts.history()) == 1


def test_a_second_withdrawal_asks_nobody(hosts):
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    openhim_dr.withdraw("example", **WHY)
    hosts.asked.clear()
    assert "nothing to take back" in refused(openhim_dr.withdraw, "example", **WHY)
    assert hosts.asked == []


def test_every_host_is_asked_until_it_knows_the_epoch(hosts, monkeypatch):
    """One is slow, one gives no answer at first, and one never does."""
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    answers = {"north-db1": [1], "south-db1": [None, 0, 1], "south-core": [..., 1]}
    asked = []

    def cmd(behind, function, arguments, timeout):
        asked.append((tuple(behind), function))
        if function == "openhim_dr.tell":
            return {host: {"ret": {}, "retcode": 0} for host in behind}
        if function != "openhim_dr.epoch":
            return {}
        said = {host: answers.get(host, [...])[0] for host in behind}
        for host in behind:
            answers[host] = answers.get(host, [...])[1:] or [...]
        return {h: {"ret": one, "retcode": 0} for h, one in said.items() if one is not ...}

    monkeypatch.setattr(openhim_dr, "_cmd", cmd)
    monkeypatch.setattr(openhim_dr, "PAUSE", 0.01)
    three = dict.fromkeys(answers, 1)
    assert openhim_dr.tell("example", list(answers), step="all know it") == three
    (noted,) = openhim_dr.history("example")[-1]["timeline"]
    assert noted["step"] == "all know it"
    rounds = [behind for behind, function in asked if function == "saltutil.refresh_pillar"]
    assert rounds == [tuple(sorted(three)), ("south-core", "south-db1"), ("south-db1",)]
    with pytest.raises(salt.exceptions.CommandExecutionError, match=r"later .* lost \(no answer\)"):
        openhim_dr.tell("example", ["lost"], timeout=0.1)


def test_the_time_of_a_step_is_on_record_and_in_the_history(hosts):
    with pytest.raises(salt.exceptions.CommandExecutionError, match="no recovery of 'example'"):
        openhim_dr.reached("example", "OpenHIM runs at south")
    openhim_dr.failover_declare(**ASKED, attest=OFF)
    with pytest.raises(salt.exceptions.CommandExecutionError, match="step: found ' '"):
        openhim_dr.reached("example", " ")
    noted = openhim_dr.reached("example", "OpenHIM runs at south")
    (epoch,) = openhim_dr.history("example")
    assert epoch["timeline"] == [{"step": "OpenHIM runs at south", "at": noted["at"]}]
