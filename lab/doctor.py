"""Says what is missing on a machine where the lab cannot run, and installs what it can."""

from __future__ import annotations

import os
import platform
import shutil

from lab import cache, kernel
from lab.errors import LabError

# Command: the Debian package that holds it.
COMMANDS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "dpkg-deb": "dpkg",
    "npm": "npm",
}
FETCHING = {"debootstrap", "npm", "dpkg-deb"}  # wanted only to fill the cache


def missing_packages(fetching: bool = True) -> list[str]:
    """Return the Debian packages that the lab needs and this machine does not have.

    :param fetching: include what is needed only for filling the cache
    """
    wanted = COMMANDS if fetching else {k: v for k, v in COMMANDS.items() if k not in FETCHING}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({package for command, package in wanted.items()
                   if not shutil.which(command, path=path)})  # fmt: skip


def problems(fetching: bool = True) -> list[str]:
    """Return one sentence for each thing that keeps the lab from running here."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return [f"The lab needs Linux on x86_64; this is {platform.system()} {platform.machine()}."]
    if os.geteuid() != 0:
        return ["The lab boots hosts and makes networks, which only root may; run it as root."]
    found = []
    if packages := missing_packages(fetching):
        found.append(f"Packages are missing; run: apt-get install {' '.join(packages)}")
    found += [sentence for sentence in (_cgroups(), _network(), _overlay()) if sentence]
    return found


def check() -> None:
    """Prepare what can be prepared.

    :raises LabError: saying what is missing, when the lab cannot run here
    """
    if found := problems(fetching=False):
        raise LabError(" ".join(found))


def _cgroups() -> str | None:
    if (kernel.CGROUP / "cgroup.controllers").exists():
        mounted = [kernel.CGROUP]
    else:
        mounted = [kernel.CGROUP / "systemd", kernel.CGROUP / "unified"]
        kinds = {"systemd": ["cgroup", "-o", "none,name=systemd"], "unified": ["cgroup2"]}
        for folder in mounted:
            if not (folder / "cgroup.procs").exists():
                kind, *options = kinds[folder.name]
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    cache.call(["mount", "-t", kind, *options, kind, folder])
                except (LabError, OSError):
                    pass  # said below, in one sentence
    for folder in mounted:
        probe = folder / f"oh-probe-{os.getpid()}"
        try:
            probe.mkdir()
            (probe / "cgroup.procs").read_text(encoding="ascii")
            probe.rmdir()
        except OSError as error:
            return (
                f"Control groups cannot be made in {folder} ({error.strerror}); in a container, "
                "start it privileged with a writable /sys/fs/cgroup."
            )
    return None


def _network() -> str | None:
    name = f"oh-probe-{os.getpid()}"
    try:
        cache.call(["ip", "netns", "add", name])
        try:
            cache.call(["ip", "-n", name, "link", "add", "probe0", "type", "veth"])
            cache.call(["ip", "netns", "exec", name, "nft", "add", "table", "inet", "probe"])
        finally:
            cache.call(["ip", "netns", "del", name])
    except LabError as error:
        reason = str(error).splitlines()[-1]
        return f"Network namespaces with veth links and nftables are not allowed here ({reason})."
    return None


def _overlay() -> str | None:
    """Try an overlay whose upper folder is in the cache, as a host's disk is."""
    folder = cache.directory() / f".overlay-{os.getpid()}"
    try:
        for name in ("lower", "upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        cache.call(
            [
                *("unshare", "--mount", "--propagation=private"),
                *("mount", "-t", "overlay", "probe", "-o", options, folder / "root"),
            ]
        )
    except LabError as error:
        reason = str(error).splitlines()[-1]
        return (
            f"An overlay with its upper folder in {cache.directory()} does not mount ({reason}); "
            "set SALTEXT_OPENHIM_CACHE to a folder on ext4, XFS or tmpfs."
        )
    finally:
        cache.remove(folder)
    return None


def host_setup() -> None:
    """Install the Debian packages that the lab needs, where they are missing.

    :raises LabError: when apt-get fails
    """
    packages = missing_packages()
    if not packages:
        return
    cache.progress(f"installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    cache.call(["apt-get", "update", "-q"], env=quiet)
    cache.call(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], env=quiet)
