"""The method npm: what it installs from the registry is a release that serves."""

from __future__ import annotations

import pytest
from saltext.openhim.core import release

from lab import artifacts
from tests.functional.openhim.processes import STARTUP, Loaded, OpenHIM


@pytest.mark.nightly
def test_what_npm_installs_is_installed_once_and_serves(mongod, tmp_path):
    root = tmp_path / "opt"
    running = OpenHIM(tmp_path, root / "current", artifacts.OPENHIM_VERSION, mongod)
    declared = running.pillar["openhim"]
    declared["core"]["install"] = {"method": "npm", "overrides": artifacts.OPENHIM_DRIVERS}
    certificates = release.program(declared["core"], root / "current") / "resources/certs"
    declared["core"]["api_certificate"] = str(certificates / "default/cert.pem")
    for kind, database in declared["mongodb"]["databases"].items():
        database["name"] = f"npm_{kind}"

    def installed(test=False):
        states = Loaded(tmp_path, running.pillar, test=test).states
        return states["openhim.installed"]("core", root=str(root))

    shown = installed(test=True)
    assert (shown["result"], root.exists()) == (None, False)
    made = installed()
    assert made["result"] is True, made["comment"]
    assert made["changes"] == shown["changes"]
    assert [path.name for path in (root / "releases").iterdir()] == [artifacts.OPENHIM_VERSION]
    assert release.problem(declared["core"], root / "current") is None
    for test in (True, False):
        again = installed(test)
        assert (again["result"], again["changes"]) == (True, {})

    running.start()
    try:
        running.core.api().wait(STARTUP)
        loaded = Loaded(tmp_path, running.pillar)
        for state in ("administrator_present", "synthetic_present", "healthy"):
            result = loaded.states[f"openhim.{state}"](state)
            assert result["result"], f"{result['comment']}\n{running.log()[-3000:]}"
        assert loaded.modules["openhim.synthetic"]()["status"] == "Successful"
    finally:
        running.stop()
