"""The status page through Salt's API: a real salt-api, and an account that may do one thing."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Door, Site


@dataclass
class Api:
    """A salt-api that runs, as somebody far away sees it."""

    door: Door
    context: ssl.SSLContext
    token: str | None = None

    def ask(self, path: str, *, body: Any = None) -> tuple[int, Any]:
        """The status and the answer; without ``body`` it is only looked at."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token:
            headers["X-Auth-Token"] = self.token
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.door.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
        )
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=300) as answer:  # noqa: S310
                return answer.status, _read(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _read(error.read())

    def login(self, password: str) -> int:
        """The status; keeps the token."""
        told = {"eauth": "file", "username": self.door.user, "password": password}
        status, answer = self.ask("/login", body=told)
        if status == 200:
            self.token = answer["return"][0]["token"]
        return status

    def run(self, client: str = "runner", **low: Any) -> tuple[int, Any]:
        """What a command answers that somebody gives who is logged in."""
        return self.ask("/", body=[{"client": client, **low}])


def _read(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()


@pytest.fixture(scope="module")
def served(synced: Site, door: Door) -> Iterator[Door]:
    """salt-api runs beside the master."""
    assert synced.run("saltutil.sync_all").returncode == 0
    with synced.master.salt_api_daemon().started():
        yield door


@pytest.fixture
def api(served: Door, synced: Site) -> Api:
    """Nobody is logged in, and nothing is on record."""
    shutil.rmtree(synced.records, ignore_errors=True)
    return Api(served, ssl.create_default_context(cafile=str(served.folder / "ca.crt")))


REPORT = {"fun": "openhim_dr.report", "kwarg": {"stack": "example", "live": False}}


def test_who_is_not_logged_in_learns_and_starts_nothing(api: Api, synced: Site) -> None:
    assert api.run(**REPORT)[0] == 401
    assert api.login("a guess") == 401
    low = {"client": "runner", **REPORT, "eauth": "file", "username": "duty", "password": "a guess"}
    status, answer = api.ask("/run", body=[low])
    assert status == 401, answer
    assert not (synced.records / "reports").exists()


def test_the_account_of_those_on_duty_gets_the_report(api: Api, synced: Site) -> None:
    assert api.login(api.door.password) == 200
    status, answer = api.run(**REPORT)
    assert status == 200, answer
    (found,) = answer["return"]
    assert found["findings"]["missing"] + found["findings"]["unknown"] == len(found["gaps"])
    assert {Path(one).name for one in found["files"]} == {"example.html", "example.json"}


@pytest.mark.parametrize(
    "low",
    [
        {"fun": "openhim_dr.status", "kwarg": {"stack": "example"}},
        {"fun": "openhim_dr.after_action", "kwarg": {"stack": "example"}},
        {"fun": "openhim_dr.evidence_add",
         "kwarg": {"stack": "example", "kind": "note", "by": "duty", "what": "x"}},
        {"fun": "state.orchestrate", "arg": ["orch.failover"]},
        {"fun": "salt.cmd", "arg": ["test.ping"]},
        {"client": "local", "tgt": "*", "fun": "test.ping"},
        {"client": "wheel", "fun": "key.list_all"},
    ],
    ids=lambda low: f"{low.get('client', 'runner')} {low['fun']}",
)  # fmt: skip
def test_the_same_account_is_refused_anything_else(api: Api, synced: Site, low: Any) -> None:
    api.login(api.door.password)
    status, answer = api.run(**low)
    assert status in (400, 401), answer
    assert "return" not in answer, answer
    assert not (synced.records / "evidence").exists()


def test_the_page_is_served_as_it_was_renewed_last_and_to_everybody(api: Api) -> None:
    """No login is asked for ``/static``: the documentation warns of it."""
    api.login(api.door.password)
    page = {"folder": str(api.door.served), "refresh": 60}
    status, answer = api.run(**{**REPORT, "kwarg": {**REPORT["kwarg"], **page}})
    assert status == 200, answer
    stranger = Api(api.door, api.context)
    status, page = stranger.ask("/static/example.html")
    assert status == 200
    assert page == (api.door.served / "example.html").read_text()
    assert '<meta http-equiv="refresh" content="60">' in page
    assert stranger.ask("/static/example.json")[1]["at"] == answer["return"][0]["as_of"]


def test_the_command_of_the_documentation_answers_with_the_gaps(served: Door) -> None:
    """As it is written there, with this machine's address and this login."""
    login = served.folder / "duty.login"
    login.write_text(f"eauth=file&username={served.user}&password={served.password}")
    login.chmod(0o600)
    command = [
        "curl", "-sS", "--cacert", str(served.folder / "ca.crt"),
        f"https://127.0.0.1:{served.port}/run", "-H", "Accept: application/json",
        "-d", "client=runner", "-d", "fun=openhim_dr.report", "-d", "stack=example",
        "-d", f"@{login}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["return"]
    assert found["gaps"]
    assert "as_of" in found
