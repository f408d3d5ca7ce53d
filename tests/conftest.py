"""What all tests share: a marker per layer, and Salt's daemons in a folder that goes away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its layer: the folder that it is in."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            layer = item.path.relative_to(TESTS).parts[0]
            item.add_marker(getattr(pytest.mark, layer))


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    """Salt's daemons live in a short-named folder: the paths of sockets are limited."""
    root = Path(tempfile.mkdtemp(prefix="salt-"))
    yield {"root_dir": root, "slow_stop": False, "start_timeout": 60}
    shutil.rmtree(root, ignore_errors=True)
