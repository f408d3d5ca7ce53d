"""Break-glass access to a real OpenHIM and a real MongoDB: opened, handed over, ended, recorded.

There is no systemd here: the timers are booked by the test. That they fire is the lab's to show.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pymongo
import pytest
from pymongo.errors import OperationFailure, PyMongoError
from saltext.openhim import journal
from saltext.openhim.break_glass import account as accounts
from saltext.openhim.break_glass import cabinet, handover, mongodb_user, openhim_user, timer
from saltext.openhim.core.api import Api

from tests.functional.openhim.processes import wait_for

NAME = "ada@example.org"
ASK = {"by": "Ben", "reason": "orders are stuck", "valid_for": 3600}
RIGHTS = {"groups": ["admin"], "roles": ["readAnyDatabase"]}
END = {"by": "Ben", "reason": "the orders run again"}


@pytest.fixture(autouse=True)
def administrator(openhim, load):
    result = load(openhim.pillar).states["openhim.administrator_present"]("administrator")
    assert result["result"], result["comment"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where this host keeps accounts, away from the machine's own."""
    monkeypatch.setattr(handover, "FOLDER", str(tmp_path / "break-glass"))
    monkeypatch.setattr(handover, "MEMORY", str(tmp_path / "memory"))
    monkeypatch.setattr(cabinet, "RECORD", str(tmp_path / "break-glass.jsonl"))
    monkeypatch.setattr(cabinet, "TOLD", str(tmp_path / "break-glass.told"))
    return tmp_path


@pytest.fixture(autouse=True)
def timers(monkeypatch):
    """The timers that are armed, by the account's part of their names."""
    booked = {}
    monkeypatch.setattr(timer, "require", lambda: None)
    monkeypatch.setattr(timer, "arm", lambda slug, until, where: booked.update({slug: until}))
    monkeypatch.setattr(timer, "armed", lambda slug: slug in booked)
    monkeypatch.setattr(timer, "disarm", lambda slug: booked.pop(slug, None))
    return booked


@pytest.fixture(autouse=True)
def nobody_left(openhim, api):
    yield
    api.delete("users", NAME)
    with openhim.database.client() as client:
        client[openhim.main][openhim_user.COLLECTION].drop()
        for one in client.admin.command({"usersInfo": 1})["users"]:
            if one["user"] not in ("operator", "openhim"):
                client.admin.command("dropUser", one["user"])


@pytest.fixture
def places(openhim):
    """Where OpenHIM's configuration and the members' keyfile are here."""
    keyfile = openhim.database.directory / "keyfile"
    return {"config_file": str(openhim.config_file), "keyfile": str(keyfile)}


@pytest.fixture
def present(load, pillar, places):
    def apply(test=False, name=NAME, **arguments):
        loaded = load(pillar, test=test)
        arguments = {**ASK, **RIGHTS, **places, **arguments}
        return loaded.states["openhim_break_glass.present"](name, **arguments)

    return apply


@pytest.fixture
def absent(load, pillar):
    def apply(test=False, name=NAME, **arguments):
        loaded = load(pillar, test=test)
        return loaded.states["openhim_break_glass.absent"](name, **{**END, **arguments})

    return apply


@pytest.fixture
def expire(load):
    """The timer's call: without a pillar."""
    return lambda name=NAME: load({}).modules["openhim_break_glass.expire"](name)


@pytest.fixture
def later(monkeypatch):
    """``later(seconds)``: so much later it is from now on, for who decides whether time is over."""

    def pass_by(seconds):
        class Later(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(seconds=seconds)

        monkeypatch.setattr(accounts, "datetime", Later)

    return pass_by


def handed_over(name=NAME):
    """What is in the file for root."""
    path = Path(handover.path(accounts.slug(name), ""))
    assert path.stat().st_mode & 0o777 == 0o600
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


def mongodb_takes(openhim, password, name=NAME):
    address = f"localhost:{openhim.database.port}"
    with pymongo.MongoClient(
        address, username=name, password=password, authSource="admin", directConnection=True
    ) as client:
        try:
            client.openhim.command("ping")
            client[openhim.main].channels.find_one()
        except OperationFailure:
            return False
    return True


def written(folder):
    """Every file that this host keeps, but the one with the password."""
    return {
        path: path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and "memory" not in path.parts and "cache" not in path.parts
    }


def test_an_account_is_opened_for_its_time_and_removed(
    openhim, api, present, absent, folder, timers, load, pillar
):
    for _ in range(2):
        shown = present(test=True)
        assert shown["result"] is None, shown["comment"]
        assert (timers, api.get("users", NAME), written(folder)) == ({}, None, {})

    done = present()
    assert done["result"] is True, done["comment"]
    assert done["changes"][NAME]["new"]["groups"] == ["admin"]
    assert done["changes"][NAME]["new"]["roles"] == ["readAnyDatabase@admin"]
    password = handed_over()["password"]
    assert handed_over()["user"] == NAME
    as_ada = api.as_user(NAME, password)
    assert as_ada.authenticates()
    assert as_ada.get("users")  # an administrator's right
    assert mongodb_takes(openhim, password)
    (ends,) = timers.values()
    assert ends.isoformat() == done["changes"][NAME]["new"]["until"] == handed_over()["until"]
    assert password not in json.dumps(done)
    assert not [path for path, text in written(folder).items() if password in text]
    (seen,) = load(pillar).modules["openhim_break_glass.status"]()
    assert (seen["name"], seen["problems"]) == (NAME, [])

    for test in (True, False):
        again = present(test=test)
        assert (again["result"], again["changes"]) == (True, {}), again["comment"]
        assert "orders are stuck" in again["comment"]
    assert handed_over()["password"] == password

    shown = absent(test=True)
    assert shown["result"] is None
    assert as_ada.authenticates()
    done = absent()
    assert done["result"] is True, done["comment"]
    assert done["changes"] == shown["changes"]
    assert not as_ada.authenticates()
    assert not mongodb_takes(openhim, password)
    assert (api.get("users", NAME), timers) == (None, {})
    assert not Path(handover.path(accounts.slug(NAME), "")).exists()
    for test in (True, False):
        assert absent(test=test)["changes"] == {}

    entries = load(pillar).modules["openhim_break_glass.history"]()
    assert [one["what"] for one in entries] == ["opened", "closed"]
    assert {key: entries[0][key] for key in ("by", "reason")} == {"by": "Ben", "reason": ASK["reason"]}  # fmt: skip
    assert entries[1]["closed_because"] == END["reason"]
    assert Path(cabinet.RECORD).stat().st_mode & 0o777 == 0o600


def test_its_time_ends_it_without_a_pillar(openhim, api, present, expire, later):
    assert present()["result"] is True
    password = handed_over()["password"]
    later(ASK["valid_for"] - 600)
    assert expire() is False
    assert api.as_user(NAME, password).authenticates()
    later(ASK["valid_for"])
    assert expire(accounts.slug(NAME)) is True
    assert not api.as_user(NAME, password).authenticates()
    assert not mongodb_takes(openhim, password)
    assert expire() is True
    assert journal.read(cabinet.RECORD)[-1]["closed_because"] == "its time is over"


def test_what_runs_as_the_account_ends_with_it(openhim, present, absent):
    """A connection that was there before, with a cursor that is half read."""
    with openhim.database.client() as client:
        client["of_the_test"]["documents"].insert_many({"n": n} for n in range(1000))
    assert present()["result"] is True
    address = f"localhost:{openhim.database.port}"
    with pymongo.MongoClient(
        address,
        username=NAME,
        password=handed_over()["password"],
        authSource="admin",
        directConnection=True,
    ) as client:
        cursor = client["of_the_test"]["documents"].find(batch_size=10)
        next(cursor)
        assert absent()["result"] is True
        with pytest.raises(PyMongoError):
            list(cursor)
        with pytest.raises(OperationFailure):
            client["of_the_test"]["documents"].find_one()
    with openhim.database.client() as client:
        client.drop_database("of_the_test")


def test_nothing_is_left_with_which_a_later_user_could_be_entered(
    openhim, present, absent, api, load, pillar
):
    """As version 8 keeps sessions and passwords; its API removes the user alone."""
    assert present(roles=None)["result"] is True
    with openhim.database.client() as client:
        database = client[openhim.main]
        database.sessions.insert_many(
            {"_id": each, "data": {"passport": {"user": each}}}
            for each in (NAME, "ben@example.org")
        )
        database.passports.insert_many(
            {"_id": each, "email": each, "protocol": "local"} for each in (NAME, "ben@example.org")
        )
        assert absent()["result"] is True
        assert [one["_id"] for one in database.sessions.find()] == ["ben@example.org"]
        assert [one["_id"] for one in database.passports.find()] == ["ben@example.org"]
        database.sessions.drop()
        database.passports.drop()


@pytest.mark.parametrize(
    "other",
    [
        {"valid_for": 7200},
        {"reason": "orders are stuck still"},
        {"by": "Somebody"},
        {"roles": ["root"]},
    ],
)
def test_an_account_is_not_extended_silently(present, api, other, timers):
    present()
    password, ends = handed_over()["password"], dict(timers)
    refused = present(**other)
    assert refused["result"] is False
    assert "it is not extended or changed" in refused["comment"]
    assert refused["changes"] == {}
    assert (handed_over()["password"], timers) == (password, ends)


def test_a_state_that_stays_in_the_tree_does_not_open_it_again(present, absent, api, expire):
    present(valid_for=1)
    wait_for(expire, 30)
    refused = present(valid_for=1)
    assert refused["result"] is False
    assert "say in `reason` why" in refused["comment"]
    assert api.get("users", NAME) is None
    assert present(reason="they are stuck again")["result"] is True


@pytest.fixture(scope="module")
def recipient(tmp_path_factory):
    """Somebody with a key pair: their home, and their public key."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback"]
    quick = ["--passphrase", "", "--quick-generate-key", "Ada <ada@example.org>", "default"]
    subprocess.run([*gpg, *quick, "default", "never"], check=True, capture_output=True)
    key = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True, text=True)
    yield gpg, key.stdout
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def test_the_password_is_encrypted_to_the_one_who_is_to_have_it(
    present, api, recipient, folder, absent
):
    gpg, key = recipient
    done = present(recipient_key=key)
    assert done["result"] is True, done["comment"]
    path = Path(handover.path(accounts.slug(NAME), "x"))
    assert str(path) in done["comment"]
    read = subprocess.run([*gpg, "--decrypt", path], check=True, capture_output=True, text=True)
    password = dict(line.split(": ", 1) for line in read.stdout.splitlines())["password"]
    assert api.as_user(NAME, password).authenticates()
    assert not (folder / "memory").exists()
    assert not [file for file, text in written(folder).items() if password in text]
    assert absent()["result"] is True
    assert not path.exists()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"by": " "}, "by: found ' '"),
        ({"reason": ""}, "reason: found ''"),
        ({"valid_for": 0}, "valid_for: found 0"),
        ({"valid_for": "4h"}, "a whole number of seconds"),
        ({"valid_for": 10**6}, "is the longest"),
        ({"name": "Ada"}, "name: found 'Ada'"),
        ({"name": "ada"}, "OpenHIM's users are e-mail addresses"),
        ({"groups": None, "roles": None}, "for what is it"),
        ({"recipient_key": "no key"}, "recipient_key: "),
        ({"keyfile": "/nowhere/keyfile"}, "/nowhere/keyfile cannot be read"),
        ({"config_file": "/nowhere/core.json"}, "/nowhere/core.json does not say"),
        ({"set": "another"}, "'another' is not in openhim:mongodb:replica_sets"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(present, api, folder, timers, bad, words):
    for test in (True, False):
        refused = present(test=test, **bad)
        assert refused["result"] is False
        assert words in refused["comment"]
    assert (timers, api.get("users", NAME), written(folder)) == ({}, None, {})


def test_a_role_that_mongodb_does_not_know_leaves_nothing_that_stays(present, api, absent):
    refused = present(roles=["readEverything"])
    assert refused["result"] is False
    assert "readEverything" in refused["comment"]
    assert absent()["result"] is True
    assert api.get("users", NAME) is None


def test_somebodys_own_account_is_not_laid_over(present, api, openhim):
    api.post("users", body={"firstname": "Ada", "surname": "Mwale", "email": NAME, "groups": []})
    refused = present()
    assert refused["result"] is False
    assert "Choose another name" in refused["comment"]
    assert api.get("users", NAME)["surname"] == "Mwale"


def test_without_systemd_none_is_opened(present, api, monkeypatch, folder):
    monkeypatch.undo()
    assert not Path("/run/systemd/system").is_dir()
    refused = present()
    assert refused["result"] is False
    assert "systemd does not run on this host" in refused["comment"]
    assert api.get("users", NAME) is None


class Death(BaseException):
    """The process is gone: nothing catches this."""


#: Everything that opening and removing writes, in turn.
WRITES = (
    (cabinet, "_keep"),
    (handover, "write"),
    (openhim_user, "remember"),
    (Api, "post"),
    (Api, "put"),
    (mongodb_user, "make"),
    (openhim_user, "remove"),
    (mongodb_user, "remove"),
    (journal, "append"),
)


@pytest.mark.parametrize("writes", WRITES, ids=lambda w: w[1])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    openhim, api, present, absent, writes, after, monkeypatch, timers
):
    for verb in (present, absent):
        with monkeypatch.context() as patched:
            patched.setattr(*writes, _dying(getattr(*writes), after))
            try:
                verb()
            except Death:
                # Whoever is in has somebody to see them out.
                assert timers or api.get("users", NAME) is None
        done = verb()
        assert done["result"] is True, done["comment"]
        if verb is present:
            password = handed_over()["password"]
            assert api.as_user(NAME, password).authenticates()
            assert mongodb_takes(openhim, password)
    assert not api.as_user(NAME, password).authenticates()
    assert not mongodb_takes(openhim, password)
    assert [one["what"] for one in journal.read(cabinet.RECORD)] == ["opened", "closed"]
    assert timers == {}


def _dying(function, after):
    def write(*args, **kwargs):
        if after:
            function(*args, **kwargs)
        raise Death

    return write


def test_one_that_was_begun_and_forgotten_is_removed_in_time(
    present, api, monkeypatch, expire, timers
):
    with monkeypatch.context() as patched:
        patched.setattr(mongodb_user, "make", _dying(mongodb_user.make, True))
        with pytest.raises(Death):
            present(valid_for=2)
    assert api.get("users", NAME)
    assert list(timers) == [accounts.slug(NAME)]
    wait_for(expire, 30)
    assert api.get("users", NAME) is None


@pytest.fixture
def kept_to_time(load, pillar, places):
    def apply(test=False):
        return load(pillar, test=test).states["openhim_break_glass.kept_to_time"]("x", **places)

    return apply


def test_an_account_of_a_lost_host_does_not_outlive_its_time(
    openhim, api, present, kept_to_time, folder, timers, later
):
    for test in (True, False):
        assert kept_to_time(test=test)["changes"] == {}
    assert present()["result"] is True
    password = handed_over()["password"]
    assert kept_to_time()["changes"] == {}
    # Another host, which has never heard of it.
    for path in (folder / "break-glass").iterdir():
        path.unlink()
    timers.clear()

    assert kept_to_time(test=True)["result"] is None
    assert timers == {}
    assert list(kept_to_time()["changes"]) == [NAME]
    assert list(timers) == [accounts.slug(NAME)]
    assert kept_to_time()["changes"] == {}
    timers.clear()  # the timer did not fire
    later(ASK["valid_for"])
    assert kept_to_time(test=True)["result"] is None
    assert api.as_user(NAME, password).authenticates()
    assert kept_to_time()["changes"][NAME].startswith("removed")
    assert kept_to_time()["changes"] == {}
    assert not api.as_user(NAME, password).authenticates()
    assert not mongodb_takes(openhim, password)


def test_the_master_is_told_once_and_later_if_it_is_away(load, pillar, places):
    told = []
    loaded = load(pillar)
    loaded.states["openhim_break_glass.present"]  # loaded now, so that what it calls is replaced
    loaded.modules["openhim_break_glass.tell"]
    loaded.modules["event.fire_master"] = lambda data, tag: False
    done = loaded.states["openhim_break_glass.present"](NAME, **ASK, **RIGHTS, **places)
    assert done["result"] is True
    assert "The master was not told" in done["comment"]
    loaded.modules["event.fire_master"] = lambda data, tag: told.append((tag, data)) or True
    loaded.states["openhim_break_glass.absent"](NAME, **END)
    assert loaded.modules["openhim_break_glass.tell"]() == 0
    assert [tag for tag, _ in told] == [
        "openhim/break_glass/opened",
        "openhim/break_glass/closed",
    ]
    assert told[0][1]["text"].startswith(f"The emergency account {NAME} of example was opened by")
    assert "password" not in json.dumps(told)


def test_a_primary_that_hands_over_meanwhile_is_asked_again(load, pillar, places, monkeypatch):
    """As members that are restarted in turn do, while another host's highstate looks."""
    handed = []
    real = mongodb_user.primary

    @contextlib.contextmanager
    def handing_over(way):
        with real(way) as client:
            if not handed:
                handed.append(client.admin.command("replSetStepDown", 1, force=True))
            yield client

    monkeypatch.setattr(mongodb_user, "primary", handing_over)
    result = load(pillar).states["openhim_break_glass.kept_to_time"]("no account", **places)
    assert (result["result"], len(handed)) == (True, 1), result["comment"]
