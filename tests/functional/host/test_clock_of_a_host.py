"""A real chronyd (``-x``: it never touches this machine's clock) beside a server that is off.

The server is ours, because no real one can be told to be two seconds wrong on a shared machine; it
speaks NTP's client-server exchange and nothing else.
"""

import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

NTP_EPOCH = 2208988800


class Server:
    """Answers NTP requests with a time that is ``offset`` seconds off; can fall silent."""

    def __init__(self, offset):
        self.offset = offset
        self.asked = 0
        self.silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _now(self, since=0.0):
        now = time.time() + self.offset + NTP_EPOCH + since
        return struct.pack("!II", int(now), int(now % 1 * 2**32))

    def _serve(self):
        while True:
            try:
                request, client = self._socket.recvfrom(512)
                self.asked += 1
                if not self.silent:
                    self._socket.sendto(self._answer(request), client)
            except OSError:  # closed
                return

    def _answer(self, request):
        # RFC 5905, figure 8: leap and version and mode, stratum, poll, precision.
        head = struct.pack("!BBBbII4s", 0x24, 2, request[2], -20, 0, 0, b"TEST")
        return head + self._now(-1) + request[40:48] + self._now() + self._now()

    def close(self):
        self._socket.close()


@pytest.fixture
def chronyd(tmp_path):
    """A factory: a chronyd that follows the servers on some ports; its command socket."""
    if not (shutil.which("chronyd") and shutil.which("chronyc")):
        pytest.skip("needs the package chrony")
    started = []

    def start(*ports, polls="iburst minpoll 0 maxpoll 0"):
        folder = tmp_path / "chrony"
        folder.mkdir(mode=0o700)
        lines = [f"server 127.0.0.1 port {port} {polls}" for port in ports]
        lines += [f"pidfile {folder}/pid", f"bindcmdaddress {folder}/socket", "cmdport 0", "port 0"]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        command = ["chronyd", "-x", "-d", "-u", "root", "-f", str(folder / "conf")]
        with (folder / "log").open("w") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return str(folder / "socket")

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


@pytest.fixture
def ntp():
    """A factory: an NTP server that is some seconds off."""
    servers = []

    def make(offset=0.0):
        servers.append(Server(offset))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def synchronised(minion, socket_path, test=False, wait=15, **arguments):
    return minion.state(
        "openhim_host.clock_synchronised",
        "clock",
        command_socket=socket_path,
        test=test,
        wait=wait,
        **arguments,
    )


def test_a_right_clock_is_synchronised(minion, chronyd, ntp):
    result = synchronised(minion(), chronyd(ntp().port))
    assert result["result"] is True, result
    assert result["changes"] == {}


def test_a_clock_that_is_two_seconds_off_is_told_even_where_it_may_not_be_set(minion, chronyd, ntp):
    db = minion()
    command_socket = chronyd(ntp(2.0).port)
    result = synchronised(db, command_socket, wait=10)
    assert result["result"] is False
    assert result["comment"].startswith("offset too large")
    measured = db.module("openhim_host.clock", command_socket=command_socket)
    assert measured["offset_ms"] == pytest.approx(-2000, abs=100)
    assert measured["source"] == "127.0.0.1"
    assert synchronised(db, command_socket, max_offset_ms=3000)["result"] is True
    assert synchronised(db, command_socket, test=True)["result"] is False


def test_a_server_that_is_silent_is_no_source(minion, chronyd, ntp):
    silent = ntp()
    silent.close()
    result = synchronised(minion(), chronyd(silent.port), wait=3)
    assert result["result"] is False
    assert result["comment"].startswith("no source")
    assert "127.0.0.1" in result["comment"]


def test_a_server_that_is_reached_again_is_asked_at_once(minion, chronyd, ntp):
    """Left alone, chronyd asks it again after a minute."""
    server = ntp()
    server.silent = True
    command_socket = chronyd(server.port, polls="minpoll 6 maxpoll 6")
    deadline = time.monotonic() + 30
    while not server.asked and time.monotonic() < deadline:
        time.sleep(0.1)
    server.silent = False
    result = synchronised(minion(), command_socket, wait=25)
    assert result["result"] is True, result


def test_a_chronyd_that_does_not_run_is_told_apart(minion, tmp_path):
    result = synchronised(minion(), str(tmp_path / "nothing"), wait=0)
    assert result["result"] is False
    assert result["comment"].startswith("not running")
    assert synchronised(minion("core"), str(tmp_path / "nothing"), test=True)["result"] is None


def test_the_configuration_is_accepted_by_chronyd_and_written_once(minion, pillar):
    pillar["openhim"]["clock"]["servers"] = ["10.99.0.11", "10.99.0.9"]
    db = minion()
    preview = db.state("openhim_host.clock_configured", "clock", test=True)
    assert preview["result"] is None
    assert db.disk() == {}
    written = db.state("openhim_host.clock_configured", "clock")
    assert written["result"] is True
    assert written["changes"] == preview["changes"]
    (path,) = [path for path in db.disk() if path.endswith("chrony.conf")]
    printed = subprocess.run(
        ["chronyd", "-p", "-f", str(db.path(path))], capture_output=True, text=True, check=True
    ).stdout
    assert "server 10.99.0.9 iburst" in printed
    assert "allow 10.99.0.21" in printed
    assert db.state("openhim_host.clock_configured", "clock")["changes"] == {}
