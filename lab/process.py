"""A plain process with a network address of its own: a traffic generator, an upstream."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import kernel
from lab.network import Network


class Process:
    """A process of a lab. Get one with ``lab.process(…)``.

    ``popen`` is the process itself, ``log`` the file that holds what it prints.
    """

    def __init__(
        self, name: str, site: str, address: str, prefix: str, state: Path, network: Network
    ) -> None:
        self.name = name
        self.site = site
        self.address = address
        self.group = f"{prefix}-{name}"
        self.log = state / f"{name}.log"
        self.popen: subprocess.Popen | None = None
        self._hosts = state / f"{name}.hosts"
        self._nsswitch = state / f"{name}.nsswitch"
        self._network = network

    def start(self, argv: Sequence[str | Path], hosts: str, env: Mapping[str, str]) -> None:
        """Start the process with a network and an /etc/hosts of its own."""
        self.kill()
        kernel.make_cgroup(self.group)
        namespace = self._network.attach(self.name)
        self._hosts.write_text(hosts, encoding="ascii")
        # Names come from its /etc/hosts alone: asking this machine's DNS would only cost time.
        self._nsswitch.write_text("hosts: files\n", encoding="ascii")
        binds = f"mount --bind {self._hosts} /etc/hosts && "
        if Path("/etc/nsswitch.conf").exists():
            binds += f"mount --bind {self._nsswitch} /etc/nsswitch.conf && "
        inside = [
            "nsenter", f"--net={namespace}", "unshare", "--mount", "--propagation=private",
            "/bin/sh", "-c", f'{binds}exec "$@"', "sh",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                kernel.in_cgroup(self.group, [*inside, *map(str, argv)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **env},
            )

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.popen is not None and self.popen.poll() is None

    def stop(self, timeout: float = 10) -> int:
        """Ask the process to end (SIGTERM), wait, and return its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout)

    def kill(self) -> None:
        """Take its power away, and its network."""
        kernel.clear_cgroup(self.group)
        if self.popen is not None:
            self.popen.wait()
        self._network.detach(self.name)
