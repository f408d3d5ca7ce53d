"""Disasters out of ``disasters/`` on real hosts: what they answer is what is expected.

All are played on one stack, and each leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from saltext.openhim.disasters import case

from lab import disasters, stack

# Six minutes of their own.
pytestmark = pytest.mark.nightly

#: In this order: what is undone at once comes first, what needs a boot comes last.
PLAYED = (
    "dead-minion",
    "primary-host-freezes",
    "primary-site-is-cut-off",
    "primary-site-loses-power",
)


@pytest.fixture(scope="module")
def running() -> Iterator[stack.Stack]:
    with disasters.provisioned(case.read(disasters.FOLDER / PLAYED[0])) as found:
        yield found


@pytest.mark.parametrize("name", PLAYED)
def test_real_hosts_answer_what_is_expected(running, name):
    one = case.read(disasters.FOLDER / name)
    assert disasters.play(running, one) == []
    # What is compared can differ: the same hosts, well again, are not what was expected of them.
    assert disasters.judged.compared(one, disasters.preflight(running)) != []
