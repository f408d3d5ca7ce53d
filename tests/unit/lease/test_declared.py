"""What the pillar may say of the lease, and what becomes of it on each host."""

import ast
import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from saltext.openhim import firewall, schema, settings
from saltext.openhim.errors import OpenHIMError, PillarError
from saltext.openhim.lease import archive, declared, evidence, host, table, words

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = yaml.safe_load((REPOSITORY / "pillar/openhim/production.sls").read_text())


@pytest.fixture
def openhim():
    found = copy.deepcopy(EXAMPLE["openhim"])
    found["lease"] = {"enabled": True}
    return found


def stack(openhim, **recovery):
    pillar = {**openhim, "recovery": recovery} if recovery else openhim
    return settings.from_pillar({"openhim": pillar})


def test_the_example_with_a_lease_is_allowed(openhim):
    assert not [one for one in schema.check({"openhim": openhim}) if "lease" in one]


@pytest.mark.parametrize(
    ("lease", "words_"),
    [
        ({"renew_every_seconds": 11}, "a third of openhim:lease:seconds"),
        ({"seconds": 5}, "openhim:lease:seconds"),
        ({"seconds": 121}, "openhim:lease:seconds"),
        ({"max_skew_seconds": 0.9}, "may be so far apart"),
        ({"witness": "north-db1"}, "at the active site"),
        ({"witness": "nobody"}, "openhim:lease:witness: found 'nobody'"),
        ({"enabled": "yes"}, "openhim:lease:enabled"),
    ],
)
def test_a_lease_that_cannot_hold_is_refused(openhim, lease, words_):
    openhim["lease"] |= lease
    assert words_ in "\n".join(schema.check({"openhim": openhim}))


def test_a_lease_without_a_witness_or_certificates_is_refused(openhim):
    openhim["hosts"]["master"]["roles"] = ["backup"]
    openhim["mongodb"]["tls"] = False
    del openhim["certificates"]
    found = "\n".join(schema.check({"openhim": openhim}))
    assert "openhim:lease:witness: found nothing" in found
    assert "openhim:certificates: found nothing" in found
    with pytest.raises(PillarError, match="no host with the role master"):
        declared.lease(stack(openhim))


def test_nothing_is_on_a_host_while_it_is_not_enabled(openhim):
    openhim["lease"]["enabled"] = False
    assert declared.lease(stack(openhim)) is None
    assert not any(host.units(stack(openhim), one) for one in openhim["hosts"])
    with pytest.raises(OpenHIMError, match="openhim:lease"):
        host.wanted(stack(openhim), "north-core", None)


def test_each_host_gets_what_its_task_needs(openhim):
    found = stack(openhim)
    assert {one: host.units(found, one) for one in ("master", "north-core", "west-backup")} == {
        "master": (host.WITNESS,),
        "north-core": (host.HOLDER,),
        "west-backup": (),
    }
    assert host.WITNESS_CONFIG in host.wanted(found, "master", "/record.json")
    assert host.wanted(found, "west-backup", None) == {}


def test_only_the_holders_reach_the_witness(openhim):
    found = {one.why: one for one in firewall.openings(stack(openhim), "master")}
    opening = found["the lease's holders ask their witness"]
    assert opening.ports == (declared.PORT,)
    assert set(opening.sources) == {
        entry["address"]
        for name, entry in openhim["hosts"].items()
        if name not in ("master", "west-backup")
    }
    core = {one.why for one in firewall.openings(stack(openhim), "north-core")}
    assert "the lease's holders ask their witness" not in core


def test_the_cores_of_another_site_are_let_in_only_where_that_site_is_active(openhim):
    south_core, north_core = "10.20.2.21", "10.20.1.21"
    north = table.scope(stack(openhim), "north-db1")
    assert south_core not in north.without
    assert north_core not in north.without
    moved = stack(openhim, epoch=1, active_site="south", lost_sites=["north"])
    assert south_core in table.scope(moved, "north-db1").without
    assert south_core not in table.scope(moved, "south-db1").without


def test_openhims_ports_are_those_of_hosts_that_may_run_it(openhim):
    assert table.scope(stack(openhim), "north-db1").core == ()
    core = table.scope(stack(openhim), "north-core", [6001, 27017])
    assert core.core == (5000, 5001, 6001, 8080)
    assert core.members == (27017,)


def test_a_host_with_a_member_and_openhim_knows_them_apart():
    both = table.Scope((27017,), (8080,), ("10.0.0.1", "fd00::1"), runs_core=True)
    text = table.closed(both, mongod_user=110)
    assert "meta skuid { 0, 110 } tcp dport { 27017 } accept" in text
    assert "ip6 saddr { fd00::1 } tcp dport { 27017 } accept" in text
    assert "skuid" not in table.closed(table.Scope((27017,), (), (), runs_core=False))


def test_both_programs_run_with_nothing_but_python(tmp_path):
    path = tmp_path / "lease.pyz"
    path.write_bytes(archive.content())
    for program in ("agent", "witness"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(path), program, "/nonexistent.json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (
            "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent" in done.stderr
        )
    assert archive.content() == path.read_bytes()


def test_the_programs_carry_no_module_that_they_do_not_import():
    own = REPOSITORY / "_utils/saltext/openhim"
    imported = set()
    for name in archive.MODULES:
        tree = ast.parse((own / f"{name.replace('.', '/')}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saltext"):
                base = node.module.removeprefix("saltext.openhim").lstrip(".")
                imported |= {f"{base}.{one.name}".lstrip(".") for one in node.names} | {base}
    assert set(archive.MODULES) - imported == {"lease.agent", "lease.witness"}


def test_a_lease_that_the_witness_does_not_know_of_never_ends():
    found = {grant.site: grant.left for grant in evidence.grants({"north": -3.0, "south": None})}
    assert found == {"north": -3.0, "south": float("inf")}


def test_the_report_of_a_witness_tells_its_clock_and_its_records():
    report = evidence.report("master", "west", {"epochs": [], "grants": {}, "time": 101.5}, 100.0)
    assert (report.answered, report.clock, report.site) == (True, 1.5, "west")
    assert evidence.report("master", "west", {"epochs": 1}, 1.0).answered is False


@pytest.mark.parametrize("entry", [{}, {"verb": "take"}, [], None, {"granted": True}])
def test_what_is_no_request_and_no_answer_is_refused(entry):
    with pytest.raises(OpenHIMError):
        words.request(entry)
    with pytest.raises(OpenHIMError):
        words.answer(entry)
