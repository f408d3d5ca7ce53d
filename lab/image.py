"""The root file system that every host of the lab boots: Debian with systemd and Salt.

It is built once into the cache, and again only when its recipe changed: the recipe's hash is part
of its name. Hosts see it through an overlay and never write to it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from lab import cache
from lab.errors import LabError

SUITE = "bookworm"
PYTHON = (3, 11)  # bookworm's; wheels are collected for it

PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "adduser", "iproute2", "iputils-ping", "nftables",
    "chrony", "openssh-server", "logrotate", "curl", "ca-certificates", "procps", "openssl",
    "libcurl4", "libssl3", "nodejs", "python3", "python3-venv", "netbase", "xz-utils", "kmod",
    "restic", "libfaketime",
]  # fmt: skip
WHEELS = ["salt>=3008.3,<3009", "pymongo>=4.6", "pyyaml", "cryptography"]
COMMANDS = ["salt", "salt-call", "salt-cp", "salt-key", "salt-master", "salt-minion", "salt-run"]

# Units that only cost time in a host without a console, a user session or a way to the outside.
MASKED = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "getty.target",
    "systemd-logind.service", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-networkd.service", "systemd-resolved.service",
    "systemd-timesyncd.service", "systemd-hwdb-update.service", "ldconfig.service",
]  # fmt: skip

SALT_UNIT = """\
[Unit]
Description=The Salt {what}
After=network.target

[Service]
Type=notify
NotifyAccess=all
KillMode=process
LimitNOFILE=16384
ExecStart=/opt/salt/bin/salt-{what}

[Install]
WantedBy=multi-user.target
"""

FILES = {
    "/etc/systemd/system/salt-master.service": SALT_UNIT.format(what="master"),
    "/etc/systemd/system/salt-minion.service": SALT_UNIT.format(what="minion"),
    # The clock belongs to the machine that runs the lab: chronyd measures it and leaves it alone.
    "/etc/default/chrony": 'DAEMON_OPTS="-x"\n',
    "/etc/systemd/system/chrony.service.d/lab.conf": (
        "[Unit]\nConditionCapability=\n\n[Service]\nProcSubset=all\n"
    ),
    # Without DNS, each look-up of an unknown name would wait for a server that is not there.
    "/etc/nsswitch.conf": (
        "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\n"
        "protocols: files\nservices: files\n"
    ),
    "/etc/apt/sources.list": "",
    "/etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n",
}


def recipe_hash() -> str:
    """Return 12 digits that change whenever the image would be built differently."""
    recipe = [SUITE, PYTHON, PACKAGES, WHEELS, COMMANDS, MASKED, FILES]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def root() -> Path:
    """Return the folder of the image; build it first where it is missing (about three minutes)."""
    return cache.entry(f"images/{SUITE}-{recipe_hash()}", f"image of Debian {SUITE}", _build)


def mirror() -> str:
    """Return the address of the Debian mirror that this machine's apt is configured with."""
    listed = cache.call(
        [
            *("apt-get", "indextargets", "Created-By: Packages"),
            *("--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"),
        ]
    )
    return choose_mirror(listed)


def choose_mirror(listed: str) -> str:
    """Pick the mirror out of lines of ``RELEASE COMPONENT URI``.

    :raises LabError: when none of the sources holds Debian's main component
    """
    sources = [line.split(maxsplit=2) for line in listed.splitlines() if len(line.split()) == 3]
    main = [(release, uri) for release, component, uri in sources if component == "main"]
    for release, uri in main:
        if release == SUITE:
            return uri
    # Another release of Debian: its archive holds this suite too; security archives do not.
    for release, uri in main:
        if "-" not in release and "/" not in release:
            return uri
    raise LabError(
        f"apt has no source of Debian's component 'main' (found: {listed.split() or 'nothing'}); "
        "configure one in /etc/apt/sources.list.d and run apt-get update"
    )


def wheels() -> Path:
    """Return a folder with Salt and what it needs, as wheels for the image's Python."""
    name = f"wheels/{hashlib.sha256(json.dumps([PYTHON, WHEELS]).encode()).hexdigest()[:12]}"
    return cache.entry(name, "Salt as wheels", _wheels)


def _wheels(target: Path) -> None:
    cache.call([_python_with_pip(), "-m", "pip", "wheel", "-q", "-w", target, *WHEELS])


def _python_with_pip() -> str:
    """Return a Python of the image's version on this machine that has pip."""
    version = ".".join(map(str, PYTHON))
    for python in (sys.executable, "/usr/bin/python3", f"python{version}"):
        if not shutil.which(python):
            continue
        check = f"import sys, pip; sys.exit(sys.version_info[:2] != {PYTHON})"
        if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
            return python
    raise LabError(
        f"no Python {version} with pip is here, and the image's Salt is collected with one; "
        "run: apt-get install python3-pip"
    )


def _build(target: Path) -> None:
    packed = wheels()
    # In a mount namespace of its own, so that an interrupted build leaves nothing mounted.
    cache.call(
        [
            *("unshare", "--mount", "--propagation=private"),
            *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *(SUITE, target, mirror()),
        ]
    )
    for path, text in FILES.items():
        file = target / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    _install_salt(target, packed)
    for unit in MASKED:
        link = target / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    _chroot(target, "systemctl", "set-default", "multi-user.target")
    _chroot(target, "systemctl", "disable", "chrony.service", "nftables.service")
    _chroot(target, "apt-get", "clean")
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf", "etc/hosts"):
        (target / name).unlink(missing_ok=True)  # each host gets its own


def _install_salt(target: Path, packed: Path) -> None:
    """Install Salt where every user can read it: /opt/salt, linked from /usr/local/bin."""
    inside = target / "opt/wheels"
    shutil.copytree(packed, inside)
    _chroot(target, "python3", "-m", "venv", "/opt/salt")
    names = [requirement.partition(">")[0] for requirement in WHEELS]
    _chroot(
        target, "/opt/salt/bin/pip", "install", "-q", "--no-index", "--find-links=/opt/wheels",
        "--no-cache-dir", *names,
    )  # fmt: skip
    cache.remove(inside)
    for command in COMMANDS:
        (target / "usr/local/bin" / command).symlink_to(f"/opt/salt/bin/{command}")
    (target / "etc/salt").mkdir(exist_ok=True)


def _chroot(target: Path, *argv: str) -> None:
    """Run a command inside the image, without this machine's pip and proxy settings."""
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]
    cache.call(["chroot", target, *clean, *argv])


if __name__ == "__main__":
    print(root())
