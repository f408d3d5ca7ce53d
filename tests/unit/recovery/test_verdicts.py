"""What each verb refuses, in words that name what was found and the way forward."""

import re
from dataclasses import replace

import pytest
from saltext.openhim.recovery.observations import Attestation, Evidence, Look, Saw
from saltext.openhim.recovery.verdicts import RULES, VERBS, Force, Point, verdict, verdicts

from tests.unit.recovery.reported import LATER, LAYOUT, Fleet, epoch, request

OFF = (Attestation("north", "Ada", None),)


def lost(fleet):
    fleet.lose("north")


def rebuilt(fleet):
    fleet.lose("north")
    fleet.hosts["south-db"].update(holds_data=False)


def served_by_south(fleet):
    """South took over, and north has rejoined and is well."""
    fleet.primary, fleet.cores = "south-db", {"south-core"}
    newest = epoch(completed_at=LATER)
    fleet.configured = newest.id
    for host, state in fleet.hosts.items():
        state.update(epochs=(newest,), admits=host.startswith("south"), rejoined="1")


def core_dead(fleet):
    fleet.cores = set()


def no_egress(fleet):
    for state in fleet.hosts.values():
        state["egress_denied"] = True


def nothing(fleet):
    pass


#: Each verb where nothing speaks against it.
ALLOWED = {
    "provision": ("north", nothing), "backup": ("north", nothing),
    "switchover": ("south", nothing), "failover": ("south", lost), "core": ("north", core_dead),
    "restore": ("north", nothing), "rebuild": ("south", rebuilt),
    "rejoin": ("north", served_by_south), "failback": ("north", served_by_south),
    "fence": ("south", nothing), "unfence": ("south", nothing), "drill": ("south", no_egress),
}  # fmt: skip


def judged(verb, *changes, words=OFF, last=(), **asked):
    site, before = ALLOWED[verb]
    fleet = Fleet()
    before(fleet)
    for change in changes:
        change(fleet)
    evidence = fleet.evidence(attestations=words, last_committed=last)
    if verb == "backup":
        evidence = with_repository(evidence, asked.pop("saw", Saw.RUNNING))
    return verdict(evidence, request(verb, asked.pop("site", site), **asked))


def with_repository(evidence, saw):
    first, *others = evidence.reports
    seen = replace(first, repositories=(Look("far", saw),))
    return replace(evidence, reports=(seen, *others))


def changed(host, **values):
    return lambda fleet: fleet.hosts[host].update(values)


def gone(host):
    return lambda fleet: fleet.down.add(host)


def running(host):
    return lambda fleet: fleet.cores.add(host)


def primary(host):
    return lambda fleet: setattr(fleet, "primary", host)


def unfinished(fleet):
    for state in fleet.hosts.values():
        state["epochs"] = (epoch(),)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_allowed_where_nothing_speaks_against_it(verb):
    assert judged(verb).reasons == ()
    assert verb in RULES


def given_up(site):
    newest = epoch(active_site="north", lost_sites=(site,), completed_at=LATER)
    return changed("north-db", epochs=(newest,))


REFUSED = [
    ("failover", (), {"words": ()}, "north is not proven closed"),
    ("failover", (), {"words": (Attestation("north", "Ada", "7"),)}, "north is not proven closed"),
    ("failover", (primary("south-db"),), {}, "rs/south-db: PRIMARY .* MongoDB takes writes there"),
    ("failover", (lambda f: f.down.discard("north-db"),), {}, "the site north is not lost"),
    ("failover", (), {"confirm": "exmaple"}, "confirm: found 'exmaple'; type .* 'example'"),
    ("failover", (), {"declared_by": " "}, "declared_by: found nothing"),
    ("failover", (), {"reason": ""}, "reason: found nothing"),
    ("failover", (), {"site": "west"}, "site: found 'west'; declared are north, south"),
    ("failover", (gone("south-core"),), {}, "south-core does not answer, and it is to take over"),
    ("failover", (changed("south-db", diverged=True),), {}, "promoted, they would come back"),
    ("failover", (changed("south-db", fenced=True),), {}, "south-db is fenced"),
    ("switchover", (gone("north-db"),), {}, "north-db does not answer, and a planned move"),
    ("switchover", (primary(None),), {}, "rs has no primary that anybody sees"),
    ("switchover", (unfinished,), {}, r"epoch 1 \(failover to south by Ada\) is not finished"),
    ("switchover", (changed("south-db", caught_up=None),), {}, "rs/south-db does not keep up"),
    ("switchover", (), {"site": "north"}, "north is the active site already"),
    ("core", (running("south-core"),), {"words": ()}, "OpenHIM runs on south-core and is not fenced"),
    ("core", (), {"host": "north-db"}, "host: found 'north-db'; those at 'north' .* north-core"),
    ("core", (primary(None),), {}, "rs has no primary"),
    ("core", (given_up("south"),), {"site": "south"}, "south was given up, and its members have no"),
    ("core", (gone("south-db"),), {"words": ()}, "south is not proven closed"),
    ("restore", (changed("north-db", can_keep_aside=None),), {}, "room to keep the present data"),
    ("restore", (gone("south-core"),), {}, "it must be known to be stopped"),
    ("restore", (), {"point": Point("p", False)}, "has no manifest"),
    ("restore", (), {"point": Point("p", True, False)}, "p fails its checks"),
    ("restore", (), {"point": Point("p", True)}, "p was not checked"),
    ("restore", (), {"point": None}, "point: found nothing"),
    ("restore", (), {"site": "south"}, "restored where it is used, at 'north'"),
    ("rebuild", (changed("south-db", holds_data=True),), {}, "south-db holds data"),
    ("rebuild", (changed("south-db", holds_data=None),), {}, "does not say if it holds data"),
    ("rebuild", (lambda f: f.down.discard("north-db"),), {}, "a member survives"),
    ("rebuild", (), {"words": ()}, "north is not proven closed"),
    ("rejoin", (changed("north-db", diverged=True),), {"resync": False}, "only with resync: true"),
    ("rejoin", (changed("north-db", diverged=None),), {}, "does not say whether its history"),
    ("rejoin", (unfinished,), {}, "is not finished; run it again"),
    ("failback", (changed("north-db", caught_up=None),), {}, "north-db has not caught up"),
    ("failback", (changed("north-db", epochs=()),), {}, "north-db does not know the newest epoch"),
    ("failback", (changed("north-core", fenced=True),), {}, "lift the fence by a rejoin"),
    ("fence", (), {"site": "north"}, r"only writable site, .* \(north-db, north-core\)"),
    ("unfence", (changed("north-db", epochs=(epoch(),)), changed("south-db", diverged=True)), {},
     "south-db does not know the newest epoch"),
    ("unfence", (changed("south-db", diverged=True),), {}, "they are not kept"),
    ("drill", (changed("south-db", egress_denied=None),), {}, "not seen to deny egress"),
    ("backup", (), {"saw": Saw.UNREACHABLE}, "no repository is reachable with its key: found far"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "changes", "asked", "expected"), REFUSED)
def test_a_verb_is_refused_for_each_reason(verb, changes, asked, expected):
    reasons = judged(verb, *changes, **asked).reasons
    assert [reason for reason in reasons if re.search(expected, reason)], reasons


def test_a_majority_that_answers_is_left_to_elect_by_itself():
    """And with a primary among it, that one is the reason."""
    fleet = Fleet()
    fleet.primary = None
    voters = ("rs/north-db", "rs/south-db")
    found = verdict(fleet.evidence(voters=voters), request("failover", "south"))
    assert any(
        "2 voters of rs answer (rs/north-db, rs/south-db), a majority" in r for r in found.reasons
    )
    fleet.primary = "north-db"
    found = verdict(fleet.evidence(voters=voters), request("failover", "south"))
    assert not any("a majority" in reason for reason in found.reasons)


def test_what_the_member_itself_objects_counts_where_nobody_else_has_a_reason():
    words = "undeclared:27017 is a primary"
    objecting = changed("south-db", objections=(("rs", words), ("another", "of no concern")))
    assert judged("failover", objecting).reasons == (
        f"rs/south-db, which is to take over, objects: {words}",
    )
    open_site = judged("failover", objecting, words=())
    assert open_site.reasons and not any("objects" in one for one in open_site.reasons)
    assert judged("core", core_dead, objecting).allowed


@pytest.mark.parametrize(("blind", "refused"), [("south-db", True), ("south-core", False)])
def test_members_must_reach_each_other_and_a_core_may_be_kept_away_by_a_lease(blind, refused):
    seen = Fleet().evidence()
    away = Look("rs/north-db", Saw.UNREACHABLE)
    reports = tuple(
        replace(r, members=(away, *r.members[1:])) if r.host == blind else r for r in seen.reports
    )
    found = verdict(replace(seen, reports=reports), request("switchover", "south")).reasons
    expected = f"{blind} do not reach it, so who takes over could not catch up"
    assert (expected in " ".join(found), bool(found)) == (refused, refused)


def test_a_host_that_cannot_say_what_it_sees_is_not_heard_and_its_words_are_told():
    fleet = Fleet()
    fleet.lose("north")
    evidence = fleet.evidence(attestations=OFF)
    reports = tuple(
        replace(r, answered=False, error="no pillar") if r.host == "south-db" else r
        for r in evidence.reports
    )
    found = verdict(replace(evidence, reports=reports), request("failover", "south"))
    assert any("south-db cannot say what it sees (no pillar)" in r for r in found.reasons)


def test_a_declared_member_that_is_not_ours_is_not_provisioned():
    fleet = Fleet()
    reports = list(fleet.evidence().reports)
    looks = (Look("rs/north-db", Saw.UNAUTHORIZED), Look("rs/south-db", Saw.UNAUTHORIZED))
    foreign = [replace(one, members=looks) for one in reports]
    found = verdict(Evidence(LAYOUT, tuple(foreign), "south"), request("provision", "north"))
    assert "refuses our credentials" in found.reasons[0]
    ours, theirs = (Look(f"rs/{h}", Saw.RUNNING, "PRIMARY", None, s)
                    for h, s in (("north-db", "one"), ("south-db", "two")))  # fmt: skip
    split = [replace(one, members=(ours, theirs)) for one in reports]
    found = verdict(Evidence(LAYOUT, tuple(split), "south"), request("provision", "north"))
    assert "belong to different replica sets" in found.reasons[0]


class TestForce:
    """Overrules what costs data or service, and nothing that keeps two histories apart."""

    lag = (("rs", 500.0),)

    def behind(self, **asked):
        def old(fleet):
            fleet.look = lambda host: (
                Look("rs/south-db", Saw.RUNNING, "SECONDARY", committed=400.0)
                if host == "south-db"
                else Look(f"rs/{host}", Saw.UNREACHABLE)
            )

        return judged("failover", old, last=self.lag, **asked)

    def test_is_needed_to_give_up_more_than_the_allowed_lag(self):
        assert "100 s behind the last known write; at most 60 s" in self.behind().reasons[0]
        forced = self.behind(force=Force("example"))
        assert forced.allowed
        assert "100 s behind" in forced.overruled[0]

    def test_must_name_the_stack_once_more(self):
        found = self.behind(force=Force("exmaple"))
        assert len(found.reasons) == 2
        assert found.overruled == ()

    def test_must_name_the_healthy_primary(self):
        asked = {"site": "north", "force": Force("example", "rs/south-db")}
        assert any("Name it, so that it is certain" in r for r in judged("fence", **asked).reasons)
        asked["force"] = Force("example", "rs/north-db")
        assert judged("fence", **asked).allowed

    @pytest.mark.parametrize(
        ("changes", "words"),
        [((), ()), ((lambda f: f.hosts["south-db"].update(epochs=(epoch(id="x"),)),
                    lambda f: f.hosts["south-core"].update(epochs=(epoch(id="y"),))), OFF)],
    )  # fmt: skip
    def test_never_overrules_an_open_site_or_a_conflict(self, changes, words):
        found = judged("failover", *changes, words=words, force=Force("example"))
        assert not found.allowed


def test_a_conflict_of_records_refuses_every_verb_but_those_that_harm_nothing():
    def conflict(fleet):
        fleet.hosts["north-db"].update(epochs=(epoch(id="x"),))
        fleet.hosts["south-db"].update(epochs=(epoch(id="y"),))

    fleet = Fleet()
    conflict(fleet)
    requests = [request(verb, "south") for verb in VERBS]
    found = verdicts(fleet.evidence(), requests)
    told = {verb for verb, one in found.items() if any("contradict" in r for r in one.reasons)}
    assert set(VERBS) - told == {"backup", "drill", "fence"}


def test_an_unknown_verb_and_what_was_not_seen_are_told():
    found = verdict(Fleet().evidence(), request("dance", "south"))
    assert "found 'dance'; it is one of provision, backup" in found.reasons[0]
    assert judged("failover").unseen == ("north-db", "north-core")
