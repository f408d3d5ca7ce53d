"""What all tests share: a marker per layer, and Salt's daemons in a folder that goes away."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LAYERS = ("unit", "functional", "integration", "lab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its layer, the folder that it is in; the quick layers come first."""
    for item in items:
        item.add_marker(getattr(pytest.mark, _layer(item.nodeid)))
    items.sort(key=lambda item: LAYERS.index(_layer(item.nodeid)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each layer took, from its first set-up to its last clean-up."""
    reports = [
        report
        for group in terminalreporter.stats.values()
        for report in group
        if isinstance(report, pytest.TestReport)
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


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    """Salt's daemons live in a short-named folder: the paths of sockets are limited."""
    root = Path(tempfile.mkdtemp(prefix="salt-"))
    yield {"root_dir": root, "slow_stop": False, "start_timeout": 60}
    shutil.rmtree(root, ignore_errors=True)
