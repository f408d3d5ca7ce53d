"""A third provider: hosts with an sshd that takes our key and nothing else, reached by salt-cloud.

They are declared with ``standby: true``: they have no part in the stack until it is rebuilt there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lab import image, stack

SITE = "west"
HOSTS = {"west-db1": ("10.20.0.51", "mongodb"), "west-core": ("10.20.0.52", "core")}
LABORATORY = "10.20.0.61"

#: Where the new hosts find Salt's wheels: they have no way to the outside.
WHEELS = "/srv/wheels"
KEY = "/etc/salt/pki/cloud/openhim"


def declare(openhim: dict[str, Any]) -> None:
    """Add the hosts that stand by, with a member and a core, to a declaration."""
    for name, (address, role) in HOSTS.items():
        openhim["hosts"][name] = {
            "site": SITE,
            "address": address,
            "roles": [role],
            "standby": True,
        }
    members = openhim["mongodb"]["replica_sets"]["openhim"]["members"]
    members["west-db1"] = {"votes": 0, "priority": 0}
    openhim["objects"]["channels"]["Laboratory orders"]["routes"][0]["host"][SITE] = LABORATORY


def shares() -> dict[str, Path]:
    """What every host of the lab must see, for :func:`lab.stack.started`."""
    return {WHEELS: image.wheels()}


def hand_out(running: stack.Stack) -> None:
    """The provider hands out its hosts, and the master can reach them by salt-cloud."""
    for name in HOSTS:
        _make_bare(running, name)
    _configure_cloud(running)


def _make_bare(running: stack.Stack, name: str) -> None:
    host = running.lab.host(name)
    host.run(["sh", "-c", "rm -rf /opt/salt /usr/local/bin/salt* /etc/salt"])
    host.run(["sh", "-c", "rm -f /etc/systemd/system/salt-*; systemctl daemon-reload"])
    master = running.lab.host("master")
    if master.run(["test", "-e", KEY], check=False).returncode:
        master.run(["install", "-d", "-m", "700", str(Path(KEY).parent)])
        master.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY])
    host.write("/root/.ssh/authorized_keys", master.read(f"{KEY}.pub"))
    host.run(["systemctl", "start", "ssh"])


def _configure_cloud(running: stack.Stack) -> None:
    """The master's configuration for salt-cloud, from the examples of the state tree."""
    master = running.lab.host("master")
    folder = stack.REPOSITORY / "salt" / "cloud"
    profile = yaml.safe_load((folder / "openhim.profiles.conf.example").read_text())
    profile["openhim"] |= {
        "script_args": WHEELS,
        # Without DNS, what Salt waits for by default is only time lost.
        "minion": {k: v for k, v in running.master.minion_settings("").items() if k != "id"},
    }
    known = "".join(
        f"{address} {running.lab.host(name).read('/etc/ssh/ssh_host_ed25519_key.pub')}"
        for name, (address, _) in HOSTS.items()
    )
    master.write("/etc/salt/cloud", "{}\n")
    master.write("/etc/salt/cloud.known_hosts", known)
    provider = (folder / "openhim.providers.conf.example").read_text()
    master.write("/etc/salt/cloud.providers.d/openhim.conf", provider)
    master.write("/etc/salt/cloud.profiles.d/openhim.conf", json.dumps(profile))
    master.write("/etc/salt/cloud.deploy.d/openhim.sh", (folder / "deploy.sh").read_text())
