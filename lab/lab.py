"""A lab: several hosts in several sites, what may happen to them, and their end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from lab import doctor, image, kernel, reaper
from lab.errors import LabError
from lab.host import Host, HostSpec
from lab.network import Network, Node, check_topology, hosts_file
from lab.process import Process


class Lab:
    """A running lab; make one with :meth:`start`, or take part in one with :meth:`attach`."""

    def __init__(self, lab_id: str, description: dict) -> None:
        self.id = lab_id
        self.prefix = reaper.prefix_of(lab_id)
        self.folder = reaper.folder_of(lab_id)
        self.network = Network(self.prefix, self.folder)
        self.processes: dict[str, Process] = {}
        self._watchdog: subprocess.Popen | None = None
        self._names: dict[str, str] = description["names"]
        self._specs = [HostSpec(**spec) for spec in description["hosts"]]
        self.hosts: dict[str, Host] = {
            spec.name: Host(
                spec, self.prefix, self.folder, reaper.disks_of(lab_id),
                Path(description["image"]), description["share"], self.network,
            )
            for spec in self._specs
        }  # fmt: skip

    # Beginning and end

    @classmethod
    def start(
        cls,
        hosts: Iterable[HostSpec],
        share: Mapping[str, str | Path] | None = None,
        names: Mapping[str, str] | None = None,
        boot: bool = True,
        belongings: Iterable[Path] = (),
    ) -> Lab:
        """Boot hosts, all at the same time, and return the lab that holds them.

        The lab ends with :meth:`stop`, with the ``with`` block, or when this process ends.

        :param share: folders of this machine that every host sees, read-only: place on the host to
            folder here
        :param names: further names for every host's /etc/hosts, with their addresses
        :param boot: whether the hosts are powered on; otherwise ``host.boot()`` does
        :param belongings: folders of this machine that are removed with the lab
        :raises LabError: when this machine cannot run a lab, or a host does not boot
        """
        specs = list(hosts)
        check_topology([_node(spec) for spec in specs])
        doctor.check()
        reaper.reap_abandoned()
        description = {
            "owner": kernel.identity(os.getpid()),
            "hosts": [asdict(spec) for spec in specs],
            "share": {place: str(folder) for place, folder in (share or {}).items()},
            "names": dict(names or {}),
            "image": str(image.root()),
            "belongings": [str(folder) for folder in belongings],
        }
        lab = cls(_claim(description), description)
        try:
            lab._watchdog = reaper.start_watchdog(lab.id)
            lab.network.create([_node(spec) for spec in specs])
            for host in lab.hosts.values():
                host.create(lab.hosts_file())
            if boot:
                lab._each(lab.hosts.values(), Host.boot)
        except BaseException:
            lab.stop()
            raise
        return lab

    @classmethod
    def attach(cls, lab_id: str | None = None) -> Lab:
        """Return a lab that another process started; without an ID, the only one that runs."""
        running = reaper.labs()
        if lab_id is None:
            if len(running) != 1:
                raise LabError(
                    f"{len(running)} labs run ({', '.join(running)}); "
                    "name the one that you mean: python -m lab --lab ID …"
                )
            (lab_id,) = running
        if lab_id not in running:
            raise LabError(f"there is no lab {lab_id!r}; running: {', '.join(running) or 'none'}")
        return cls(lab_id, running[lab_id])

    def stop(self) -> None:
        """Remove the lab with everything in it."""
        reaper.reap(self.id)
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            self._watchdog = None
        for host in self.hosts.values():
            host.forget()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Its parts

    def host(self, name: str) -> Host:
        """Return a host by its name."""
        if name not in self.hosts:
            raise LabError(f"there is no host {name!r}; there are {', '.join(self.hosts)}")
        return self.hosts[name]

    def site(self, site: str) -> list[Host]:
        """Return the hosts of a site."""
        members = [host for host in self.hosts.values() if host.site == site]
        if not members and site not in {node.site for node in self.network.nodes()}:
            known = sorted({node.site for node in self.network.nodes()})
            raise LabError(f"there is no site {site!r}; there are {', '.join(known)}")
        return members

    def hosts_file(self) -> str:
        """Return the text of /etc/hosts that every host begins with."""
        return hosts_file(self.network.nodes(), self._names)

    def process(
        self,
        name: str,
        address: str,
        site: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Run a plain process of this machine at an address and site of its own.

        Meant for what is not part of the stack: a traffic generator, an upstream. It sees this
        machine's files and the lab's network, and dies with its site. Hosts know it by its name.

        :param env: variables to add to this process's environment
        """
        self.network.add(Node(name, site, address))
        if name not in self._names:
            self._names[name] = address
            for host in self.hosts.values():
                known = host.read("/etc/hosts")
                if f" {name}\n" not in known:
                    host.write("/etc/hosts", f"{known}{address} {name}\n")
        process = self.processes[name] = self._process(Node(name, site, address))
        process.start(argv, self.hosts_file(), env or {})
        return process

    def _process(self, node: Node) -> Process:
        return Process(node.name, node.site, node.address, self.prefix, self.folder, self.network)

    # Disasters

    def kill_site(self, site: str) -> None:
        """Take the power of a whole site away, all hosts and processes at the same moment."""
        hosts = [host for host in self.site(site) if host.running]
        processes = [
            self.processes.get(node.name) or self._process(node)
            for node in self.network.nodes()
            if node.site == site and node.name not in self.hosts
        ]
        for part in [*hosts, *processes]:
            self.network.cut(part.name)
        self._each([*hosts, *processes], lambda part: part.kill())

    def boot_site(self, site: str) -> None:
        """Power the hosts of a site on, all at the same time; those that are up stay so."""
        self._each([host for host in self.site(site) if not host.running], Host.boot)

    def isolate_site(self, site: str) -> None:
        """Cut a site off from all others; its hosts go on and reach each other."""
        self.network.isolate_site(site)

    def rejoin_site(self, site: str) -> None:
        """Undo every isolation and partition of a site."""
        self.network.rejoin_site(site)

    def isolate_host(self, name: str) -> None:
        """Cut one host off from all others."""
        self.network.isolate_host(name)

    def rejoin_host(self, name: str) -> None:
        """Undo the isolation of one host."""
        self.network.rejoin_host(name)

    def partition(self, one: str, other: str) -> None:
        """Cut the way between two sites; both still reach the rest. Undo with rejoin_site."""
        self.network.partition(one, other)

    def slow_site(self, site: str, delay_ms: float, loss_percent: float = 0) -> None:
        """Slow down everything that enters or leaves a site; zero and zero ends it.

        :param delay_ms: one way, in milliseconds
        :param loss_percent: share of the packets that get lost, 0 to 100
        """
        self.network.slow_site(site, delay_ms, loss_percent)

    def fill_disk(self, name: str, path: str) -> None:
        """Fill a host's small disk; see :meth:`lab.host.Host.fill_disk`."""
        self.host(name).fill_disk(path)

    def free_disk(self, name: str, path: str) -> None:
        """Take away what :meth:`fill_disk` wrote."""
        self.host(name).free_disk(path)

    @staticmethod
    def _each(parts: Iterable, act: object) -> None:
        """Do something with all parts at once; raise the first error when all have ended."""
        parts = list(parts)
        if parts:
            with ThreadPoolExecutor(len(parts)) as pool:
                for done in [pool.submit(act, part) for part in parts]:
                    done.result()


def _node(spec: HostSpec) -> Node:
    return Node(spec.name, spec.site, spec.address)


def _claim(description: dict) -> str:
    """Make the folder of a new lab and return its ID."""
    for _ in range(20):
        lab_id = os.urandom(2).hex()
        folder = reaper.folder_of(lab_id)
        try:
            folder.mkdir(parents=True, mode=0o755)
        except FileExistsError:
            continue
        unfinished = folder / "lab.json.unfinished"
        description["started"] = time.time()
        unfinished.write_text(json.dumps(description), encoding="utf-8")
        unfinished.rename(folder / "lab.json")
        return lab_id
    raise LabError(f"no free name for a lab in {reaper.RUN}; run: python -m lab clean")
