"""What it takes to make one host unable to write, and when that may be ordered and lifted. Pure.

A fence is three things: an nftables table of its own that cuts mongod's and OpenHIM's ports on
every interface, loopback and established connections included; a unit that loads the table at boot;
and masks, so that the services do not start. Doing it is :mod:`saltext.openhim.fence_host`.

The table comes before the firewall's and drops, and a drop is final, whatever another table
accepts. It accepts what is not its business: the firewall still decides on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saltext.openhim import firewall, gate
from saltext.openhim.core.host import UNIT as CORE_UNIT
from saltext.openhim.core.host import USER as CORE_USER
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.settings import DEFAULT_MONGODB_PORT, Stack

FAMILY = firewall.FAMILY
TABLE = "openhim_fence"

#: Removes our table; succeeds where there is none.
REMOVE = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"

FILE = "/etc/openhim-fence/openhim-fence.nft"
UNIT = "openhim-fence.service"

#: As whom the fenced services run: what they send is dropped, wherever it goes.
USERS = ("mongodb", CORE_USER)

#: What lets people and Salt in to lift the fence again, whatever the pillar declares on them.
KEPT_PORTS = (firewall.SSH_PORT, *firewall.SALT_PORTS)

_BEFORE_THE_FIREWALL = "filter - 10"

_HOOK = """\
\tchain {name} {{
\t\ttype filter hook {name} priority {priority}; policy accept;
"""


@dataclass(frozen=True)
class Scope:
    """What a fence covers on one host: the units that must not run, and the TCP ports it cuts."""

    units: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """Who wants a host fenced, or its fence lifted, why, and in which epoch.

    verb: ``fence`` or ``unfence``. at: ISO 8601 with a zone.
    """

    verb: str
    epoch: int
    by: str
    reason: str
    at: str

    def entry(self) -> dict[str, Any]:
        """As it stands in the record on the host."""
        return asdict(self)


def scope(stack: Stack, minion_id: str, channel_ports: Iterable[int] = ()) -> Scope:
    """What a fence covers on a host.

    channel_ports: the TCP ports of OpenHIM's channels, as far as they are known; the declared ones
    need not be among them.

    The declaration counts, and not what a profile or a recovery has made of it: the mongod of a
    member that was given up is the one that must not run.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the host is not declared.
    """
    host = stack.host(minion_id)
    units, ports = [], set(stack.core_ports.values())
    for name, entry in sorted(stack.declared["mongodb"]["replica_sets"].items()):
        port = int(entry.get("port", DEFAULT_MONGODB_PORT))
        # Those of all members: a fenced OpenHIM must not reach a mongod elsewhere either.
        ports |= {int((values or {}).get("port", port)) for values in entry["members"].values()}
        if minion_id in entry["members"]:
            units.append(f"mongod-{name}.service")
    if "core" in host.roles:
        units.append(CORE_UNIT)
    ports |= set(channel_ports) | set(firewall.declared_tcp_ports(stack))
    return Scope(tuple(units), tuple(sorted(ports - set(KEPT_PORTS))))


def ruleset(ports: Iterable[int], users: Iterable[int]) -> str:
    """The text that puts the fence in place of the one that is there, for ``nft -f``.

    users: numbers of the users whose packets are dropped, so that no name is looked up at boot.
    """
    cut = ", ".join(str(port) for port in sorted(ports))
    uids = ", ".join(str(uid) for uid in sorted(set(users)))
    kept = ", ".join(str(port) for port in KEPT_PORTS)
    rules = (
        # By the connection's first packet: a client cannot get in by the port that it comes from.
        f'meta l4proto tcp ct original proto-dst {{ {kept} }} accept comment "SSH and Salt"',
        f'tcp dport {{ {cut} }} counter drop comment "to mongod and OpenHIM"',
        f'tcp sport {{ {cut} }} counter drop comment "from mongod and OpenHIM"',
    )
    by_user = f'meta skuid {{ {uids} }} counter drop comment "what the services themselves send"'
    chains = []
    for name in ("input", "forward", "output"):
        lines = [*([by_user] if name == "output" and uids else []), *rules]
        body = "".join(f"\t\t{line}\n" for line in lines)
        chains.append(_HOOK.format(name=name, priority=_BEFORE_THE_FIREWALL) + body + "\t}\n")
    return f"{REMOVE}table {FAMILY} {TABLE} {{\n{''.join(chains)}}}\n"


def boot_unit(units: Iterable[str]) -> str:
    """The text of the unit that loads the fence at boot, before the network and the services.

    units: the services that it must come before.
    """
    return firewall.loading_unit(
        "Fence of the OpenHIM stack: this host must not write", FILE, (gate.UNIT, *sorted(units))
    )


def known_epoch(stack: Stack, highest: int, record: Mapping[str, Any]) -> int:
    """The highest epoch that this host knows: of its pillar, of its past, and of its fence.

    record: of the fence, empty when the host never had one.
    """
    recovery = stack.declared.get("recovery") or {}
    ordered = [int(order["epoch"]) for order in record.get("orders") or ()]
    return max(int(recovery.get("epoch") or 0), highest, *ordered, 0)


def require(order: Order, known: int) -> None:
    """Refuses an order that nobody answers for, or that is of another epoch than the current one.

    known: :func:`known_epoch`. A fence may be ordered ahead of the epoch that it prepares; lifting
    one needs the current epoch itself, for whoever names an older one does not know what happened
    since.

    Raises :class:`~saltext.openhim.errors.OpenHIMError`.
    """
    for name in ("by", "reason"):
        if not str(getattr(order, name) or "").strip():
            raise OpenHIMError(
                f"{name}: found nothing; say who wants to {order.verb} this host, and why: both "
                "are recorded on it"
            )
    epoch = order.epoch
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise OpenHIMError(f"epoch: found {epoch!r}; the number of the stack's epoch is needed")
    if epoch < known:
        raise OpenHIMError(
            f"epoch: found {epoch}; this host knows of epoch {known}, and an order of an older one "
            "is refused. Look at the recovery record before you go on."
        )
    if order.verb == "unfence" and epoch != known:
        raise OpenHIMError(
            f"epoch: found {epoch}; the newest one that this host knows is {known}. If there is a "
            "newer one, let the minion read its pillar first (saltutil.refresh_pillar)."
        )


def admission_problem(
    stack: Stack, minion_id: str, epoch: int | None, highest: int, fenced: Mapping[str, Any] | None
) -> str | None:
    """Why a host may not start its services under the epoch of its pillar; None when it may.

    stack: of a pillar that the master has just given. epoch: what the caller thinks that the
    current one is; None when it does not say. highest: the highest that this host has ever heard
    of. fenced: the order that fenced it, or None.
    """
    recovery = stack.declared.get("recovery") or {}
    current, site = int(recovery.get("epoch") or 0), stack.host(minion_id).site
    if recovery.get("error"):
        return f"the master cannot read the recovery record: {recovery['error']}"
    if fenced:
        return (
            f"this host was fenced in epoch {fenced['epoch']} by {fenced['by']} "
            f"({fenced['reason']}); rejoin it, or lift the fence (openhim_fence.unfence)"
        )
    if epoch is not None and epoch != current:
        return (
            f"epoch: found {epoch}; the master's recovery record says {current}. Look at it before "
            "you go on."
        )
    if current < highest:
        return (
            f"the master says epoch {current}, and this host has heard of epoch {highest}: its "
            "recovery record is an old one. Restore the newest one there first."
        )
    if site in stack.lost_sites:
        return (
            f"the site {site} was given up in epoch {current}, and {stack.active_site} is active; "
            "this host must be rejoined before its services start"
        )
    return None
