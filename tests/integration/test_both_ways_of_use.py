"""The package works installed with pip, and synced from file_roots with nothing installed."""

from __future__ import annotations

import json

import pytest
from saltext.openhim import gate, told

from tests.integration.conftest import HOST, Site, modules, python


def test_what_is_installed_is_found_without_any_sync(installed: Site) -> None:
    """The entry point alone brings every module; the minion's cache holds none."""
    listed = installed.salt("sys.list_modules").data
    assert set(modules("_modules")) <= set(listed)
    extended = list(installed.root.rglob("extmods"))
    assert not [path for folder in extended for path in folder.rglob("openhim*")]


def test_nothing_of_the_package_is_installed_where_it_is_synced(synced: Site) -> None:
    """Else the tests below would prove nothing."""
    done = python(synced.environment, "import saltext.openhim")
    assert "ModuleNotFoundError" in done.stderr


def test_sync_all_finds_every_module(synced: Site) -> None:
    """On the minion and, with the runner of the same name, on the master."""
    assert synced.salt("saltutil.sync_all").returncode == 0
    assert synced.run("saltutil.sync_all").returncode == 0
    for folder, tag in (("_modules", "modules"), ("_states", "states"), ("_beacons", "beacons")):
        kept = {p.stem for p in synced.root.glob(f"**/{HOST}/**/extmods/{tag}/*.py")}
        assert set(modules(folder)) <= kept, f"{tag} on the minion"
    for folder, tag in (("_runners", "runners"), ("_pillar", "pillar")):
        kept = {p.stem for p in synced.root.glob(f"**/synced-master/**/extmods/{tag}/*.py")}
        assert set(modules(folder)) <= kept, f"{tag} on the master"


def test_modules_states_and_runners_load(site: Site) -> None:
    """Every one that the repository holds, by its own name."""
    assert set(modules("_modules")) <= set(site.salt("sys.list_modules").data)
    assert set(modules("_states")) <= set(site.salt("sys.list_state_modules").data)
    for name in modules("_beacons"):
        known = site.salt("beacons.list_available", return_yaml=False).data
        assert name in known, known
    known = site.run("doc.runner").data
    for name in modules("_runners"):
        # Parts of the runner openhim_dr are files of their own, by its name.
        runner = "openhim_dr" if name.startswith("openhim_dr") else name
        assert any(f.startswith(f"{runner}.") for f in known), name


def test_the_example_pillar_is_allowed(site: Site) -> None:
    """And the check says what it declares."""
    found = site.salt("openhim.pillar_check").data
    assert found["stack"] == "example"
    assert found["hosts"][HOST] == "mongodb at north (10.20.1.11)"


def test_the_recovery_record_reaches_the_pillar(site: Site) -> None:
    """The external pillar lays the newest epoch over the declaration."""
    record = {
        "number": 1, "id": "a", "parent": None, "kind": "failover", "stack": "example",
        "active_site": "south", "profile": "reduced", "lost_sites": ["north"],
        "declared_by": "a test", "reason": "a test", "declared_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    site.records.mkdir()
    file = site.records / "example.json"
    file.write_text(json.dumps([record]))
    try:
        done = site.run("openhim_dr.tell", "example", [HOST])
        assert (done.returncode, done.data) == (0, {HOST: 1})
        assert site.salt("openhim.pillar_check").data["active_site"] == "south"
        # A host whose pillar does not get it says what it has, whatever its refresh says.
        with site.changed_pillar(lambda openhim: openhim.update(stack="another")):
            done = site.run("openhim_dr.tell", "example", [HOST], timeout=1)
        assert done.returncode != 0
        assert f"{HOST} (epoch None)" in str(done.data)
        # A damaged record must stop everything: a highstate without it would undo the recovery.
        file.write_text("[{")
        site.salt("saltutil.refresh_pillar", wait=True)
        done = site.salt("openhim.pillar_check")
        assert done.returncode != 0
        assert "openhim:recovery" in done.data
    finally:
        file.unlink()
        site.records.rmdir()
        # No host forgets an epoch by itself; other tests have this one too, and know of none.
        for known in (told.FILE, gate.HIGHEST):
            site.salt("file.remove", known)
        site.salt("saltutil.refresh_pillar", wait=True)


@pytest.mark.parametrize("test", [True, False])
def test_a_pillar_that_is_not_allowed_stops_the_run(synced: Site, test: bool) -> None:
    """In the first state, with all problems, and in test mode too."""
    synced.salt("saltutil.sync_all")

    def change(openhim: dict) -> None:
        openhim["mongodb"]["replica_sets"]["openhim"]["port"] = "27017"
        del openhim["mongodb"]["replica_sets"]["openhim"]["members"]["south-db1"]

    with synced.changed_pillar(change):
        done = synced.salt("state.apply", "openhim", test=test)
    (only,) = done.data.values()
    assert only["result"] is False
    assert only["changes"] == {}
    assert "openhim:mongodb:replica_sets:openhim:port: found '27017'" in only["comment"]
    assert "openhim:mongodb:replica_sets:openhim:members: found 2 votes" in only["comment"]
    assert done.returncode != 0


def test_the_check_as_a_state_changes_nothing(site: Site) -> None:
    """With an allowed pillar it succeeds, the same in test mode."""
    for test in (True, False):
        done = site.salt(
            "state.single", "openhim.pillar_checked", "the pillar is allowed", test=test
        )
        (only,) = done.data.values()
        assert only["result"] is True
        assert only["changes"] == {}


def test_nothing_fails_to_load_and_no_secret_is_logged(site: Site) -> None:
    """The logs of master and minion, after all of the above."""
    log = site.log()
    assert "saltext/openhim" not in "".join(
        line for line in log.splitlines(True) if "[ERROR" in line or "[CRITICAL" in line
    )
    for name, value in site.secrets().items():
        assert value not in log, f"{name} is in a log"
