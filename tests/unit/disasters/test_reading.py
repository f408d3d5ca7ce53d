"""What is wrong in a disaster's files is named by file and path, all at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from saltext.openhim.disasters import case, world
from saltext.openhim.disasters.case import CaseError

DISASTERS = Path(__file__).resolve().parents[3] / "disasters"


@pytest.fixture
def folder(tmp_path):
    """A copy of a good case, to be spoilt."""
    shutil.copytree(DISASTERS.parent / "pillar", tmp_path / "pillar")
    target = tmp_path / "disasters" / "primary-site-loses-power"
    shutil.copytree(DISASTERS / target.name, target)
    case.read(target)
    return target


def problems(folder):
    with pytest.raises(CaseError) as caught:
        case.read(folder)
    assert f"in the disaster {folder.name!r}" in str(caught.value)
    return caught.value.problems


def change(folder, name, **values):
    path = folder / name
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


@pytest.mark.parametrize("name", [case.README, case.TOPOLOGY, case.HAPPENS, case.EXPECTED])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert problems(folder) == [f"{name}: found no such file"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- power_lots: {site: north}", "happens.yaml:0:power_lots: found an unknown word"),
        ("- power_lots: {site: north}", "did you mean 'power_lost'?"),
        ("- power_lost: {site: nroth}", "happens.yaml:0:power_lost:site: found 'nroth'"),
        ("- power_lost: {site: nroth}", "did you mean 'north'?"),
        ("- power_lost: {}", "happens.yaml:0:power_lost: found neither a site nor a host"),
        ("- power_lost: {site: north, host: north-db1}", "found both a site and a host"),
        ("- power_lost: {sight: north}", "happens.yaml:0:power_lost:sight: found an unknown key"),
        ("- power_lost", "happens.yaml:0: found 'power_lost'; allowed a mapping with one key"),
        ("- {frozen: {host: north-db1}, thawed: {host: north-db1}}", "found 2 keys (frozen, thawed)"),
        ("- lagging: {host: south-db1, seconds: long}", "happens.yaml:0:lagging:seconds: found"),
        ("- lagging: {host: south-core, seconds: 3}", "allowed a host with a member"),
        ("[]", "happens.yaml: found an empty list"),
        ("- [", "happens.yaml: is no YAML"),
    ],
)  # fmt: skip
def test_what_cannot_happen_is_named(folder, text, expected):
    (folder / "happens.yaml").write_text(text)
    assert any(expected in one for one in problems(folder)), problems(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"allowed": ["failover suoth"]}, "expected.yaml:allowed:0: found 'failover suoth'"),
        ({"allowed": ["failover suoth"]}, "did you mean 'failover south'?"),
        ({"refused": {"failover south": []}}, "expected.yaml:refused:failover south: found"),
        ({"members": {"south-db2": "dead"}}, "did you mean 'south-db1'?"),
        ({"members": {"south-db1": "PRIMRY"}}, "did you mean 'PRIMARY'?"),
        ({"silent": ["south-db9"]}, "expected.yaml:silent:0: found 'south-db9'"),
        ({"way_forward": {"then": "backup"}}, "expected.yaml:way_forward:words: found nothing"),
        ({"outcome": "good"}, "expected.yaml:outcome: found an unknown key"),
        (
            {"refused": {"backup": "x"}, "allowed": ["backup"]},
            "expected.yaml:refused:backup: found it under allowed, too",
        ),
    ],
)
def test_what_cannot_be_expected_is_named(folder, values, expected):
    change(folder, "expected.yaml", **values)
    assert any(expected in one for one in problems(folder)), problems(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pillar: ../exmaple.sls", "../exmaple.sls: cannot be read: No such file"),
        ("{}", "topology.yaml:pillar: found nothing"),
        (
            "{pillar: ../../pillar/openhim/production.sls, differences: {active_site: nort}}",
            "topology.yaml: openhim:active_site: found 'nort'",
        ),
        ("{pillar: ../../pillar/openhim/production.sls, differences: [north]}", "topology.yaml:differences: found a list"),
    ],
)  # fmt: skip
def test_a_topology_that_may_not_be_is_named(folder, text, expected):
    (folder / "topology.yaml").write_text(text)
    assert any(expected in one for one in problems(folder)), problems(folder)


def test_all_problems_are_told_at_once(folder):
    (folder / "happens.yaml").write_text("- thawd: {}\n- frozen: {host: x}\n")
    change(folder, "expected.yaml", allowed=["none"])
    assert len(problems(folder)) == 3


def test_a_readme_without_words_is_refused(folder):
    (folder / "README.md").write_text("# The primary site loses power\n")
    assert problems(folder) == [
        "README.md: found no heading with a paragraph; allowed '# Title' and text"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- power_lost: {site: north}\n- fenced: {site: north}", "nobody can fence it"),
        ("- rejoined: {site: north}", "nothing was recovered"),
        ("- partitioned: {one: north, other: north}", "found 'north' twice"),
        ("- decided: {for: Ada, by: Chi}", "nobody who is heard knows of a recovery by 'Ada'"),
    ],
)
def test_what_is_impossible_as_things_are_is_named(folder, text, expected):
    (folder / "happens.yaml").write_text(text)
    with pytest.raises(CaseError, match=expected):
        world.after(case.read(folder))


def test_without_a_master_nobody_can_ask(folder):
    (folder / "happens.yaml").write_text("- power_lost: {site: west}")
    with pytest.raises(world.Impossible, match="new_master"):
        world.after(case.read(folder)).evidence()
