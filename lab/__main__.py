"""The lab for a person: ``python -m lab up``, then elsewhere ``python -m lab exec HOST …``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from lab import artifacts, doctor, image, reaper
from lab.errors import LabError
from lab.host import HostSpec
from lab.lab import Lab
from lab.network import REPOSITORY
from lab.salt import SaltMaster

# Two members at the primary site, one distant, a core at each, and an empty provider.
EXAMPLE = [
    HostSpec("master", "hq", "10.20.0.10"),
    HostSpec("north-db1", "north", "10.20.1.11"),
    HostSpec("north-db2", "north", "10.20.1.12"),
    HostSpec("north-core1", "north", "10.20.1.21"),
    HostSpec("south-db1", "south", "10.20.2.11"),
    HostSpec("south-core1", "south", "10.20.2.21"),
    HostSpec("east-host1", "east", "10.20.3.11"),
]


def main(argv: list[str] | None = None) -> int:
    """Carry out one command line; return its exit code."""
    options = _parser().parse_args(argv)
    try:
        return options.act(options) or 0
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("--lab", help="ID of the lab, where several run")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: object, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(act=act)
        return sub

    up = command("up", _up, "boot hosts and hold them until Ctrl-C")
    up.add_argument("--hosts", metavar="FILE", help="JSON list of {name, site, address, disks}")
    up.add_argument("--salt", action="store_true", help="with a salt-master on the first host")
    command("status", _status, "show every lab, its hosts and what is wrong with its network")
    exec_ = command("exec", _exec, "run a command on a host")
    exec_.add_argument("host")
    exec_.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …")
    for name, about in SITE_COMMANDS.items():
        command(name, _site, about).add_argument("site", metavar="SITE")
        commands.choices[name].set_defaults(does=name)
    slow = command("slow", _slow, "slow a site's links down; 0 ends it")
    slow.add_argument("site")
    slow.add_argument("delay_ms", type=float, help="milliseconds, one way")
    slow.add_argument("loss_percent", type=float, nargs="?", default=0.0)
    played = command(
        "disaster", _disaster, "play disasters out of disasters/ on a stack of its own"
    )
    played.add_argument("names", nargs="+", metavar="CASE")
    played.add_argument("--folder", type=Path, help="where the cases are; disasters/ when left out")
    command("down", _down, "remove a running lab")
    command("clean", _clean, "remove what labs left behind whose owner is gone")
    command("fetch", _fetch, "fill the cache: the image, MongoDB's server, OpenHIM")
    check = command("doctor", _doctor, "say what is missing here")
    check.add_argument("--install", action="store_true", help="install missing Debian packages")
    return parser


SITE_COMMANDS = {
    "kill": "take the power of a site away",
    "boot": "power a site's hosts on",
    "isolate": "cut a site off from all others",
    "rejoin": "undo every isolation and partition of a site",
}


def _up(options: argparse.Namespace) -> None:
    hosts = EXAMPLE
    if options.hosts:
        listed = json.loads(Path(options.hosts).read_text(encoding="utf-8"))
        hosts = [HostSpec(**entry) for entry in listed]
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    with Lab.start(hosts=hosts, share={"/srv/saltext-openhim": REPOSITORY}) as lab:
        print(f"lab {lab.id}: {len(hosts)} hosts are up after {time.monotonic() - started:.1f} s")
        if options.salt:
            folder = "/srv/saltext-openhim"
            SaltMaster(
                lab, hosts[0].name,
                file_roots=[f"{folder}/salt"], pillar_roots=[f"{folder}/pillar"],
            ).start()  # fmt: skip
            print(f"lab {lab.id}: every minion answers after {time.monotonic() - started:.1f} s")
        print("Ctrl-C ends it. From another shell: python -m lab status", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("removing the lab")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _status(options: argparse.Namespace) -> None:
    found = reaper.labs()
    if not found:
        print("no lab runs")
    for lab_id in found:
        lab = Lab.attach(lab_id)
        state = "its owner is gone: python -m lab clean" if lab_id in reaper.abandoned() else "runs"
        print(f"lab {lab_id}: {state}")
        for host in lab.hosts.values():
            print(f"  {host.name:20} {host.site:10} {host.address:15} "
                  f"{'up' if host.running else 'down'}")  # fmt: skip
        for node in lab.network.nodes():
            if node.name not in lab.hosts:
                print(f"  {node.name:20} {node.site:10} {node.address:15} a process")
        faults = lab.network.faults()
        for site in faults.isolated_sites:
            print(f"  site {site} is isolated")
        for one, other in faults.partitions:
            print(f"  sites {one} and {other} do not reach each other")
        for name in faults.isolated_hosts:
            print(f"  host {name} is isolated")
        for site, (delay, loss) in faults.slow.items():
            print(f"  site {site} is slow: {delay:g} ms one way, {loss:g} % lost")


def _exec(options: argparse.Namespace) -> int:
    host = Lab.attach(options.lab).host(options.host)
    words = options.words or ["/bin/bash"]
    return host.popen(words, start_new_session=False).wait()


def _site(options: argparse.Namespace) -> None:
    lab = Lab.attach(options.lab)
    getattr(lab, f"{options.does}_site")(options.site)


def _slow(options: argparse.Namespace) -> None:
    Lab.attach(options.lab).slow_site(options.site, options.delay_ms, options.loss_percent)


def _disaster(options: argparse.Namespace) -> int:
    # It needs the library and its YAML, which no other command does.
    from saltext.openhim.errors import OpenHIMError

    from lab import disasters

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return disasters.main(options.names, options.folder or disasters.FOLDER)
    except OpenHIMError as error:
        raise LabError(str(error)) from error


def _down(options: argparse.Namespace) -> None:
    reaper.reap(Lab.attach(options.lab).id)


def _clean(options: argparse.Namespace) -> None:
    gone = reaper.reap_abandoned()
    print(f"removed: {', '.join(gone) or 'nothing was left behind'}")


def _fetch(options: argparse.Namespace) -> None:
    print(f"image: {image.root()}")
    artifacts.main()


def _doctor(options: argparse.Namespace) -> int:
    if options.install:
        doctor.host_setup()
    found = doctor.problems()
    print("\n".join(found) or "The lab can run here.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
