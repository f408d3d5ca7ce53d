"""What is said of a scratch mongod with which the connection broke."""

import subprocess

import pytest
from saltext.openhim.backup.scratch import Scratch, ScratchError


def scratch(folder, command):
    """One whose process is another program's."""
    keeper = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return Scratch(None, folder, "6.0.5", keeper)


def ended(one):
    one.keeper.stdin.close()
    one.keeper.stdout.close()
    one.keeper.wait(10)


def test_one_that_is_about_to_be_gone_has_ended(tmp_path):
    """Its connections were closed before its output was."""
    server = scratch(tmp_path, "sleep 0.3")
    with pytest.raises(ScratchError, match="ended while it was in use: it left no word"):
        server.check()
    ended(server)


def test_one_that_goes_on_has_not_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("saltext.openhim.backup.scratch.END_SECONDS", 0.1)
    server = scratch(tmp_path, "read line")
    server.check()
    ended(server)
