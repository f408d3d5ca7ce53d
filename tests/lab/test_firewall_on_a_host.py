"""The firewall where systemd is PID 1: it survives a boot, and a minion that is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import HostSpec, Lab
from lab.host import Host

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = ["nft", "--stateless", "list", "table", "inet", "openhim"]
TIMER = "openhim-firewall-rollback.timer"

#: Applies rules that differ by their comment, with a timer that is short.
APPLY = """\
import os, signal, sys
from saltext.openhim import nftables
text = (
    nftables.REPLACE + "table inet openhim { chain input { type filter hook input priority filter; "
    'policy accept; counter comment "' + sys.argv[1] + '"; }; }\\n'
)
nftables.ROLLBACK_AFTER = int(sys.argv[2])
if sys.argv[3] == "killed":
    # The check comes after the rules are loaded; the minion dies in it.
    asked = []
    def reached(endpoints, attempts=3):
        asked.append(endpoints)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return endpoints
    nftables._reached = reached
if sys.argv[3] == "cut":
    answers = [[("master", 4506)], []]
    nftables._reached = lambda endpoints, attempts=3: answers.pop(0)
nftables.apply(text, [("master", 4506)])
nftables.persist_unit()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host that sees this repository."""
    hosts = [HostSpec("north-a", "north", "10.20.1.11")]
    with Lab.start(hosts=hosts, share={"/srv/library": REPOSITORY / "_utils"}) as running:
        yield running


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """The host, without a firewall before and after."""
    host = lab.host("north-a")
    yield host
    host.run(["systemctl", "stop", TIMER], check=False)
    python(host, "from saltext.openhim import nftables; nftables.remove()")


def python(host: Host, text: str, *arguments: str, check: bool = True) -> str:
    """What a Python program says that runs on the host with our library."""
    command = ["env", "PYTHONPATH=/srv/library", "/opt/salt/bin/python3", "-c", text, *arguments]
    return host.run(command, check=check).stderr


def apply(host: Host, comment: str, seconds: int = 60, end: str = "well") -> str:
    """Applies rules with a comment; the error when it fails."""
    return python(host, APPLY, comment, str(seconds), end, check=end == "well")


def loaded(host: Host) -> str:
    """The table as the kernel has it; empty when there is none."""
    return host.run(TABLE, check=False).stdout


def armed(host: Host) -> bool:
    """Whether the timer runs that puts the previous rules back."""
    return host.run(["systemctl", "is-active", TIMER], check=False).returncode == 0


def eventually(condition, timeout: float = 30) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_a_run_that_went_well_leaves_no_timer(host: Host) -> None:
    apply(host, "first")
    assert "first" in loaded(host)
    assert not armed(host)


def test_the_rules_of_a_minion_that_was_killed_go_back_by_themselves(host: Host) -> None:
    apply(host, "checked")
    apply(host, "never checked", seconds=3, end="killed")
    assert "never checked" in loaded(host)
    assert armed(host)
    assert eventually(lambda: '"checked"' in loaded(host))


def test_a_first_firewall_that_was_never_checked_goes_away(host: Host) -> None:
    apply(host, "never checked", seconds=3, end="killed")
    assert "never checked" in loaded(host)
    assert eventually(lambda: loaded(host) == "")


def test_after_a_killed_run_the_next_one_goes_back_to_the_checked_rules(host: Host) -> None:
    apply(host, "checked")
    apply(host, "never checked", end="killed")
    assert "previous rules are back" in apply(host, "neither", end="cut")
    assert '"checked"' in loaded(host)
    assert not armed(host)


def test_after_a_killed_run_the_next_one_can_go_well(host: Host) -> None:
    apply(host, "never checked", end="killed")
    apply(host, "second")
    assert "second" in loaded(host)
    assert not armed(host)


def test_the_rules_are_there_after_a_boot_beside_the_distributions_own(host: Host) -> None:
    # Debian's file begins with "flush ruleset".
    host.run(["systemctl", "enable", "nftables"])
    apply(host, "for the boot")
    wanted = loaded(host)
    host.shutdown()
    host.boot()
    assert loaded(host) == wanted
    assert "table inet filter" in host.run(["nft", "list", "tables"]).stdout


@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_the_rules_are_there_after_the_distributions_own_are_loaded_again(
    host: Host, verb: str
) -> None:
    host.run(["systemctl", "start", "nftables"])
    apply(host, "stays")
    wanted = loaded(host)
    host.run(["systemctl", verb, "nftables"])
    # A reload is propagated, and not waited for.
    assert eventually(lambda: loaded(host) == wanted)
