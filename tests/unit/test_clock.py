"""What chrony's answers mean, and what chrony is told."""

import copy
from pathlib import Path

import pytest
import yaml
from saltext.openhim import clock, settings
from saltext.openhim.errors import OpenHIMError

EXAMPLE = yaml.safe_load(
    Path(__file__).parents[2].joinpath("pillar/openhim/production.sls").read_text()
)

# Printed by chronyd 4.3.
FOLLOWS = (
    "7F000001,127.0.0.1,3,1795322774.496132551,{offset},-0.000010910,0.000017649,-1.258,-1.455,"
    "25.429,0.000240502,0.000037086,1.0,Normal\n"
)
UNSYNCHRONISED = (
    "00000000,,0,0.000000000,0.000000583,0.000000000,0.000000000,-1.167,0.000,0.000,1.000000000,"
    "1.000000000,0.0,Not synchronised\n"
)
SELECTED = "^,*,127.0.0.1,2,0,377,1,-0.000000601,-0.000011510,0.000121259\n"
SILENT = "^,?,127.0.0.1,0,0,0,4294967295,0.000000000,0.000000000,0.000000000\n"
SERVES_ITSELF = (
    "7F7F0101,,10,1795322774.4,0.000000000,0.0,0.0,-1.258,0.0,0.0,0.000000000,0.0,0.0,Normal\n"
)


def test_a_clock_within_the_limit_is_synchronised():
    found = clock.judge(FOLLOWS.format(offset="0.002"), SELECTED, max_offset_ms=500)
    assert found.status == clock.SYNCHRONISED
    assert found.offset_ms == pytest.approx(-2)
    assert found.stratum == 3
    assert found.source == "127.0.0.1"


@pytest.mark.parametrize(
    ("offset", "word"), [("2.000068426", "2000.1 ms behind"), ("-0.501", "501.0 ms ahead of")]
)
def test_a_clock_that_is_off_is_told_in_milliseconds_and_direction(offset, word):
    found = clock.judge(FOLLOWS.format(offset=offset), SELECTED, max_offset_ms=500)
    assert found.status == clock.OFFSET_TOO_LARGE
    assert word in found.reason
    assert "at most 500 ms" in found.reason


def test_a_server_that_does_not_answer_is_named():
    found = clock.judge(UNSYNCHRONISED, SILENT, max_offset_ms=500)
    assert found.status == clock.NO_SOURCE
    assert found.offset_ms is None
    assert "no server answers: 127.0.0.1" in found.reason


def test_a_source_that_was_lost_is_no_source_though_tracking_still_looks_normal():
    # chronyd keeps the last reference in tracking for hours.
    lost = SELECTED.replace("*", "?").replace("377", "0")
    assert clock.judge(FOLLOWS.format(offset="0"), lost, 500).status == clock.NO_SOURCE


def test_no_server_at_all_is_told_apart_from_a_silent_one():
    found = clock.judge(UNSYNCHRONISED, "", max_offset_ms=500)
    assert "openhim:clock:servers" in found.reason


def test_only_the_stacks_own_clock_may_follow_itself():
    assert clock.judge(SERVES_ITSELF, "", 500, serves_itself=True).status == clock.SYNCHRONISED
    assert clock.judge(SERVES_ITSELF, "", 500, serves_itself=False).status == clock.NO_SOURCE


@pytest.mark.parametrize("answer", ["", "nonsense", "a,b,c,d,e,f,g,h,i,j,k,l,m,n"])
def test_an_unknown_answer_is_an_error_and_never_a_right_clock(answer):
    with pytest.raises(OpenHIMError, match="something unknown"):
        clock.judge(answer, "", 500)


@pytest.fixture
def stack():
    pillar = copy.deepcopy(EXAMPLE)
    pillar["openhim"]["hosts"]["console"] = {"site": "north", "address": "10.20.9.9"}
    pillar["openhim"]["clock"]["servers"] = ["10.20.9.9", "192.0.2.7"]
    return settings.from_pillar(pillar)


def test_a_host_follows_the_declared_servers_and_serves_nobody(stack):
    lines = clock.configuration(stack, "north-db1").splitlines()
    assert "server 10.20.9.9 iburst" in lines
    assert "server 192.0.2.7 iburst" in lines
    assert not [line for line in lines if line.startswith(("allow", "local"))]


def test_a_declared_clock_serves_the_declared_hosts_and_does_not_ask_itself(stack):
    lines = clock.configuration(stack, "console").splitlines()
    assert "server 10.20.9.9 iburst" not in lines
    assert "server 192.0.2.7 iburst" in lines
    assert "local stratum 10" in lines
    assert "allow 10.20.1.21" in lines
    assert "allow" not in lines  # that would serve the world


@pytest.mark.parametrize(
    ("bounding", "may"), [("000001ffffffffff", True), ("00000000fdecafff", False)]
)
def test_whether_the_clock_may_be_set_is_read_from_the_capabilities(tmp_path, bounding, may):
    status = tmp_path / "status"
    status.write_text(f"Name:\tsystemd\nCapBnd:\t{bounding}\n")
    assert clock.may_set_clock(str(status)) is may
