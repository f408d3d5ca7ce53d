"""One host: a system that systemd really boots, with its own disk, network and power button."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import cache, kernel
from lab.errors import LabError
from lab.network import Network

BOOT_SECONDS = 90
SHUTDOWN_SECONDS = 60
# SIGRTMIN+4 asks systemd as PID 1 to power off. Python's number is glibc's, as systemd's.
POWER_OFF = signal.SIGRTMIN + 4
ENVIRONMENT = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "HOME=/root",
]


class CommandError(LabError):
    """A command on a host ended with another code than 0."""

    def __init__(self, host: str, result: subprocess.CompletedProcess[str]) -> None:
        self.result = result
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-20:])
        super().__init__(f"{host}: {result.args} ended with {result.returncode}:\n{tail}")


@dataclass(frozen=True)
class HostSpec:
    """What a host is.

    :param name: host name, also its name in every /etc/hosts and its minion ID
    :param site: the site that it belongs to; sites are lost, cut off and slowed as a whole
    :param address: IPv4 address in 10.20.0.0/16
    :param disks: small disks, mount point to size (``{"/var/lib/mongodb": "512M"}``); these can be
        filled up. They keep their content over a power loss, like everything else on a host
    """

    name: str
    site: str
    address: str
    disks: Mapping[str, str] = field(default_factory=dict)


class Host:
    """A host of a lab. Get one with ``lab.host(name)``.

    Everything about a running host is read from its folder, so any process can use it.
    """

    def __init__(
        self, spec: HostSpec, prefix: str, state: Path, disk: Path, image: Path,
        share: Mapping[str, str], network: Network,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.name = spec.name
        self.site = spec.site
        self.address = spec.address
        self.group = f"{prefix}-{spec.name}"
        self.folder = state / "hosts" / spec.name
        self.console = self.folder / "console.log"
        self._disk = disk / spec.name
        self._image = image
        self._share = share
        self._network = network
        self._supervisor: subprocess.Popen | None = None

    # Its life

    def create(self, hosts: str) -> None:
        """Make the host's empty disk, with its name and /etc/hosts on it."""
        self.folder.mkdir(parents=True)
        (self._disk / "work").mkdir(parents=True)
        etc = self._disk / "upper" / "etc"
        etc.mkdir(parents=True)
        (etc / "hostname").write_text(f"{self.name}\n", encoding="ascii")
        (etc / "hosts").write_text(hosts, encoding="ascii")
        (etc / "machine-id").write_text(f"{os.urandom(16).hex()}\n", encoding="ascii")
        for index, (_, size) in enumerate(self.spec.disks.items()):
            point = self.folder / f"disk{index}"
            point.mkdir()
            cache.call(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "lab", point])

    def destroy(self) -> None:
        """Kill the host and throw its disk away; ``create`` and ``boot`` then make a new host."""
        self.kill()
        for index, _ in enumerate(self.spec.disks):
            cache.call(["umount", "--lazy", self.folder / f"disk{index}"])
        cache.remove(self._disk)
        cache.remove(self.folder)

    @property
    def running(self) -> bool:
        """Whether the host has been booted and not gone down since."""
        return self._leader_identity() is not None

    @property
    def pid(self) -> int:
        """The process ID, on this machine, of the host's PID 1."""
        leader = self._leader_identity()
        if leader is None:
            raise LabError(f"host {self.name} is down; boot it first")
        return int(leader.split()[0])

    def _leader_identity(self) -> str | None:
        try:
            leader = (self.folder / "leader").read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        return leader if kernel.alive(leader) else None

    def boot(self) -> None:
        """Power the host on and wait until systemd has started everything.

        :raises LabError: with the end of the console's output, when it does not come up
        """
        if self.running:
            raise LabError(f"host {self.name} is up already")
        self._remove_remains()
        kernel.make_cgroup(self.group)
        kernel.make_cgroup(f"{self.group}/commands")
        namespace = self._network.attach(self.name)
        ready = self.folder / "ready.socket"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(ready))
            with self.console.open("ab") as console:
                self._supervisor = subprocess.Popen(
                    kernel.in_cgroup(self.group, self._command(namespace)),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                    env={
                        "PATH": os.environ["PATH"],
                        "NOTIFY_SOCKET": str(ready),
                        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    },
                )
            leader = self._wait_until_ready(listener)
        (self.folder / "leader").write_text(leader, encoding="ascii")

    def _command(self, namespace: Path) -> list[str]:
        """Return the command that boots the host.

        Its root is mounted in a mount namespace of its own, and so goes away with its last process.
        """
        nspawn = [
            "systemd-nspawn", "--quiet", f"--directory={self._root}", f"--machine={self.group}",
            f"--hostname={self.name}", "--register=no", "--keep-unit", "--notify-ready=yes",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
            "--capability=CAP_NET_ADMIN",
            "--system-call-filter=@memlock",  # mongod keeps its keys in locked memory
            f"--network-namespace-path={namespace}",
            *(f"--bind-ro={source}:{place}" for place, source in self._share.items()),
            *(
                f"--bind={self.folder}/disk{index}:{place}"
                for index, place in enumerate(self.spec.disks)
            ),
            "--boot",
        ]  # fmt: skip
        return self._with_root(nspawn)

    def _with_root(self, argv: list[str]) -> list[str]:
        """Return a command line that runs ``argv`` with the host's disk mounted at its root."""
        self._root.mkdir(exist_ok=True)
        options = f"lowerdir={self._image},upperdir={self._disk}/upper,workdir={self._disk}/work"
        mount = shlex.join(["mount", "-t", "overlay", "lab", "-o", options, str(self._root)])
        own = ("unshare", "--mount", "--propagation=private")
        return [*own, "/bin/sh", "-c", f'{mount} && exec "$@"', "sh", *argv]

    @property
    def _root(self) -> Path:
        return self.folder / "root"

    def _wait_until_ready(self, listener: socket.socket) -> str:
        """Wait for systemd's word that the host is up; return the identity of its PID 1."""
        deadline = time.monotonic() + BOOT_SECONDS
        leader = None
        listener.settimeout(0.5)
        while time.monotonic() < deadline:
            try:
                said = listener.recv(4096).decode(errors="replace").splitlines()
            except TimeoutError:
                if self._supervisor.poll() is None:
                    continue
                break
            for line in said:
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    leader = kernel.identity(int(value))
            if "READY=1" in said and leader:
                return leader
        self._remove_remains()
        tail = "\n".join(self.console.read_text(errors="replace").splitlines()[-15:])
        raise LabError(
            f"host {self.name} did not boot within {BOOT_SECONDS} s; its console:\n{tail}"
        )

    def shutdown(self) -> None:
        """Shut the host down in order: services are stopped first.

        :raises LabError: when it does not end in time; ``kill`` it then
        """
        leader = self.pid
        kernel.kill(leader, POWER_OFF)
        if not kernel.wait_for_end(leader, SHUTDOWN_SECONDS):
            raise LabError(f"host {self.name} does not shut down within {SHUTDOWN_SECONDS} s")
        self._remove_remains()

    def kill(self) -> None:
        """Take the power away: nothing is stopped, no peer is told. The disk stays as it is."""
        self._network.cut(self.name)  # first, or the kernel would close connections politely
        self._remove_remains()

    def _remove_remains(self) -> None:
        kernel.clear_cgroup(self.group)
        self.forget()
        self._network.detach(self.name)
        (self.folder / "leader").unlink(missing_ok=True)

    def forget(self) -> None:
        """Collect the supervisor's exit code after the whole lab was removed."""
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None

    def freeze(self) -> None:
        """Stop every process of the host without their noticing; connections stay open."""
        kernel.freeze(self.group, True)

    def thaw(self) -> None:
        """Let a frozen host go on."""
        kernel.freeze(self.group, False)

    # What one does on it

    def popen(self, argv: Sequence[str], **options: object) -> subprocess.Popen:
        """Start a command on the host as root and return it; ``options`` are those of Popen."""
        inside = ["nsenter", f"--target={self.pid}", "--all", "--"]
        command = [*inside, "env", "-i", *ENVIRONMENT, *map(str, argv)]
        options = {"text": True, "start_new_session": True, **options}
        return subprocess.Popen(kernel.in_cgroup(f"{self.group}/commands", command), **options)

    def run(
        self,
        argv: Sequence[str],
        input: str | None = None,
        check: bool = True,
        timeout: float | None = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host as root and return its result as text.

        :param timeout: seconds; then the command is killed
        :raises CommandError: when ``check`` and it ended with another code than 0
        :raises LabError: when the host is down, or the time is over
        """
        process = self.popen(
            argv,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            output, errors = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(
                f"{self.name}: {' '.join(map(str, argv))} did not end within {timeout} s"
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result = subprocess.CompletedProcess(
            " ".join(map(str, argv)), process.returncode, output, errors
        )
        if check and result.returncode:
            raise CommandError(self.name, result)
        return result

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, whole or not at all, and its folders; on a host that is down, too."""
        script = (
            'umask 077; mkdir -m 755 -p "$(dirname "$1")" && cat > "$1.unfinished" && '
            'chmod "$2" "$1.unfinished" && mv "$1.unfinished" "$1"'
        )
        self._on_disk(["/bin/sh", "-c", script, "sh", path, f"{mode:04o}"], text)

    def read(self, path: str) -> str:
        """Read a file; of a host that is down, too."""
        return self._on_disk(["cat", path], None)

    def _on_disk(self, argv: list[str], text: str | None) -> str:
        if self.running:
            return self.run(argv, input=text).stdout
        mounts = "".join(
            f"mkdir -p {self._root}{place} && "
            f"mount --bind {self.folder}/disk{index} {self._root}{place} && "
            for index, place in enumerate(self.spec.disks)
        )
        inside = ["/bin/sh", "-c", f'{mounts}exec chroot {self._root} "$@"', "sh", *argv]
        done = subprocess.run(self._with_root(inside), input=text, capture_output=True, text=True)
        if done.returncode:
            done.args = " ".join(argv)
            raise CommandError(self.name, done)
        return done.stdout

    def fill_disk(self, path: str) -> None:
        """Fill a small disk up to the last byte, as a log that nobody rotates does.

        :param path: a mount point out of the host's ``disks``
        """
        self._check_disk(path)
        # "No space left on device" is what is wanted here, so dd's failure is the success.
        filler = f"{path}/.filler"
        done = self.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k", "oflag=append",
                         "conv=notrunc"], check=False)  # fmt: skip
        if not re.search("No space left", done.stderr):
            raise LabError(f"{self.name}: {path} could not be filled: {done.stderr.strip()}")

    def free_disk(self, path: str) -> None:
        """Take away what :meth:`fill_disk` wrote."""
        self._check_disk(path)
        self.run(["rm", "-f", f"{path}/.filler"])

    def _check_disk(self, path: str) -> None:
        if path not in self.spec.disks:
            raise LabError(
                f"host {self.name} has no disk of its own at {path}, and filling this machine's "
                f"disk would hit everybody; declare HostSpec(…, disks={{{path!r}: '512M'}})"
            )
