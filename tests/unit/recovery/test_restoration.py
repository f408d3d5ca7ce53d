"""A restore in place, decided: what goes on, what begins, and what came of it."""

from dataclasses import replace

import pytest
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import restoration
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.restoration import Asked

DECLARED = {"active_site": "north", "profile": "production"}
ASKED = Asked(confirm="example", point="latest", reason="a bad script", declared_by="Ada")
WRITE = {"openhim": {"ts": [100, 1], "wall": "2026-01-31T12:00:00.500+00:00"}}
PRESENT = {"last_write": WRITE, "half_replaced": None, "restored": None, "aside": None}
EPOCH = Epoch(
    3, "the-restore", "the-failover", "restore", "example", "south", "reduced", ("north",),
    "Ada", "a bad script", "2026-01-31T12:01:00+00:00",
    evidence={
        "asked": ASKED.target, "point": "p", "to_time": None, "last_write": WRITE,
        "until": {"openhim": "2026-01-31T11:58:00Z"}, "minted_at": "2026-01-31T12:01:30+00:00",
        "aside": {"point": "aside", "repository": "near"},
    },
)  # fmt: skip
FAILOVER = replace(EPOCH, number=2, id="the-failover", parent=None, kind="failover", evidence={})
DONE = replace(EPOCH, completed_at="2026-01-31T12:03:00+00:00")
HALF = {"point": "p", "epoch_id": "the-restore", "begun_at": "2026-01-31T12:02:00+00:00"}


@pytest.mark.parametrize(
    ("history", "asked", "present", "goes_on"),
    [
        ([], ASKED, {}, False),
        ([FAILOVER], ASKED, {}, False),
        ([DONE], ASKED, {}, False),
        ([EPOCH], ASKED, {}, True),
        ([EPOCH], replace(ASKED, point="verified"), {}, False),
        ([EPOCH], replace(ASKED, to_time="2026-01-31T11:00:00Z"), {}, False),
        ([EPOCH], ASKED, {"last_write": {"openhim": None}}, False),
        ([EPOCH], ASKED, {"last_write": {}, "half_replaced": HALF}, True),
        ([EPOCH], ASKED, {"last_write": {}, "half_replaced": {"epoch_id": "x"}}, False),
        ([EPOCH], ASKED, {"last_write": {}, "half_replaced": {"point": "p"}}, False),
        ([EPOCH], ASKED, {"last_write": {}, "restored": {"epoch_id": "the-restore"}}, True),
        ([EPOCH], ASKED, {"last_write": {}, "restored": {"epoch_id": "an older one"}}, False),
    ],
)
def test_a_restore_goes_on_only_where_nothing_is_lost_by_it(history, asked, present, goes_on):
    found = restoration.continued(history, asked, {**PRESENT, **present})
    assert (found is not None) == goes_on


def test_a_marker_tells_nothing_while_the_data_is_half_replaced():
    present = {**PRESENT, "restored": {"epoch_id": EPOCH.id}}
    assert restoration.replaced(EPOCH, present)
    assert not restoration.replaced(EPOCH, {**present, "half_replaced": HALF})


def test_what_is_half_replaced_inherits_what_was_kept_before_it_was():
    present = {**PRESENT, "last_write": {}, "half_replaced": HALF}
    found = restoration.inherited([FAILOVER, EPOCH], present)
    assert found == {"aside": {**EPOCH.evidence["aside"], "by_epoch": 3}, "last_write": WRITE}
    assert restoration.inherited([FAILOVER, EPOCH], PRESENT) is None
    assert restoration.inherited([FAILOVER], present) is None


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (None, (None, "north", "production", ())),
        (FAILOVER, ("the-failover", "south", "reduced", ("north",))),
        (
            replace(FAILOVER, rejoins=({"site": "north"},)),
            ("the-failover", "south", "production", ()),
        ),
    ],
)
def test_the_reality_stays_what_it_was(newest, expected):
    found = restoration.next_epoch("example", DECLARED, newest)
    keys = ("parent", "active_site", "profile", "lost_sites")
    assert tuple(found[key] for key in keys) == expected
    assert found["kind"] == "restore"


@pytest.mark.parametrize(
    ("epoch", "refused"),
    [(FAILOVER, True), (DONE, False), (EPOCH, False), (replace(FAILOVER, completed_at="x"), False)],
)
def test_another_recovery_is_finished_first(epoch, refused):
    assert bool(restoration.unfinished([epoch], PRESENT)) == refused
    assert restoration.unfinished([], PRESENT) is None
    # It waits for OpenHIM, which does not start on data that is half replaced.
    assert restoration.unfinished([epoch], {**PRESENT, "half_replaced": HALF}) is None


@pytest.mark.parametrize(
    ("time", "result", "refused"),
    [
        ("2026-01-31T12:01:30Z", {}, False),
        ("2026-01-31T12:01:31Z", {}, True),
        ("2026-01-31T12:01:31Z", {"served_at": "2026-01-31T12:02:30+00:00"}, True),
        ("2026-01-31T12:02:31Z", {"served_at": "2026-01-31T12:02:30+00:00"}, False),
    ],
)
def test_nobody_goes_back_to_a_time_when_data_was_being_replaced(time, result, refused):
    found = restoration.amid_another([FAILOVER, replace(EPOCH, result=result)], time)
    assert bool(found) == refused
    if refused:
        assert "was being replaced by epoch 3 (restore to south by Ada)" in found


@pytest.mark.parametrize(
    ("until", "last_write", "expected"),
    [
        ({"openhim": "2026-01-31T11:58:00Z"}, WRITE, 120.5),
        ({"openhim": "2026-01-31T12:59:00Z"}, WRITE, 0.0),
        ({"openhim": "2026-01-31T11:58:00Z", "audit": "2026-01-31T11:00:00Z"}, WRITE, None),
        ({"openhim": "2026-01-31T11:58:00Z"}, {"openhim": None}, None),
        ({}, WRITE, None),
    ],
)
def test_what_is_given_up_is_measured_or_not_known(until, last_write, expected):
    assert restoration.gives_up(until, last_write) == expected


def test_the_result_has_its_figures_and_says_where_the_rest_is():
    found = restoration.result(EPOCH, "2026-01-31T12:02:00+00:00")
    assert (found["rpo_seconds"], found["rto_from_declaration_seconds"]) == (120.5, 60.0)
    assert found["rto_seconds"] is None
    assert "RTO from the disruption is not known, because nobody said when it was" in found["notes"]
    assert "what was given up is kept aside as aside in near" in found["notes"]
    spoilt = replace(EPOCH, disrupted_at="2026-01-31T11:59:00+00:00")
    found = restoration.result(spoilt, "2026-01-31T12:02:00+00:00")
    assert (found["rpo_seconds"], found["rto_seconds"]) == (120.5, 180.0)
    assert not any("not known" in note for note in found["notes"])


def test_what_nobody_knows_is_refused_by_its_name():
    with pytest.raises(OpenHIMError, match="restore: found pont; known are confirm, declared_by"):
        Asked.read({"pont": "latest"})
    assert Asked.read({"point": "latest", "to_time": None}).problems() == []
    assert Asked.read({"point": "x", "without_aside_reason": "why"}).problems() == [
        "without_aside_reason: found one, and without_aside is not true; say both"
    ]
