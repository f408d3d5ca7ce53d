"""A place that nothing leaves: processes in it reach each other and nobody else, and it counts.

It is a network namespace with the loopback interface alone. So that an attempt to reach anybody is
seen instead of failing for want of a route, every address is routed to loopback, and nftables drops
and counts whatever is not for loopback itself, and remembers for whom it was.

Sockets that are files cross network namespaces, and the host's resolver has one: so ``/run`` is
empty in there, and names are asked for where the question is counted.

All processes in it are in a process namespace of its own too. When whoever made it ends, ``kill
-9`` included, the kernel ends them all and takes the namespaces away: nothing is left to clean up.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from saltext.openhim.errors import OpenHIMError, Refused

_Result = TypeVar("_Result")

#: Where names are asked for, and whom the probes are for: addresses for documentation, which
#: nobody has. https://www.rfc-editor.org/rfc/rfc5737 https://www.rfc-editor.org/rfc/rfc3849
RESOLVER = "192.0.2.53"
_OWN = ("192.0.2.1", "2001:db8::1")
_PROBES = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8:1::1"))
_DISCARD_PORT = 9

#: Seconds for the place to be made, and for a command in it.
_TIMEOUT = 30.0
_CLONE_NEWNET = 0x40000000
_PROGRAMS = ("unshare", "nsenter", "setpriv", "env", "ip", "nft", "mount")

_RULES = """\
table inet openhim_drill {
    counter denied { }
    set wanted4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 1024; }
    set wanted6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; size 1024; }
    chain output {
        type filter hook output priority -300; policy drop;
        ip daddr 127.0.0.0/8 accept
        ip6 daddr ::1 accept
        counter name denied
        meta l4proto { tcp, udp } update @wanted4 { ip daddr . meta l4proto . th dport }
        meta l4proto { tcp, udp } update @wanted6 { ip6 daddr . meta l4proto . th dport }
    }
}
"""

#: Makes the place and waits in it; reading ends when nobody has the pipe's other end any more.
#: Without ``nodad`` the kernel may have the address on trial yet when the route names it.
_HOLDER = f"""
set -e
mount -t tmpfs -o mode=0755,size=1m,nosuid,nodev tmpfs /run
resolver=$(readlink -m /etc/resolv.conf)
case $resolver in
    /run/*) mkdir -p "$(dirname "$resolver")"; echo nameserver {RESOLVER} >"$resolver" ;;
    *) echo nameserver {RESOLVER} >/run/resolv.conf
       [ ! -e "$resolver" ] || mount --bind /run/resolv.conf "$resolver" ;;
esac
ip link set lo up
ip address add {_OWN[0]}/32 dev lo
ip route add default dev lo src {_OWN[0]}
if [ -e /proc/net/if_inet6 ] && ip -6 address add {_OWN[1]}/128 dev lo nodad 2>/dev/null; then
    ip -6 route add default dev lo src {_OWN[1]}
fi
nft -f - <<'END'
{_RULES}END
echo ready
exec >/dev/null 2>&1
trap '' HUP INT TERM
while read -r _; do :; done
"""


class IsolationError(OpenHIMError):
    """The isolated place cannot be made or used; that says nothing of what was meant for it."""


@dataclass(frozen=True)
class Denied:
    """What was dropped: packets, and for whom they were (``address tcp port``), as far as known."""

    packets: int
    wanted: tuple[str, ...] = ()


class Isolation:
    """A context manager: the place is there in the block, and gone with all its processes after it.

    Raises :class:`IsolationError` when it cannot be made.
    """

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Isolation:
        missing = [name for name in _PROGRAMS if not shutil.which(name)]
        if missing:
            raise IsolationError(
                f"{', '.join(missing)} is not on this host, so nothing can be isolated here. "
                "Install util-linux, iproute2 and nftables"
            )
        namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._holder = subprocess.Popen(
            ["unshare", *namespaces, "/bin/sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A signal to our group, such as ^C at a terminal, is not for the holder.
            start_new_session=True,
        )
        try:
            self._wait_until_ready(self._holder)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._holder is not None and self._holder.stdin and self._holder.stdout
        self._holder.stdin.close()
        try:
            self._holder.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            # Its end is that of the process namespace, and so of everything in it.
            self._holder.kill()
            self._holder.wait()
        self._holder.stdout.close()

    @property
    def network(self) -> Path:
        """The network namespace, for who wants to enter it."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/ns/net")

    def check(self) -> None:
        """Raises :class:`IsolationError` when the place is gone."""
        if self._holder is None or self._holder.poll() is not None:
            raise IsolationError("the isolated place was ended from outside while it was in use")

    def start(
        self, command: Sequence[str], folder: Path, user: str, group: str, log: Path
    ) -> subprocess.Popen[bytes]:
        """Starts a program in the place, as a user who can gain no rights.

        folder: its working directory. log: gets what it prints.
        """
        self.check()
        assert self._holder is not None
        enter = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount"]
        enter += [f"--pid=/proc/{self._holder.pid}/ns/pid_for_children", "--"]
        humble = ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups"]
        humble += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        # The folder as it is seen in there, not out here.
        humble += ["env", f"--chdir={folder}"]
        with log.open("ab") as out:
            return subprocess.Popen(
                [*enter, *humble, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "HOME": str(folder),
                    "LANG": "C.UTF-8",
                },
            )

    def inside(self, function: Callable[[], _Result]) -> _Result:
        """Calls a function whose connections are those of the place; returns what it returns.

        It has a thread of its own, for a thread is what enters a network namespace: threads that
        it starts are in there too, and this process's others are not.
        """
        self.check()
        answer: list[_Result] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                _enter(self.network)
                answer.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=call, name="isolated")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return answer[0]

    def denied(self) -> Denied:
        """What was dropped since the place was made."""
        self.check()
        command = ["nsenter", f"--net={self.network}", "nft", "-j", "list", "table", "inet"]
        done = subprocess.run(
            [*command, "openhim_drill"], capture_output=True, check=False, timeout=_TIMEOUT
        )
        if done.returncode:
            raise IsolationError(
                f"the counter of the isolated place cannot be read: {_words(done.stderr)}"
            )
        return _read(done.stdout)

    def prove(self) -> Denied:
        """Proves that egress is denied and counted; returns what is counted so far.

        Raises :class:`~saltext.openhim.errors.Refused` with what is not so: the namespace is our
        own, there is an interface beside loopback, or a probe to an address that nobody has was
        let through or not counted.
        """
        if os.path.samefile(self.network, "/proc/self/ns/net"):  # noqa: PTH121
            raise Refused(_not_denied("it has this host's own network"))
        interfaces = [name for _, name in self.inside(socket.if_nameindex)]
        if interfaces != ["lo"]:
            raise Refused(_not_denied(f"it has the interfaces {', '.join(interfaces)}"))
        try:
            before = self.denied()
            probes = self.inside(_probed)
            after = self.denied()
        except IsolationError as error:
            raise Refused(_not_denied(str(error))) from error
        passed = [address for address, dropped in probes if not dropped]
        if passed:
            raise Refused(_not_denied(f"a packet to {', '.join(passed)} was not dropped"))
        if after.packets - before.packets != len(probes):
            raise Refused(
                _not_denied(
                    f"{len(probes)} packets were sent, and {after.packets - before.packets} counted"
                )
            )
        return after

    @staticmethod
    def _wait_until_ready(holder: subprocess.Popen[bytes]) -> None:
        assert holder.stdout is not None
        said = b""
        while not said.endswith(b"ready\n"):
            if not select.select([holder.stdout], [], [], _TIMEOUT)[0]:
                raise IsolationError(f"no isolated place was made within {_TIMEOUT:.0f} s")
            more = os.read(holder.stdout.fileno(), 65536)
            if not more:
                raise IsolationError(
                    f"no isolated place can be made on this host: {_words(said)}. It takes root, "
                    "and a kernel with network namespaces and nftables"
                )
            said += more


def _enter(network: Path) -> None:
    """This thread's network becomes another one."""
    libc = ctypes.CDLL(None, use_errno=True)
    with network.open() as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise IsolationError(
                f"the isolated place cannot be entered: {os.strerror(ctypes.get_errno())}"
            )


def _probed() -> list[tuple[str, bool]]:
    """One packet to each address that nobody has: the address, and whether it was dropped.

    A host without IPv6 cannot send such a packet, and nothing else on it can.
    """
    found = []
    for family, address in _PROBES:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.sendto(b"probe", (address, _DISCARD_PORT))
                found.append((address, False))
            except PermissionError:
                found.append((address, True))
            except OSError:
                if family == socket.AF_INET:
                    raise
    return found


def _read(listing: bytes) -> Denied:
    """What ``nft -j list table`` says of our counter and sets."""
    packets, wanted = None, []
    for entry in json.loads(listing)["nftables"]:
        if entry.get("counter", {}).get("name") == "denied":
            packets = int(entry["counter"]["packets"])
        for element in entry.get("set", {}).get("elem", ()):
            wanted.append(" ".join(map(str, _value(element))))
    if packets is None:
        raise IsolationError("the counter of the isolated place is gone")
    return Denied(packets, tuple(sorted(wanted)))


def _value(element: dict[str, Any]) -> list[Any]:
    """The parts of a set's element, as one version of nft and another prints them."""
    return list((element.get("elem", {}).get("val") or element)["concat"])


def _not_denied(reason: str) -> str:
    return (
        f"egress is not denied in the isolated place: {reason}. OpenHIM was not started on the "
        "restored data, for it could act on the outside world"
    )


def _words(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())[-500:] or "it left no word"
