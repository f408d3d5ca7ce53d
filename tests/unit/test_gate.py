"""When a host may start its services after a boot, and what of it is on its disk."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from saltext.openhim import gate, gate_host, settings

EXAMPLE = Path(__file__).parents[2] / "pillar/openhim/production.sls"


@pytest.fixture
def root(tmp_path):
    """A host's files, in its first boot."""
    boot(tmp_path, "first")
    put(tmp_path, gate.CONFIG, json.dumps({"stack": "example", "units": [], "ask": []}))
    return str(tmp_path)


def put(root, path, text):
    place = Path(root) / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def boot(root, name):
    put(root, gate.BOOT_ID, f"{name}\n")


def fenced(root, state=True):
    entry = {"verb": "fence", "epoch": 2, "by": "Ada", "reason": "fire", "at": "then"}
    put(root, gate.FENCE_RECORD, json.dumps({"fenced": state, "orders": [entry]}))


def answer(monkeypatch, *lines):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_without_a_proof_it_is_closed_and_says_what_to_do(root):
    said = gate.refusal(root)
    assert said.startswith("closed: there is no proof of the current epoch in this boot")
    assert "openhim-attest" in said
    assert "\n" not in said


def test_a_proof_opens_it_for_this_boot_only(root):
    gate.prove(0, "master", "10.20.0.10", "asked", root)
    assert gate.refusal(root) is None
    assert gate.proof(root)["how"] == "master"
    # Where /run outlasts a boot.
    boot(root, "second")
    assert "no proof" in gate.refusal(root)


def test_a_proof_of_an_older_epoch_than_the_host_knows_opens_nothing(root):
    gate.learn(3, root)
    with pytest.raises(gate.Closed, match="of epoch 2, and this host has heard of epoch 3"):
        gate.prove(2, "master", "10.20.0.10", "asked", root)
    assert gate.refusal(root) is not None


def test_it_says_why_the_master_refused_until_somebody_opens_it(root):
    gate.remember_refusal("the site north\nwas given up", root)
    assert gate.refusal(root) == "closed: the master refused: the site north was given up"
    gate.prove(0, "attested", "Ada", "all was off", root)
    assert gate.refusal(root) is None
    gate.withdraw(root)
    assert "no proof" in gate.refusal(root)


def test_what_was_learnt_is_never_forgotten(root):
    gate.learn(3, root)
    gate.learn(1, root)
    assert gate.highest_epoch(root) == 3
    gate.learn(4, root)
    assert gate.highest_epoch(root) == 4


def test_no_proof_opens_a_fenced_host(root):
    gate.prove(2, "master", "10.20.0.10", "asked", root)
    fenced(root)
    assert "this host was fenced in epoch 2 by Ada (fire)" in gate.refusal(root)
    fenced(root, state=False)
    assert gate.refusal(root) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fenced": true, "orders": []}', "\x00"])
def test_a_record_of_the_fence_that_cannot_be_read_keeps_it_closed(root, text):
    gate.prove(2, "master", "10.20.0.10", "asked", root)
    put(root, gate.FENCE_RECORD, text)
    assert "cannot be read" in gate.refusal(root)


@pytest.mark.parametrize("path", [gate.PROOF, gate.HIGHEST])
def test_what_cannot_be_read_keeps_it_closed(root, path):
    gate.prove(2, "master", "10.20.0.10", "asked", root)
    put(root, path, "half a fi")
    assert "cannot be read" in gate.refusal(root)


def test_an_attestation_opens_it_and_is_recorded(root, monkeypatch):
    gate.learn(2, root)
    answer(monkeypatch, "example", "Ada", "everything was off")
    gate.attest(root)
    assert gate.refusal(root) is None
    assert gate.proof(root)["how"] == "attested"
    record = Path(root) / gate.ATTESTATIONS.lstrip("/")
    (entry,) = map(json.loads, record.read_text().splitlines())
    assert (entry["epoch"], entry["by"], entry["reason"]) == (2, "Ada", "everything was off")
    assert record.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("exampel", "Ada", "fire"), "type 'example'"),
        (("example", "", "fire"), "found no by"),
        (("example", "Ada", " "), "found no reason"),
    ],
)
def test_an_attestation_that_lacks_something_does_nothing(root, monkeypatch, lines, words):
    answer(monkeypatch, *lines)
    with pytest.raises(gate.Closed, match=words):
        gate.attest(root)
    assert gate.refusal(root) is not None
    assert not (Path(root) / gate.ATTESTATIONS.lstrip("/")).exists()


def test_no_attestation_lifts_a_fence(root, monkeypatch):
    fenced(root)
    answer(monkeypatch, "example", "Ada", "it must")
    with pytest.raises(gate.Closed, match="no attestation lifts a fence"):
        gate.attest(root)
    assert not (Path(root) / gate.ATTESTATIONS.lstrip("/")).exists()


def test_the_proof_is_for_root_alone_and_goes_when_it_is_withdrawn(root):
    gate.prove(0, "master", "10.20.0.10", "asked", root)
    assert (Path(root) / gate.PROOF.lstrip("/")).stat().st_mode & 0o777 == 0o600
    gate.withdraw(root)
    gate.withdraw(root)
    assert gate.refusal(root) is not None


def test_the_program_needs_nothing_but_python():
    """On a host whose Salt is broken: isolated, and without the packages of this environment."""
    command = [sys.executable, "-I", "-S", gate.__file__, "neither"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "say one of: check, ask, attest\n")


def test_it_looks_where_the_rest_of_the_package_keeps_its_state():
    assert gate.STATE == settings.STATE_DIRECTORY


def test_every_service_of_a_host_is_behind_the_gate():
    stack = settings.from_pillar(yaml.safe_load(EXAMPLE.read_text()))
    tools = gate_host.Tools("/usr/bin/python3", ("salt-call", "openhim_fence.admit"))
    for host, unit in (("north-db1", "mongod-openhim"), ("north-core", "openhim-core")):
        found = gate_host.wanted(stack, host, tools)
        behind, _ = found[f"/etc/systemd/system/{unit}.service.d/openhim-gate.conf"]
        assert "Requires=openhim-gate.service\nAfter=openhim-gate.service\n" in behind
        assert json.loads(found[gate.CONFIG][0])["units"] == [f"{unit}.service"]
        # Before the gate is there, nothing must need it.
        assert list(found).index(gate_host.UNIT_FILE) < len(found) - 1
        assert list(found)[-1].endswith("openhim-gate.conf")
