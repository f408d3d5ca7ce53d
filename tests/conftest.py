"""What all tests share: a marker per layer, who runs what when, and a folder for Salt's daemons.

``pytest -n 4`` runs four workers. Tests that share servers stay on one worker; the lab's hosts need
the whole machine, so a file of the layer ``lab`` waits until nothing else runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leftovers

LAYERS = ("unit", "functional", "integration", "lab")

#: restic in front of the real one: the keys that it makes for a test are cheap to derive.
CHEAP_KEYS = Path(__file__).parent / "cheap_keys"

#: Folders whose files share servers: started once, by one worker, and first for they take longest.
TOGETHER = ("tests/functional/mongodb", "tests/functional/openhim")


def pytest_configure(config: pytest.Config) -> None:
    """See to it that no server outlives these tests, even if they are killed; make keys cheap."""
    if not hasattr(config, "workerinput"):
        leftovers.watch()
    # The tests' log is at DEBUG; PyMongo's heartbeats and choices fill it, and take a fifth of the
    # time of a test with a server.
    for name in ("connection", "serverSelection", "topology"):
        logging.getLogger(f"pymongo.{name}").setLevel(logging.INFO)
    os.environ["CHEAP_KEYS_PYTHON"] = sys.executable
    if str(CHEAP_KEYS) not in os.environ["PATH"].split(":"):
        os.environ["PATH"] = f"{CHEAP_KEYS}:{os.environ['PATH']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its layer, the folder that it is in; the quick layers come first."""
    for item in items:
        item.add_marker(getattr(pytest.mark, _layer(item.nodeid)))
    items.sort(
        key=lambda item: (LAYERS.index(_layer(item.nodeid)), _share(item.nodeid) not in TOGETHER)
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker one share of the tests after the other, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class Shares(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _share(nodeid)

    config.option.loadscopereorder = False  # the most tests first: the lab would come too early
    return Shares(config, log)


@pytest.fixture(scope="module", autouse=True)
def turn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Files of the layer ``lab`` run alone, all others beside each other."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    alone = _layer(request.node.nodeid) == "lab"
    # The folder above the worker's own is that of all workers.
    with (tmp_path_factory.getbasetemp().parent / "turn").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each layer took, from its first set-up to its last clean-up."""
    reports = [
        report
        for group in terminalreporter.stats.values()
        for report in group
        if isinstance(report, pytest.TestReport) and report.start  # a worker that died has none
    ]
    terminalreporter.section("time of each layer")
    for layer in LAYERS:
        own = [report for report in reports if _layer(report.nodeid) == layer]
        if own:
            tests = len({report.nodeid for report in own})
            seconds = max(r.stop for r in own) - min(r.start for r in own)
            terminalreporter.line(f"{layer:<12} {tests:5d} tests {seconds:7.1f} s")


def pytest_unconfigure() -> None:
    """Let pytest's closing line be the last one.

    Salt keeps early log records and prints them when Python ends, to a stream that is closed then.
    """
    logging.raiseExceptions = False


def _layer(nodeid: str) -> str:
    return nodeid.split("/")[1]


def _share(nodeid: str) -> str:
    """What stays on one worker: a file, or a folder whose files share servers."""
    file = nodeid.split("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    """Salt's daemons live in a short-named folder: the paths of sockets are limited."""
    root = Path(tempfile.mkdtemp(prefix="salt-"))
    yield {"root_dir": root, "slow_stop": False, "start_timeout": 60}
    shutil.rmtree(root, ignore_errors=True)
