"""Emergency mode of a real OpenHIM: only critical channels are on, and what was comes back."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
from saltext.openhim import journal
from saltext.openhim.emergency import memory, switch
from saltext.openhim.errors import OpenHIMError

from tests import ports
from tests.functional.openhim.processes import wait_for

CRITICAL = "Laboratory orders"
OTHERS = ("Referrals", "Feed")
OFF = "Switched off long ago"
WHO = {"by": "Ada", "reason": "the uplink carries a tenth of what it should"}
#: How OpenHIM answers where it has a channel and its upstream is silent.
ROUTED = 500
BACK = {"by": "Ben", "reason": "the uplink is back"}


@pytest.fixture(autouse=True)
def administrator(openhim, load):
    result = load(openhim.pillar).states["openhim.administrator_present"]("administrator")
    assert result["result"], result["comment"]


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """The host's record, away from the machine's own."""
    path = tmp_path / "emergency.jsonl"
    monkeypatch.setattr(switch, "RECORD", str(path))
    return path


@pytest.fixture
def feed_port():
    return ports.free()


@pytest.fixture(autouse=True)
def channels(openhim, api, feed_port):
    """Four channels of an operator: a critical one, two others (HTTP and TCP), and one off."""
    route = {"name": "upstream", "host": "127.0.0.1", "port": 9, "primary": True}
    common = {"allow": [], "authType": "public", "routes": [route]}
    for name in (CRITICAL, "Referrals", OFF):
        path = name.split()[0].lower()
        api.post("channels", body={**common, "name": name, "urlPattern": f"^/{path}/.*$"})
    tcp = {"type": "tcp", "tcpPort": feed_port, "tcpHost": "127.0.0.1"}
    api.post("channels", body={**common, **tcp, "name": "Feed", "urlPattern": "_tcp"})
    api.put("channels", named(api, OFF)["_id"], body={"status": "disabled"})
    wait_for(lambda: listens(feed_port))
    yield
    for channel in api.get("channels"):
        api.delete("channels", channel["_id"])
    with openhim.database.client() as client:
        client[openhim.main][memory.COLLECTION].drop()
        client[openhim.main]["channels"].delete_many({})


@pytest.fixture
def pillar(pillar):
    definition = {"urlPattern": "^/laboratory/.*$"}
    pillar["openhim"]["objects"] = {"channels": {CRITICAL: definition}}
    pillar["openhim"]["plan"] = {
        "emergency_mode": {"channels": [CRITICAL], "entered_by": "coordinator"}
    }
    return pillar


@pytest.fixture
def apply(load, pillar):
    """``apply(state, …)``: a state of emergency mode, with whom and why."""

    def applied(state, test=False, pillar=pillar, **arguments):
        arguments = {**(WHO if state == "entered" else BACK), **arguments}
        loaded = load(pillar, test=test)
        return loaded.states[f"openhim_emergency.{state}"]("emergency", **arguments)

    return applied


@pytest.fixture
def status(load, pillar):
    return lambda: load(pillar).modules["openhim_emergency.status"]()


def named(api, name):
    return next((c for c in api.get("channels") if c["name"] == name), None)


def statuses(api):
    return {c["name"]: c["status"] for c in api.get("channels")}


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def answer(openhim, path):
    """The status with which OpenHIM's router answers a request."""
    connection = http.client.HTTPConnection("127.0.0.1", openhim.ports["http"], timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def remembered(openhim):
    with openhim.database.client() as client:
        return list(client[openhim.main][memory.COLLECTION].find())


def test_only_critical_channels_work_and_what_was_comes_back(
    openhim, apply, api, status, record, feed_port
):
    before = {c["name"]: c for c in api.get("channels")}
    was = statuses(api)
    wait_for(lambda: answer(openhim, "/referrals/1") == ROUTED)

    shown = apply("entered", test=True)
    assert shown["result"] is None, shown["comment"]
    assert (statuses(api), remembered(openhim), record.exists()) == (was, [], False)

    done = apply("entered")
    assert done["result"] is True, done["comment"]
    assert done["changes"] == shown["changes"]
    assert done["changes"]["Referrals"] == {"old": "enabled", "new": "disabled"}
    assert set(done["changes"]) == {*OTHERS, "emergency mode"}
    assert statuses(api) == {**was, **dict.fromkeys(OTHERS, "disabled")}
    wait_for(lambda: answer(openhim, "/referrals/1") == answer(openhim, "/nobody") != ROUTED)
    assert answer(openhim, "/laboratory/1") == ROUTED
    wait_for(lambda: not listens(feed_port))

    found = status()
    assert found["on"] and found["phase"] == "on"
    assert (found["by"], found["reason"]) == (WHO["by"], WHO["reason"])
    assert (found["held"], found["enabled"]) == (sorted(OTHERS), [CRITICAL])
    assert found["problems"] == []
    assert found["protection"]["audit"] == "recorded in the audit database"
    assert found["protection"]["router"].startswith("TLS")

    for test in (True, False):
        again = apply("entered", test=test, by="Somebody", reason="else")
        assert (again["result"], again["changes"]) == (True, {})
        assert WHO["reason"] in again["comment"]

    shown = apply("left", test=True)
    assert shown["result"] is None
    assert status()["on"]
    done = apply("left")
    assert done["result"] is True, done["comment"]
    assert done["changes"] == shown["changes"]
    assert statuses(api) == was
    assert {c["name"]: _rest(c) for c in api.get("channels")} == {
        name: _rest(channel) for name, channel in before.items()
    }
    wait_for(lambda: answer(openhim, "/referrals/1") == ROUTED)
    wait_for(lambda: listens(feed_port))
    assert not status()["on"]
    for test in (True, False):
        again = apply("left", test=test)
        assert (again["result"], again["changes"]) == (True, {})


def _rest(channel):
    return {k: v for k, v in channel.items() if k not in ("__v", "updatedBy")}


def test_entry_and_exit_are_on_record_once_and_announced(
    openhim, apply, record, load, pillar, monkeypatch
):
    apply("entered")
    apply("entered")
    apply("left")
    apply("left")
    entries = journal.read(record)
    assert [one["what"] for one in entries] == ["entered", "left"]
    assert {key: entries[0][key] for key in WHO} == WHO
    assert {key: entries[1][key] for key in BACK} == BACK
    assert entries[0]["off"] == sorted(OTHERS)
    assert entries[0]["critical"] == [CRITICAL]
    assert record.stat().st_mode & 0o777 == 0o600
    assert load(pillar).modules["openhim_emergency.history"]() == entries
    apply("entered")
    assert [one["emergency"] for one in journal.read(record)] == [1, 1, 2]


def test_the_master_is_told_and_its_silence_stops_nothing(apply, load, pillar, monkeypatch):
    told = []
    loaded = load(pillar)

    def fire(data, tag):
        told.append((tag, data["by"]))
        return True

    def broken(data, tag):
        raise OSError("no master")

    states = loaded.states
    states["openhim_emergency.entered"]  # loaded now, so that its functions can be replaced
    for answer_of, verb, who in ((fire, "entered", WHO), (broken, "left", BACK)):
        loaded.modules["event.fire_master"] = answer_of
        result = states[f"openhim_emergency.{verb}"]("x", **who)
        assert result["result"] is True, result["comment"]
    assert told == [("openhim/emergency/entered", "Ada")]
    assert "no master" in result["comment"]


@pytest.mark.parametrize("broken_at", range(8))
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    openhim, apply, api, record, broken_at, monkeypatch
):
    """Every write, to the database, to OpenHIM and to the record, is one at which a run may die."""
    was = statuses(api)
    for verb in ("entered", "left"):
        with monkeypatch.context() as patched:
            _die_at(patched, broken_at)
            try:
                apply(verb)
            except Death:
                # What was before is known before anything is touched.
                assert remembered(openhim) or statuses(api) == was
        done = apply(verb)
        assert done["result"] is True, done["comment"]
        off = dict.fromkeys(OTHERS, "disabled") if verb == "entered" else {}
        assert statuses(api) == {**was, **off}
        assert journal.read(record)[-1]["what"] == verb
    assert [one["what"] for one in journal.read(record)] == ["entered", "left"]


class Death(BaseException):
    """The process is gone: nothing catches this."""


def _die_at(patched, number):
    """Writes fail from the one on that is to be the last: half of the numbers die before it, half
    after it, as a process may."""
    from saltext.openhim.core.api import Api

    count = iter(range(1000))

    def dying(function):
        def write(*args, **kwargs):
            at = next(count)
            if at == number // 2 and not number % 2:
                raise Death
            result = function(*args, **kwargs)
            if at == number // 2:
                raise Death
            return result

        return write

    patched.setattr(Api, "put", dying(Api.put))
    patched.setattr(memory.Memory, "keep", dying(memory.Memory.keep))
    patched.setattr(journal, "append", dying(journal.append))


def test_what_an_operator_did_meanwhile_is_left_and_told(apply, api):
    apply("entered")
    feed, referrals = named(api, "Feed"), named(api, "Referrals")
    api.put("channels", referrals["_id"], body={"description": "to be looked at"})
    api.put("channels", feed["_id"], body={"status": "enabled"})

    done = apply("left")
    assert done["result"] is True
    assert "Referrals: changed by somebody meanwhile" in done["comment"]
    assert "Feed: put on by somebody meanwhile" in done["comment"]
    assert list(done["changes"]) == ["emergency mode"]
    assert statuses(api)["Referrals"] == "disabled"
    assert statuses(api)["Feed"] == "enabled"


def test_a_channel_that_was_deleted_meanwhile_is_told(apply, api):
    apply("entered")
    api.delete("channels", named(api, "Referrals")["_id"])
    done = apply("left")
    assert done["result"] is True
    assert "Referrals: deleted meanwhile" in done["comment"]
    assert named(api, "Referrals") is None
    assert statuses(api)["Feed"] == "enabled"


def test_a_channel_that_is_put_on_or_made_meanwhile_is_put_off_by_the_state(apply, api):
    apply("entered")
    feed = named(api, "Feed")
    api.put("channels", feed["_id"], body={"status": "enabled"})
    route = {"name": "upstream", "host": "127.0.0.1", "port": 9, "primary": True}
    api.post(
        "channels", body={"name": "New", "urlPattern": "^/new$", "allow": [], "routes": [route]}
    )
    done = apply("entered")
    assert done["result"] is True
    assert set(done["changes"]) == {"Feed", "New"}
    assert statuses(api)["New"] == statuses(api)["Feed"] == "disabled"
    apply("left")
    assert statuses(api)["New"] == statuses(api)["Feed"] == "enabled"


def test_a_channel_that_becomes_critical_is_put_on(apply, api):
    apply("entered")
    done = apply("entered", channels=[CRITICAL, "Referrals"])
    assert done["result"] is True, done["comment"]
    assert done["changes"]["Referrals"] == {"old": "disabled", "new": "enabled"}
    assert statuses(api)["Referrals"] == "enabled"
    assert apply("entered", channels=[CRITICAL, "Referrals"])["changes"] == {}
    apply("left")
    assert statuses(api)["Feed"] == "enabled"


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (["Laboratory order"], "'Laboratory order' is not in OpenHIM"),
        ([], "no critical channel is named"),
    ],
)
def test_a_critical_channel_that_is_not_there_is_refused(
    openhim, apply, api, channels, words, record
):
    was = statuses(api)
    for test in (True, False):
        refused = apply("entered", test=test, channels=channels)
        assert refused["result"] is False
        assert words in refused["comment"]
        assert refused["changes"] == {}
    assert (statuses(api), remembered(openhim), record.exists()) == (was, [], False)


def test_a_critical_channel_that_is_there_twice_is_refused(openhim, apply, api):
    """OpenHIM's index forbids it; a restore of collections without indexes does not."""
    with openhim.database.client() as client:
        stored = client[openhim.main]["channels"]
        index = next(n for n, i in stored.index_information().items() if i["key"] == [("name", 1)])
        stored.drop_index(index)
        try:
            second = {**stored.find_one({"name": CRITICAL}), "urlPattern": "^/other$"}
            del second["_id"]
            identity = stored.insert_one(second).inserted_id
            refused = apply("entered")
            stored.delete_one({"_id": identity})
        finally:
            stored.create_index("name", unique=True)
    assert refused["result"] is False
    assert "is ambiguous" in refused["comment"]
    assert str(identity) in refused["comment"]
    assert remembered(openhim) == []


def test_nothing_is_begun_without_a_name_and_a_reason(openhim, apply, api):
    was = statuses(api)
    for lacking in ({"by": " "}, {"reason": ""}):
        refused = apply("entered", **lacking)
        assert refused["result"] is False
        assert "for the record" in refused["comment"]
    assert (statuses(api), remembered(openhim)) == (was, [])
    apply("entered")
    assert apply("left", by="")["result"] is False
    assert statuses(api)["Feed"] == "disabled"


def test_without_audit_it_is_refused(openhim, apply, api, monkeypatch):
    """OpenHIM's own view of the audit collection is taken away: it cannot write there any more."""
    from saltext.openhim.emergency import protection

    monkeypatch.setattr(protection, "AUDIT_SECONDS", 2.0)
    audit = openhim.pillar["openhim"]["mongodb"]["databases"]["audit"]["name"]
    with openhim.database.client() as client:
        database = client[audit]
        database.command("collMod", "audits", validator={"never": {"$exists": True}})
        try:
            refused = apply("entered")
        finally:
            database.command("collMod", "audits", validator={})
    assert refused["result"] is False
    assert "does not show it" in refused["comment"]
    assert remembered(openhim) == []
    assert statuses(api)["Feed"] == "enabled"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "config",
            {"auditing": {"auditEvents": {"interface": "none"}}},
            "with which OpenHIM records nothing",
        ),
        ("ports", {"https": 9}, "does not answer with TLS"),
    ],
)
def test_without_audit_or_tls_by_the_declaration_it_is_refused(
    openhim, apply, pillar, api, key, value, words
):
    core = pillar["openhim"]["core"]
    core[key] = {**core[key], **value}
    refused = apply("entered", pillar=pillar)
    assert refused["result"] is False
    assert words in refused["comment"]
    assert remembered(openhim) == []
    assert statuses(api)["Feed"] == "enabled"


def test_a_host_at_another_site_refuses(load, pillar):
    loaded = load(pillar, minion_id="south-core")
    result = loaded.states["openhim_emergency.entered"]("emergency", **WHO)
    assert result["result"] is False
    assert "not active on this host" in result["comment"]


@pytest.fixture
def highstate(load, pillar, feed_port):
    """What a highstate does with channels that are declared; ``changed`` lays keys over one."""
    route = {"name": "upstream", "host": "127.0.0.1", "port": 9, "primary": True}
    common = {"allow": [], "authType": "public", "routes": [route]}
    declared = {
        CRITICAL: {**common, "urlPattern": "^/laboratory/.*$", "status": "enabled"},
        "Referrals": {**common, "urlPattern": "^/referrals/.*$", "status": "enabled"},
        "Feed": {
            **common, "urlPattern": "_tcp", "type": "tcp", "tcpPort": feed_port,
            "tcpHost": "127.0.0.1",
        },
    }  # fmt: skip

    def run(changed=None, roles=None, test=False):
        for name, keys in (changed or {}).items():
            declared[name] = {**declared.get(name, common), **keys}
        objects = {"channels": declared, **({"roles": roles} if roles else {})}
        pillar["openhim"]["objects"] = objects
        return load(pillar, test=test).states["openhim.objects_present"]("objects")

    return run


def test_a_highstate_does_not_put_channels_on(apply, api, highstate):
    assert highstate()["result"] is True
    apply("entered")
    off = statuses(api)
    for test in (True, False):
        result = highstate(test=test)
        assert (result["result"], result["changes"]) == (True, {}), result["comment"]
        assert "Referrals: it is kept off while emergency mode lasts" in result["comment"]
    assert statuses(api) == off
    apply("left")
    result = highstate()
    assert (result["result"], result["changes"]) == (True, {})
    assert "emergency" not in result["comment"]


def test_what_the_pillar_changes_meanwhile_is_no_operators_change(apply, api, highstate):
    highstate()
    apply("entered")
    roles = {"clinics": {"channels": ["Referrals"], "clients": []}}
    result = highstate({"Referrals": {"description": "new"}, "Feed": {"description": "new"}}, roles)
    assert result["result"] is True, result["comment"]
    assert statuses(api)["Referrals"] == statuses(api)["Feed"] == "disabled"
    assert named(api, "Feed")["description"] == "new"
    done = apply("left")
    assert done["result"] is True
    assert "meanwhile" not in done["comment"]
    assert statuses(api)["Referrals"] == statuses(api)["Feed"] == "enabled"


def test_a_channel_that_an_operator_changed_stays_changed_though_the_pillar_changes_it_too(
    apply, api, highstate
):
    highstate()
    apply("entered")
    api.put("channels", named(api, "Referrals")["_id"], body={"description": "by hand"})
    highstate({"Referrals": {"timeout": 4000}})
    done = apply("left")
    assert "Referrals: changed by somebody meanwhile" in done["comment"]
    assert statuses(api)["Referrals"] == "disabled"


def test_a_channel_that_is_declared_meanwhile_is_made_off_and_comes_on_in_the_end(
    apply, api, highstate, status
):
    highstate()
    apply("entered")
    result = highstate({"Brand new": {"urlPattern": "^/new/.*$"}})
    assert result["result"] is True, result["comment"]
    assert "Brand new: it is kept off" in result["comment"]
    assert statuses(api)["Brand new"] == "disabled"
    assert "Brand new" in status()["held"]
    assert highstate()["changes"] == {}
    apply("left")
    assert statuses(api)["Brand new"] == "enabled"


def test_where_emergency_mode_cannot_be_asked_no_channel_is_written(api, pillar, highstate):
    """Not known is not "off": OpenHIM's API answers, and the database does not."""
    highstate()
    before = named(api, "Referrals")
    pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["port"] = ports.free()
    result = highstate({"Referrals": {"description": "new"}})
    assert result["result"] is False
    assert "in which emergency mode is remembered, does not answer" in result["comment"]
    assert named(api, "Referrals") == before


def test_two_hosts_that_enter_at_once_make_one_emergency(openhim, pillar, api, monkeypatch):
    """The second one finds the first one's document, and stops with a word."""
    core = openhim.core
    with memory.opened(core) as kept:
        original = memory.Memory.next_number

        def slow(self):
            number = original(self)
            monkeypatch.setattr(memory.Memory, "next_number", original)
            assert switch.enter(core, **WHO, channels=[CRITICAL]).changes
            return number

        monkeypatch.setattr(memory.Memory, "next_number", slow)
        with pytest.raises(OpenHIMError, match="another run"):
            switch.enter(core, by="Ben", reason="the same", channels=[CRITICAL])
        (only,) = kept.all()
    assert only.entered["by"] == WHO["by"]
    assert switch.leave(core, **BACK).changes
    assert json.dumps(only.plain())  # plain values: the whole of it can be told
