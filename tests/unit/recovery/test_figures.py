"""RPO and RTO: measured or said to be unknown."""

import pytest
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery.figures import after_an_election, figures, moment


def test_rpo_runs_from_the_last_surviving_write_and_rto_to_the_first_service():
    found = figures(
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:05:00Z",
        "2026-01-31T12:05:30Z",
        ["2026-01-31T11:59:58Z", "2026-01-31T11:59:57.5+00:00"],
    )
    assert found["rpo_seconds"] == 2.5  # of the set that kept least
    assert found["rto_seconds"] == 330
    assert found["rto_from_declaration_seconds"] == 30


def test_an_unknown_disruption_leaves_both_unknown_and_says_so():
    found = figures(None, "2026-01-31T12:05:00Z", "2026-01-31T12:05:30Z", ["2026-01-31T11:59:58Z"])
    assert found["rpo_seconds"] is None
    assert found["rto_seconds"] is None
    assert found["rto_from_declaration_seconds"] == 30
    assert "nobody said when it was" in found["notes"][0]


@pytest.mark.parametrize("told", [[], [None], ["2026-01-31T11:59:58Z", None]])
def test_an_unknown_last_write_leaves_rpo_unknown(told):
    found = figures("2026-01-31T12:00:00Z", "2026-01-31T12:05:00Z", "2026-01-31T12:05:30Z", told)
    assert found["rpo_seconds"] is None
    assert "a promoted member has no older write" in found["notes"][0]


TIMES = ("2026-01-31T12:00:00Z", "2026-01-31T12:05:00Z", "2026-01-31T12:05:30Z")


def test_after_an_election_nothing_is_lost_only_if_every_member_says_so():
    found = after_an_election(*TIMES, {"rs/a:1": True, "rs/b:1": True})
    assert (found["rpo_seconds"], found["rto_seconds"]) == (0.0, 330)
    for has, why in (
        (None, "nobody can ask rs/a:1"),
        (False, "rs/a:1 has writes that the elected"),
    ):
        found = after_an_election(*TIMES, {"rs/a:1": has, "rs/b:1": True})
        assert found["rpo_seconds"] is None
        assert why in found["notes"][-1]
    found = after_an_election(None, *TIMES[1:], {"rs/a:1": True})
    assert (found["rpo_seconds"], found["rto_seconds"]) == (0.0, None)
    assert found["notes"][0].startswith("RTO from the disruption is not known")


@pytest.mark.parametrize("text", ["yesterday", "2026-01-31T12:00:00", "12:00", ""])
def test_a_time_without_its_zone_is_refused(text):
    with pytest.raises(OpenHIMError, match=r"disrupted_at: found .*with its zone is needed"):
        moment(text, "disrupted_at")
