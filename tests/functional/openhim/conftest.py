"""A real OpenHIM on a real one-member replica set with authentication, once for this folder.

OpenHIM 4.0.5 runs from the archive that the lab builds. When SALTEXT_OPENHIM_8_RELEASE names the
directory of a built release of version 8, everything is tested against that one too.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
from saltext.openhim.core import release

from lab import artifacts
from tests.functional.openhim.processes import STARTUP, Database, Loaded, OpenHIM, stop, wait_for

RELEASES = ["4.0.5"]
if os.environ.get("SALTEXT_OPENHIM_8_RELEASE"):
    RELEASES.append("8")


@pytest.fixture(scope="package")
def mongod(tmp_path_factory):
    """A one-member replica set with authentication."""
    database = Database(tmp_path_factory.mktemp("mongod")).start()
    try:
        yield wait_for(database.initiate)
    finally:
        stop(database.process)


@pytest.fixture(scope="package")
def mongod_with_tls(tmp_path_factory):
    """The same, taking connections with TLS only."""
    database = Database(tmp_path_factory.mktemp("mongod-tls")).make_certificate().start()
    try:
        yield wait_for(database.initiate)
    finally:
        stop(database.process)


@pytest.fixture(scope="package", params=RELEASES)
def program(request, tmp_path_factory):
    """The directory of an OpenHIM release, and its version."""
    if request.param == "8":
        path = Path(os.environ["SALTEXT_OPENHIM_8_RELEASE"])
        description = json.loads((path / "package.json").read_text(encoding="utf-8"))
        return path, description["version"]
    target = tmp_path_factory.mktemp("openhim") / "releases" / request.param
    release.unpack(artifacts.openhim_release(), {"version": request.param}, target)
    return target, request.param


@pytest.fixture(scope="package")
def openhim(program, mongod, tmp_path_factory):
    """A running OpenHIM, its administrator's password changed to the declared one."""
    path, version = program
    running = OpenHIM(tmp_path_factory.mktemp("core"), path, version, mongod).start()
    try:
        running.core.api().wait(STARTUP)
        yield running
    finally:
        running.stop()


@pytest.fixture
def load(tmp_path):
    """``load(pillar, test=…)``: Salt's modules and states with that pillar."""
    return lambda pillar, **options: Loaded(tmp_path, pillar, **options)


@pytest.fixture
def pillar(openhim):
    """A copy of the running OpenHIM's pillar, to be changed."""
    return copy.deepcopy(openhim.pillar)


@pytest.fixture
def api(openhim):
    """The running OpenHIM's API, as the administrator."""
    return openhim.core.api()
