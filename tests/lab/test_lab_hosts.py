"""The lab itself: its hosts are real, its disasters happen, and nothing of it stays behind."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import HostSpec, Lab, LabError, kernel, reaper
from lab.network import REPOSITORY, namespaces

SMALL = "/var/lib/small"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts in the north, one in the south."""
    hosts = [
        HostSpec("north-a", "north", "10.20.1.11", disks={SMALL: "16M"}),
        HostSpec("north-b", "north", "10.20.1.12"),
        HostSpec("south-a", "south", "10.20.2.11"),
    ]
    with Lab.start(hosts=hosts, share={"/srv/shared": REPOSITORY / "lab"}) as running:
        yield running


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test every host is up and every link is whole again."""
    yield
    if "lab" in request.fixturenames:
        lab = request.getfixturevalue("lab")
        for host in lab.hosts.values():
            host.thaw() if host.running else host.boot()
        for site in ("north", "south"):
            lab.rejoin_site(site)
            lab.slow_site(site, 0)


def reaches(lab: Lab, one: str, other: str) -> bool:
    """Tell whether a ping from one host to another is answered within a second."""
    return lab.host(one).run(["ping", "-c1", "-W1", other], check=False).returncode == 0


def remains(lab_id: str) -> list[str]:
    """Return everything on this machine that belongs to a lab."""
    prefix = f"{reaper.prefix_of(lab_id)}-"
    found = [f"namespace {name}" for name in namespaces(prefix)]
    found += [f"group {name}" for name in kernel.cgroups(prefix)]
    folders = (reaper.folder_of(lab_id), reaper.disks_of(lab_id))
    found += [f"folder {folder}" for folder in folders if folder.exists()]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if str(reaper.folder_of(lab_id)) in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if prefix in words or f"lab.reaper {lab_id}" in words:
            found.append(f"process {words}")
    return found


def wait_until(true: object, seconds: float = 20) -> bool:
    """Tell whether a condition became true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_host_is_booted_by_systemd_and_all_its_services_run(lab: Lab) -> None:
    host = lab.host("north-a")
    assert host.read("/proc/1/comm").strip() == "systemd"
    assert host.run(["systemctl", "is-system-running"], check=False).stdout.strip() == "running"
    assert host.run(["hostname"]).stdout.strip() == "north-a"


def test_services_really_start_and_stop(lab: Lab) -> None:
    host = lab.host("north-a")
    host.write("/etc/systemd/system/long.service", "[Service]\nExecStart=/bin/sleep 1000\n")
    host.run(["systemctl", "start", "long"])
    pid = host.run(["systemctl", "show", "-PMainPID", "long"]).stdout.strip()
    assert "sleep" in host.run(["ps", "-o", "comm=", pid]).stdout
    host.run(["systemctl", "stop", "long"])
    assert host.run(["ps", "-o", "comm=", pid], check=False).stdout == ""


def test_hosts_know_and_reach_each_other_but_nothing_outside(lab: Lab) -> None:
    assert reaches(lab, "north-a", "south-a")
    assert reaches(lab, "north-a", "north-b")
    assert not reaches(lab, "north-a", "192.0.2.1")
    interfaces = lab.host("north-a").run(["ip", "-brief", "link"]).stdout
    assert re.findall(r"^(\w+)", interfaces, re.M) == ["lo", "eth0"]


def test_a_host_keeps_a_firewall_of_its_own(lab: Lab) -> None:
    host = lab.host("south-a")
    host.run(["nft", "-f", "-"], input="table inet t { chain input {\n"
             "type filter hook input priority filter; policy drop;\n}\n}\n")  # fmt: skip
    assert not reaches(lab, "north-a", "south-a")
    host.run(["nft", "delete", "table", "inet", "t"])
    assert reaches(lab, "north-a", "south-a")


def test_every_user_of_a_host_can_run_salts_python(lab: Lab) -> None:
    command = ["setpriv", "--reuid=nobody", "/opt/salt/bin/python", "-c", "import salt, pymongo"]
    lab.host("north-a").run(command)


def test_a_shared_folder_is_seen_and_cannot_be_written(lab: Lab) -> None:
    host = lab.host("north-a")
    assert "class HostSpec" in host.read("/srv/shared/host.py")
    assert "Read-only" in host.run(["touch", "/srv/shared/x"], check=False).stderr


def test_a_file_is_written_with_its_mode_and_read_back(lab: Lab) -> None:
    host = lab.host("north-a")
    host.write("/etc/new/folder/secret", "s3cret\n", mode=0o600)
    assert host.read("/etc/new/folder/secret") == "s3cret\n"
    assert host.run(["stat", "-c%a", "/etc/new/folder/secret"]).stdout.strip() == "600"


def test_a_command_that_fails_says_where_and_why(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"north-a: ls /nope ended with 2(?s:.*)No such file"):
        lab.host("north-a").run(["ls", "/nope"])


def test_a_command_that_takes_too_long_is_killed(lab: Lab) -> None:
    host = lab.host("north-a")
    with pytest.raises(LabError, match=r"did not end within 0\.3 s"):
        host.run(["sleep", "4711"], timeout=0.3)
    assert wait_until(lambda: host.run(["pgrep", "-f", "sleep 4711"], check=False).returncode == 1)


def test_a_power_loss_tells_no_peer_and_keeps_the_disk(lab: Lab) -> None:
    host = lab.host("north-a")
    host.write("/var/lib/kept", "before")
    host.write(f"{SMALL}/kept", "small")
    boot = host.read("/proc/sys/kernel/random/boot_id"), host.run(["cat", "/etc/machine-id"]).stdout
    listener = host.popen(
        ["/opt/salt/bin/python", "-c",
         "import socket; s = socket.create_server(('', 7000)); print(1, flush=True);"
         "c, _ = s.accept(); c.recv(1)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert listener.stdout.readline() == "1\n"
    client = lab.host("south-a").popen(
        ["/opt/salt/bin/python", "-c",
         "import socket; c = socket.create_connection(('north-a', 7000)); print(1, flush=True);"
         "c.settimeout(1.5); print('told' if c.recv(1) == b'' else 'data')"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout.readline() == "1\n"
    host.kill()
    output, errors = client.communicate(timeout=20)
    assert output == ""
    assert "TimeoutError" in errors
    assert not host.running
    assert host.read("/var/lib/kept") == "before"  # while it is down
    host.boot()
    listener.wait(5)
    assert host.read("/var/lib/kept") == "before"
    assert host.read(f"{SMALL}/kept") == "small"
    assert host.read("/etc/machine-id") == boot[1]


def test_an_orderly_shutdown_stops_services_first(lab: Lab) -> None:
    host = lab.host("north-b")
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
    host.write("/etc/systemd/system/last.service", f"{unit}ExecStop=/bin/touch /var/lib/stopped\n")
    host.run(["systemctl", "start", "last"])
    host.shutdown()
    assert not host.running
    host.boot()
    host.run(["ls", "/var/lib/stopped"])


def test_a_killed_site_is_gone_as_a_whole_and_comes_back(lab: Lab) -> None:
    lab.kill_site("north")
    assert [host.running for host in lab.site("north")] == [False, False]
    assert not reaches(lab, "south-a", "north-a")
    with pytest.raises(LabError, match="host north-a is down; boot it first"):
        lab.host("north-a").run(["true"])
    lab.boot_site("north")
    assert reaches(lab, "south-a", "north-a")


def test_an_isolated_site_goes_on_within_itself(lab: Lab) -> None:
    lab.isolate_site("north")
    assert not reaches(lab, "north-a", "south-a")
    assert not reaches(lab, "south-a", "north-a")
    assert reaches(lab, "north-a", "north-b")
    lab.rejoin_site("north")
    assert reaches(lab, "north-a", "south-a")


def test_a_partition_cuts_two_sites_and_one_host_can_be_cut_off_alone(lab: Lab) -> None:
    lab.partition("north", "south")
    assert not reaches(lab, "north-a", "south-a")
    lab.rejoin_site("south")
    lab.isolate_host("north-b")
    assert not reaches(lab, "north-a", "north-b")
    assert reaches(lab, "north-a", "south-a")
    lab.rejoin_host("north-b")
    assert reaches(lab, "north-a", "north-b")


def round_trip_ms(lab: Lab, one: str, other: str) -> float:
    """Return the fastest of three round trips in milliseconds."""
    output = lab.host(one).run(["ping", "-c3", "-i0.05", "-W2", other]).stdout
    return float(re.search(r"= ([\d.]+)/", output)[1])


def test_a_slow_site_answers_later_by_the_delay_of_both_ways(lab: Lab) -> None:
    before = round_trip_ms(lab, "south-a", "north-a")
    lab.slow_site("north", delay_ms=40)
    assert 80 <= round_trip_ms(lab, "south-a", "north-a") < 200
    assert round_trip_ms(lab, "north-a", "north-b") < 40  # within the site nothing changes
    lab.slow_site("south", delay_ms=20)
    assert 120 <= round_trip_ms(lab, "south-a", "north-a") < 300
    lab.slow_site("north", 0)
    lab.slow_site("south", 0)
    assert round_trip_ms(lab, "south-a", "north-a") < max(40, 10 * before)


def test_a_lossy_site_loses_packets(lab: Lab) -> None:
    lab.slow_site("north", delay_ms=0, loss_percent=100)
    assert not reaches(lab, "south-a", "north-a")


def test_a_slow_link_carries_more_than_a_few_packets(lab: Lab) -> None:
    lab.slow_site("north", delay_ms=5)
    receiver = lab.host("north-a").popen(
        ["/opt/salt/bin/python", "-c",
         "import socket; s = socket.create_server(('', 7001)); print(1, flush=True);"
         "c, _ = s.accept(); n = 0\nwhile d := c.recv(1 << 16): n += len(d)\nprint(n)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert receiver.stdout.readline() == "1\n"
    lab.host("south-a").run(
        ["/opt/salt/bin/python", "-c",
         "import socket; c = socket.create_connection(('north-a', 7001));"
         "c.sendall(bytes(8 << 20))"],
        timeout=30,
    )  # fmt: skip
    assert receiver.communicate(timeout=30)[0].strip() == str(8 << 20)


def says_something(pipe: int, seconds: float) -> bool:
    """Tell whether there is something to read within some seconds."""
    return bool(select.select([pipe], [], [], seconds)[0])


def test_a_frozen_host_is_silent_and_goes_on_as_if_nothing_had_been(lab: Lab) -> None:
    host = lab.host("north-b")
    counter = host.popen(["sh", "-c", "while :; do echo; sleep 0.02; done"], stdout=subprocess.PIPE)
    assert says_something(counter.stdout.fileno(), 5)
    host.freeze()
    pipe = counter.stdout.fileno()
    while says_something(pipe, 0):
        os.read(pipe, 4096)  # from before the freeze
    assert not says_something(pipe, 0.3)
    with pytest.raises(LabError, match="did not end within"):
        host.run(["true"], timeout=0.5)
    host.thaw()
    assert says_something(pipe, 5)
    host.run(["true"])
    counter.kill()


def test_a_full_disk_refuses_writes_until_it_is_freed(lab: Lab) -> None:
    host = lab.host("north-a")
    lab.fill_disk("north-a", SMALL)
    write = ["sh", "-c", f"head -c 9999 /dev/zero > {SMALL}/more"]
    assert "No space left" in host.run(write, check=False).stderr
    lab.free_disk("north-a", SMALL)
    host.run(write)


def test_the_machines_own_disk_is_never_filled(lab: Lab) -> None:
    with pytest.raises(LabError, match="no disk of its own at /var/lib"):
        lab.fill_disk("north-a", "/var/lib")


def test_a_process_has_an_address_and_dies_with_its_site(lab: Lab) -> None:
    server = [sys.executable, "-c",
              "import http.server as h; print(1, flush=True);"
              "h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"]  # fmt: skip
    upstream = lab.process("upstream", "10.20.2.50", "south", server)
    try:
        assert wait_until(lambda: upstream.log.read_text().startswith("1"))
        fetch = ["curl", "-s", "-o/dev/null", "-w%{http_code}", "-m2", "http://upstream:8000/"]
        assert wait_until(
            lambda: lab.host("north-a").run(fetch, check=False).stdout == "200", seconds=10
        )
        lab.kill_site("south")
        assert not upstream.running
        assert lab.host("north-a").run(fetch, check=False).stdout == "000"
    finally:
        upstream.kill()


def test_two_labs_run_side_by_side_with_the_same_addresses(lab: Lab) -> None:
    with Lab.start(hosts=[HostSpec("north-a", "north", "10.20.1.11")]) as other:
        other.host("north-a").write("/var/lib/mine", "other")
        assert lab.host("north-a").run(["ls", "/var/lib/mine"], check=False).returncode == 2
        other.kill_site("north")
        assert reaches(lab, "south-a", "north-a")
    assert remains(other.id) == []


def test_another_process_can_take_part(lab: Lab) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "lab", "--lab", lab.id, *words]
        return subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY)

    assert command("exec", "north-a", "hostname").stdout.strip() == "north-a"
    command("isolate", "north")
    assert not reaches(lab, "south-a", "north-a")
    command("kill", "north")
    assert not lab.host("north-a").running
    assert "site north is isolated" in command("status").stdout
    assert "there is no host 'nobody'" in command("exec", "nobody", "ls").stderr


START_AND_WAIT = """
import sys
from lab import HostSpec, Lab
host = HostSpec("a", "north", "10.20.1.11", disks={"/var/lib/small": "4M"})
lab = Lab.start(hosts=[host], belongings=sys.argv[1:])
lab.process("p", "10.20.1.50", "north", ["sleep", "1000"])
lab.slow_site("north", 5)
print(lab.id, flush=True)
sys.stdin.read()  # ends with the test, however that one ends
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_when_the_owner_is_killed(number: int, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, secrets], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    lab_id = owner.stdout.readline().strip()
    try:
        assert len(remains(lab_id)) > 8, owner.stderr.read()
    finally:
        owner.send_signal(number)
        owner.communicate(timeout=30)
    assert wait_until(lambda: remains(lab_id) == []), remains(lab_id)
    assert not secrets.exists()


def test_the_next_lab_removes_what_owner_and_watchdog_could_not() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=REPOSITORY,
    )  # fmt: skip
    lab_id = owner.stdout.readline().strip()
    watchdogs = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"lab.reaper\0{lab_id}".encode() in path.read_bytes()
    ]
    assert len(watchdogs) == 1
    os.kill(watchdogs[0], signal.SIGKILL)
    owner.kill()
    owner.communicate(timeout=30)
    assert lab_id in reaper.abandoned()
    done = subprocess.run(
        [sys.executable, "-m", "lab", "clean"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert lab_id in done.stdout
    assert remains(lab_id) == []


def test_nothing_stays_when_a_host_does_not_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Lab] = []

    def refuse(host: object) -> None:
        raise LabError("it does not boot")

    claim = Lab.__init__
    monkeypatch.setattr(
        Lab, "__init__", lambda self, *args: (started.append(self), claim(self, *args))[1]
    )
    monkeypatch.setattr("lab.lab.Host.boot", refuse)
    with pytest.raises(LabError, match="it does not boot"):
        Lab.start(hosts=[HostSpec("a", "north", "10.20.1.11", disks={SMALL: "4M"})])
    assert len(started) == 1
    assert remains(started[0].id) == []
