"""The ledger's modules are found, of the package installed and synced, and refuse with a reason."""

from __future__ import annotations

from tests.integration.conftest import HOST, Site


def test_the_runner_and_its_module_load_and_say_what_is_missing(site: Site) -> None:
    """Nothing was recovered here, and no mongod runs."""
    done = site.run("openhim_dr.ledger", "example")
    assert done.returncode != 0
    assert "no failover of 'example' is on record" in done.data
    assert site.run("openhim_dr.history", "example").data == []
    done = site.salt("openhim_ledger.divergence", "1-1-1", "1-2-2", "openhim")
    assert done.data["member"]["state"] == "unread", HOST
    assert "does not answer" in done.data["member"]["because"]
