"""The runner that watches, with a real listener outside.

What the hosts say of the backups is given here: that a whole stack is well takes hours of backups.
"""

import json

import pytest
import salt.config
import salt.loader
from salt.exceptions import CommandExecutionError

from tests.functional.conftest import REPOSITORY
from tests.listener import listening

SECRET_PATH = "hooks/T0K3N"
STATUS = {"stack": "example", "at": "2026-01-31T12:00:00+00:00", "reasons": [], "hosts": {}}


@pytest.fixture
def listener():
    with listening() as listener:
        yield listener


@pytest.fixture
def runner(tmp_path, listener):
    """A factory: the runner's functions on a master with these settings, where the state is so."""

    def make(state="ok", **settings):
        opts = salt.config.DEFAULT_MASTER_OPTS.copy()
        opts.update(
            root_dir=str(tmp_path),
            cachedir=str(tmp_path / "cache"),
            extension_modules=str(tmp_path / "extmods"),
            runner_dirs=[str(REPOSITORY / "_runners")],
            **settings,
        )
        functions = salt.loader.runner(opts)
        found = {**STATUS, "state": state, "reasons": [] if state == "ok" else ["a reason"]}
        notify, heartbeat = (functions[f"openhim_watch.{name}"] for name in ("notify", "heartbeat"))
        functions._dict["openhim_dr.status"] = lambda stack: {**found, "stack": stack}
        return notify, heartbeat

    return make


def test_while_all_is_well_a_sign_of_life_goes_out_and_else_none(runner, listener):
    _, heartbeat = runner(openhim_heartbeat=listener.url(SECRET_PATH))
    assert heartbeat("example")["retcode"] == 0
    assert listener.calls == [("GET", f"/{SECRET_PATH}", "")]
    for state in ("degraded", "failing", "unknown"):
        _, heartbeat = runner(state, openhim_heartbeat=listener.url(SECRET_PATH))
        assert heartbeat("example")["retcode"] == 1
    assert len(listener.calls) == 1


def test_a_file_says_what_was_found_be_it_good_or_bad(runner, tmp_path):
    file = tmp_path / "watch" / "example.json"
    _, heartbeat = runner("failing")
    heartbeat("example", file=str(file))
    assert json.loads(file.read_text()) == {
        "stack": "example",
        "at": STATUS["at"],
        "state": "failing",
        "reasons": ["a reason"],
    }
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_dead_mans_switch_that_nobody_watches_is_refused(runner):
    _, heartbeat = runner()
    with pytest.raises(CommandExecutionError, match="nobody would notice"):
        heartbeat("example")


def test_people_are_told_in_words(runner, listener):
    notify, _ = runner(openhim_notify=listener.url(SECRET_PATH))
    event = {"stack": "example", "state": "failing", "reasons": ["it is old", "it is broken"]}
    notify("south-db1", event)
    ((method, _, body),) = listener.calls
    assert method == "POST"
    assert json.loads(body) == {
        "text": "The backups of example are failing, says south-db1: it is old; it is broken",
        "minion": "south-db1",
        **event,
    }


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "openhim_notify: found nothing in the master's configuration"),
        ("file:///etc/T0K3N", "is no URL; expected https://host/"),
        ("http://127.0.0.1:1/hooks/T0K3N", "127.0.0.1 was not reached: "),
        ("answers 500", "127.0.0.1 answered 500; expected a success"),
    ],
)
def test_an_address_that_does_not_work_is_told_without_it(runner, listener, address, said):
    listener.status = 500
    url = listener.url(SECRET_PATH) if address == "answers 500" else address
    notify, _ = runner(openhim_notify=url)
    with pytest.raises(CommandExecutionError, match=said) as raised:
        notify("south-db1", {"state": "failing"})
    assert "T0K3N" not in str(raised.value)
