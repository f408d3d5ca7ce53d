"""What must fit together in a pillar, beyond the kind of each value.

Every rule is a generator of problems over the well-formed part of the declaration: anything may be
missing in it, and has been reported then.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from saltext.openhim import clock, power_off
from saltext.openhim.lease import declared as lease
from saltext.openhim.schema.kinds import did_you_mean, problem
from saltext.openhim.settings import DEFAULT_MONGODB_PORT, core_ports

MAX_VOTERS = 7
MAX_MEMBERS = 50

Declared = Mapping[str, Any]


def check(declared: Declared) -> list[str]:
    """All problems of a declaration whose single values are well-formed."""
    return [found for rule in RULES for found in rule(declared)]


def names(known: Any) -> str:
    """The names of a mapping, for the end of "allowed"."""
    return ", ".join(sorted(known)) or "none is declared"


def _unknown(path: str, name: str, known: Any) -> str:
    return problem(path, repr(name), names(known) + did_you_mean(name, tuple(known)))


def _sites(declared: Declared) -> Iterator[str]:
    sites = declared.get("sites")
    if sites is None:
        return
    for host_id, host in declared.get("hosts", {}).items():
        if "site" in host and host["site"] not in sites:
            yield _unknown(f"openhim:hosts:{host_id}:site", host["site"], sites)
    recovery = declared.get("recovery", {})
    if "error" in recovery:
        yield problem("openhim:recovery", recovery["error"], "a recovery record that can be read")
    for site in recovery.get("lost_sites", ()):
        if site not in sites:
            yield _unknown("openhim:recovery:lost_sites", site, sites)


def _active_site(declared: Declared) -> Iterator[str]:
    """The active site, as declared and as the recovery record has it, can serve."""
    recovery = declared.get("recovery", {})
    for path, site in (
        ("openhim:active_site", declared.get("active_site")),
        ("openhim:recovery:active_site", recovery.get("active_site")),
    ):
        if site is None:
            continue
        if site not in declared.get("sites", {site: {}}):
            yield _unknown(path, site, declared["sites"])
            continue
        yield from _serving(declared, path, site)
    if recovery.get("active_site") in recovery.get("lost_sites", ()):
        site = recovery["active_site"]
        yield problem("openhim:recovery:lost_sites", repr(site), "sites other than the active one")


def _serving(declared: Declared, path: str, site: str) -> Iterator[str]:
    hosts = declared.get("hosts")
    if hosts is None:
        return
    here = {host_id: host for host_id, host in hosts.items() if host.get("site") == site}
    if not any("core" in host.get("roles", ()) for host in here.values()):
        yield problem(path, f"{site!r}, which has no core", "a site with a host of the role core")
    for name, entry in declared.get("mongodb", {}).get("replica_sets", {}).items():
        members = entry.get("members")
        if members is not None and not here.keys() & members.keys():
            yield problem(
                path,
                f"{site!r}, where the replica set {name!r} has no member",
                "a site with a member of every set",
            )


def _addresses(declared: Declared) -> Iterator[str]:
    for key, default in (("address", None), ("name", "")):
        seen: dict[str, str] = {}
        for host_id, host in declared.get("hosts", {}).items():
            value = host.get(key, default if default is None else host_id)
            if value is None:
                continue
            if value in seen:
                yield problem(
                    f"openhim:hosts:{host_id}:{key}",
                    f"{value!r}, which is {seen[value]}'s too",
                    f"an {key} of its own" if key == "address" else f"a {key} of its own",
                )
            seen.setdefault(value, host_id)


def _members(declared: Declared) -> Iterator[str]:
    hosts = declared.get("hosts")
    for name, members in _sets(declared):
        path = f"openhim:mongodb:replica_sets:{name}:members"
        for host_id in members:
            if hosts is not None and host_id not in hosts:
                yield _unknown(f"{path}:{host_id}", host_id, _with_role(hosts, "mongodb"))
            elif hosts is not None and "mongodb" not in hosts[host_id].get("roles", ["mongodb"]):
                yield problem(
                    f"{path}:{host_id}",
                    "a host without the role mongodb",
                    names(_with_role(hosts, "mongodb")),
                )
        if len(members) > MAX_MEMBERS:
            yield problem(path, f"{len(members)} members", f"at most {MAX_MEMBERS}")


def _votes(declared: Declared) -> Iterator[str]:
    for name, members in _sets(declared):
        path = f"openhim:mongodb:replica_sets:{name}:members"
        votes = sum(member.get("votes", 1) for member in members.values())
        if votes % 2 == 0 or votes > MAX_VOTERS:
            yield problem(
                path,
                f"{votes} votes",
                f"an odd number of at most {MAX_VOTERS}: with an even one, half of them can "
                "elect nobody",
            )
        for host_id, member in members.items():
            for key, reason in (("votes", "a vote"), ("hidden", "being shown to clients")):
                without = member.get("votes", 1) == 0 if key == "votes" else member.get("hidden")
                if without and member.get("priority", 1) != 0:
                    yield problem(
                        f"{path}:{host_id}:priority",
                        f"{member.get('priority', 'nothing, which is 1')}",
                        f"0, because a member without {reason} cannot become primary",
                    )


def _priorities(declared: Declared) -> Iterator[str]:
    """The primaries' site is one, and it is the active one."""
    hosts, active = declared.get("hosts"), declared.get("active_site")
    if hosts is None or active is None or declared.get("profile") == "reduced":
        return
    for name, members in _sets(declared):
        path = f"openhim:mongodb:replica_sets:{name}:members"
        placed = [
            (host_id, hosts[host_id]["site"], member.get("priority", 1))
            for host_id, member in members.items()
            if "site" in hosts.get(host_id, {})
        ]
        highest = max((priority for _, _, priority in placed), default=None)
        if highest is None:
            continue
        if highest == 0:
            yield problem(path, "only priorities of 0", "at least one member above 0")
            continue
        at = sorted({site for _, site, priority in placed if priority == highest})
        if at != [active]:
            # "north and south" is a tie between two sites, "south" a primary away from OpenHIM.
            yield problem(
                path,
                f"the highest priority ({highest:g}) at {' and '.join(at)}",
                f"the highest priority at the active site {active!r} only; give the members "
                "elsewhere a lower one",
            )


def _databases(declared: Declared) -> Iterator[str]:
    mongodb = declared.get("mongodb", {})
    sets = mongodb.get("replica_sets")
    for kind, database in mongodb.get("databases", {}).items():
        name = database.get("replica_set")
        if sets is not None and name is not None and name not in sets:
            yield _unknown(f"openhim:mongodb:databases:{kind}:replica_set", name, sets)


def _durability(declared: Declared) -> Iterator[str]:
    if declared.get("mongodb", {}).get("durability") != "every-site":
        return
    hosts = declared.get("hosts", {})
    for name, members in _sets(declared):
        voters = [host_id for host_id, member in members.items() if member.get("votes", 1)]
        sites = {hosts.get(host_id, {}).get("site") for host_id in voters} - {None}
        if len(sites) < 2:
            yield problem(
                "openhim:mongodb:durability",
                f"'every-site', while the voters of {name!r} are all at one site",
                "majority, or voters at two sites or more",
            )


def _install(declared: Declared) -> Iterator[str]:
    needed = {
        "package": ("repository",),
        "archive": ("source", "source_hash"),
        "preinstalled": ("binary",),
    }
    for part in ("mongodb", "core"):
        install = declared.get(part, {}).get("install", {})
        for key in needed.get(install.get("method"), ()):
            if key not in install:
                yield problem(
                    f"openhim:{part}:install:{key}",
                    "nothing",
                    f"a text (required by the method {install['method']!r})",
                )


def _users(declared: Declared) -> Iterator[str]:
    users = declared.get("mongodb", {}).get("users")
    if users is None:
        return
    operators = sorted(name for name, user in users.items() if user.get("operator"))
    if len(operators) != 1:
        yield problem(
            "openhim:mongodb:users",
            f"{len(operators)} users with operator: true"
            + (f" ({', '.join(operators)})" if operators else ""),
            "exactly one, as whom Salt administers the sets",
        )
    if "core" not in declared:
        return
    user = declared["core"].get("database_user", "openhim")
    if user not in users:
        yield _unknown("openhim:core:database_user", user, users)


def _ports(declared: Declared) -> Iterator[str]:
    """No two programs on one host want the same port."""
    taken: dict[tuple[str, int], str] = {}

    def take(host_id: str, port: int, who: str, path: str) -> Iterator[str]:
        other = taken.setdefault((host_id, port), who)
        if other != who:
            yield problem(path, f"{port}, which {other} has on {host_id}", "a port of its own")

    for name, members in _sets(declared):
        path = f"openhim:mongodb:replica_sets:{name}"
        default = declared["mongodb"]["replica_sets"][name].get("port", DEFAULT_MONGODB_PORT)
        for host_id, member in members.items():
            own = f"{path}:members:{host_id}:port" if "port" in member else f"{path}:port"
            yield from take(host_id, member.get("port", default), f"the set {name!r}", own)
    ports = core_ports(declared)
    channels = declared.get("objects", {}).get("channels", {})
    for host_id in _with_role(declared.get("hosts", {}), "core"):
        for key, port in ports.items():
            yield from take(host_id, port, f"OpenHIM's {key} port", f"openhim:core:ports:{key}")
        for name, channel in channels.items():
            if channel.get("tcpPort") and channel.get("type") in ("tcp", "tls"):
                path = f"openhim:objects:channels:{name}:tcpPort"
                yield from take(host_id, channel["tcpPort"], f"the channel {name!r}", path)


def _core_config(declared: Declared) -> Iterator[str]:
    """OpenHIM's ports are said once, where the firewall and the certificates' checks find them."""
    config = declared.get("core", {}).get("config", {})
    for section, key, name in (
        ("api", "port", "api"),
        ("api", "httpsPort", "api"),
        ("router", "httpPort", "http"),
        ("router", "httpsPort", "https"),
    ):
        found = config.get(section)
        if isinstance(found, Mapping) and key in found:
            yield problem(
                f"openhim:core:config:{section}:{key}",
                repr(found[key]),
                f"nothing; declare openhim:core:ports:{name}, which the firewall opens too",
            )


def _channels(declared: Declared) -> Iterator[str]:
    sites = {
        host["site"]
        for host in declared.get("hosts", {}).values()
        if "core" in host.get("roles", ()) and "site" in host
    }
    for name, channel in declared.get("objects", {}).get("channels", {}).items():
        path = f"openhim:objects:channels:{name}"
        kind = channel.get("type", "http")
        needed = {"http": "urlPattern", "tcp": "tcpPort", "tls": "tcpPort"}.get(kind)
        needed = needed or "pollingSchedule"
        if needed not in channel:
            yield problem(f"{path}:{needed}", "nothing", f"a value (the type {kind!r} needs it)")
        for number, route in enumerate(channel.get("routes", ())):
            by_site = route.get("host")
            if isinstance(by_site, Mapping) and set(by_site) != sites:
                yield problem(
                    f"{path}:routes:{number}:host",
                    f"hosts for the sites {names(by_site)}",
                    f"one for every site with a core: {names(sites)}",
                )


def _certificates(declared: Declared) -> Iterator[str]:
    certificates = declared.get("certificates")
    if declared.get("mongodb", {}).get("tls") and certificates is None:
        yield problem(
            "openhim:certificates",
            "nothing",
            "a mapping with the method x509 or pillar (openhim:mongodb:tls is true)",
        )
    if certificates and certificates.get("method") == "x509" and "ca_server" not in certificates:
        yield problem(
            "openhim:certificates:ca_server", "nothing", "a minion ID (the method 'x509' needs it)"
        )


def _backup(declared: Declared) -> Iterator[str]:
    """Hosts, users and repositories that the backups name are declared, and fit their purpose."""
    backup = declared.get("backup", {})
    hosts, users = declared.get("hosts"), declared.get("mongodb", {}).get("users")
    repositories = backup.get("repositories", {})
    named = [("openhim:backup", key, backup) for key in ("taken_by", "verified_by")]
    for name, entry in repositories.items():
        path = f"openhim:backup:repositories:{name}"
        named += [(path, key, entry) for key in ("pulled_by", "pruned_by")]
        yield from _copy(path, name, entry, repositories)
        if entry.get("pulled_by") and str(entry.get("url", "")).startswith("/"):
            yield from _elsewhere(f"{path}:url", entry["pulled_by"], backup.get("verified_by"))
        if entry.get("pruned_by") and entry["pruned_by"] == backup.get("taken_by"):
            yield problem(
                f"{path}:pruned_by",
                f"{entry['pruned_by']!r}, which takes the backups",
                "another host: who takes the place of production must not be able to delete them",
            )
    for path, key, entry in named:
        if hosts is not None and key in entry and entry[key] not in hosts:
            yield _unknown(f"{path}:{key}", entry[key], hosts)
    if backup.get("verified_by") and any("pruned_by" in entry for entry in repositories.values()):
        yield from _signed(backup)
    if users is not None and "user" in backup and backup["user"] not in users:
        yield _unknown("openhim:backup:user", backup["user"], users)
    if "oplog" in backup:
        yield from _oplog(backup, hosts)
    if hosts is not None and "bundle" in backup:
        yield from _start_bundle(backup, hosts)


def _elsewhere(path: str, pulled_by: str, verified_by: str | None) -> Iterator[str]:
    """Who verifies reads the copies too."""
    if verified_by and verified_by != pulled_by:
        yield problem(
            path,
            f"a folder of {pulled_by!r}",
            f"a place that {verified_by!r}, which verifies, reaches too; or one host for both",
        )


def _signed(backup: Declared) -> Iterator[str]:
    """What is removed depends on what was verified, so not everybody may say that."""
    if "verification_secret" not in backup:
        yield problem(
            "openhim:backup:verification_secret",
            "nothing",
            "the name of a secret, which signs the verifications that pruning relies on",
        )
    if backup["verified_by"] == backup.get("taken_by"):
        yield problem(
            "openhim:backup:verified_by",
            f"{backup['verified_by']!r}, which takes the backups",
            "another host: who takes the place of production must not be able to call them good",
        )


def _start_bundle(backup: Declared, hosts: Declared) -> Iterator[str]:
    """Somebody stores it, and nobody else's key opens its repositories."""
    if not any("master" in host.get("roles", ()) for host in hosts.values()):
        yield problem(
            "openhim:backup:bundle", "no host with the role master", "one that stores the bundle"
        )
    others = {entry.get("url"): name for name, entry in backup.get("repositories", {}).items()}
    for name, entry in backup["bundle"].get("repositories", {}).items():
        if entry.get("url") in others:
            yield problem(
                f"openhim:backup:bundle:repositories:{name}:url",
                f"the URL of openhim:backup:repositories:{others[entry['url']]}",
                "a repository of its own, which the recovery key alone opens",
            )


def _oplog(backup: Declared, hosts: Declared | None) -> Iterator[str]:
    """Who archives is declared and cannot remove; the slices have repositories of their own."""
    path, entry = "openhim:backup:oplog", backup["oplog"]
    places = {f"{path}:{key}": entry[key] for key in ("repository", "copy") if key in entry}
    named = [(path, "archived_by", entry)]
    named += [(at, key, one) for at, one in places.items() for key in ("pulled_by", "pruned_by")]
    for at, key, found in named:
        if hosts is not None and key in found and found[key] not in hosts:
            yield _unknown(f"{at}:{key}", found[key], hosts)
    producers = {entry.get("archived_by"), backup.get("taken_by")} - {None}
    for at, key, found in named[1:]:
        if found.get(key) in producers:
            yield problem(
                f"{at}:{key}",
                f"{found[key]!r}, which archives or takes the backups",
                "another host: who takes the place of production must not be able to delete them",
            )
    others = {
        other.get("url"): f"openhim:backup:repositories:{name}"
        for name, other in backup.get("repositories", {}).items()
    }
    for at, one in places.items():
        if one.get("url") in others:
            yield problem(
                f"{at}:url",
                f"the URL of {others[one['url']]}",
                "a repository of its own: a slice a minute would slow that one down",
            )
        others[one.get("url")] = at


def _copy(
    path: str, name: str, entry: Mapping[str, Any], repositories: Mapping[str, Any]
) -> Iterator[str]:
    source = entry.get("copy_of")
    if source is None:
        if "pulled_by" in entry:
            yield problem(f"{path}:pulled_by", "a host", "nothing, where there is no copy_of")
        return
    if source not in repositories:
        yield _unknown(f"{path}:copy_of", source, set(repositories) - {name})
    elif source == name or "copy_of" in repositories[source]:
        yield problem(f"{path}:copy_of", repr(source), "a repository that is no copy itself")
    if "pulled_by" not in entry:
        yield problem(f"{path}:pulled_by", "nothing", "the host that pulls the copies")


def _standby(declared: Declared) -> Iterator[str]:
    """What stands by takes no part until its site is rebuilt: it serves nothing, has no vote."""
    hosts = declared.get("hosts", {})
    waiting = {host_id for host_id, host in hosts.items() if host.get("standby")}
    for host_id in sorted(waiting):
        if hosts[host_id].get("site") == declared.get("active_site"):
            yield problem(
                f"openhim:hosts:{host_id}:standby",
                "true at the active site",
                "hosts that stand by at other sites; this one serves",
            )
    for name, members in _sets(declared):
        for host_id in sorted(waiting & members.keys()):
            if members[host_id].get("votes", 1) or members[host_id].get("priority", 1):
                yield problem(
                    f"openhim:mongodb:replica_sets:{name}:members:{host_id}",
                    "a vote, or a priority, of a host that stands by",
                    "{votes: 0, priority: 0}; a rebuild gives it its vote",
                )


def _drills(declared: Declared) -> Iterator[str]:
    """Drills run on a declared host that may read the backups, away from what they stand in for."""
    drills, hosts = declared.get("drills", {}), declared.get("hosts")
    host = drills.get("run_by")
    if not drills or host is None:
        return
    if hosts is not None and host not in hosts:
        yield _unknown("openhim:drills:run_by", host, hosts)
    backup = declared.get("backup")
    if backup is None:
        yield problem("openhim:backup", "nothing", "repositories (openhim:drills restores them)")
    elif host == backup.get("taken_by"):
        yield problem(
            "openhim:drills:run_by",
            f"{host!r}, which takes the backups",
            "another host: a drill takes the memory of the database, and opens the copies",
        )
    kinds = drills.get("max_age_seconds", {})
    if "functional" in drills.get("schedule", {}) and "functional" not in kinds:
        yield problem(
            "openhim:drills:max_age_seconds:functional",
            "nothing",
            "seconds: nobody would notice that the scheduled drills fell silent",
        )


def _cut_over(declared: Declared) -> Iterator[str]:
    """One way for all sites: a failover must not find out in its last step that it has none."""
    entry = declared.get("cut_over")
    if entry is None:
        return
    path = "openhim:cut_over"
    if len(entry) != 1:
        yield problem(path, " and ".join(sorted(entry)) or "neither", "either dns or command")
    hosts = declared.get("hosts", {})
    if hosts and not _with_role(hosts, "master"):
        yield problem(path, "no host with the role master", "one, for its pillar has the secrets")
    by_site = {
        f"{path}:dns:addresses": entry.get("dns", {}).get("addresses"),
        f"{path}:command:run": entry.get("command", {}).get("run"),
    }
    for at, sites in by_site.items():
        if sites is not None:
            yield from _for_every_core(declared, at, sites)
    if "dns" in entry:
        yield from _public_name(f"{path}:dns", entry["dns"])
    if "command" in entry:
        command = entry["command"]
        commands = {
            f"{path}:command:run:{site}": one for site, one in command.get("run", {}).items()
        }
        commands[f"{path}:command:points_to"] = command.get("points_to")
        yield from _no_secret_argument(commands, declared)


def _for_every_core(declared: Declared, path: str, sites: Declared) -> Iterator[str]:
    known = declared.get("sites", sites)
    for site in sites:
        if site not in known:
            yield _unknown(f"{path}:{site}", site, known)
    hosts = declared.get("hosts", {})
    cores = {hosts[host].get("site") for host in _with_role(hosts, "core")} - {None}
    for site in sorted(cores - set(sites)):
        yield problem(f"{path}:{site}", "nothing", "a list: OpenHIM can run at this site")


def _public_name(path: str, entry: Declared) -> Iterator[str]:
    name, zone = (str(entry.get(key, "")).rstrip(".").lower() for key in ("name", "zone"))
    if name and zone and name != zone and not name.endswith(f".{zone}"):
        yield problem(f"{path}:name", repr(entry["name"]), f"a name in the zone {entry['zone']!r}")
    seen: dict[str, str] = {}
    for site, addresses in entry.get("addresses", {}).items():
        for address in addresses or ():
            other = seen.setdefault(str(ipaddress.ip_address(address)), site)
            if other != site:
                yield problem(
                    f"{path}:addresses:{site}",
                    f"{address!r}, which is {other}'s too",
                    "addresses of its own, for they tell where the name points",
                )


def _power_off(declared: Declared) -> Iterator[str]:
    """One program for all hosts: it must be told which."""
    entry = (declared.get("fencing") or {}).get("power_off")
    if entry is None:
        return
    path = "openhim:fencing:power_off"
    commands = {f"{path}:{key}": entry.get(key) for key in ("run", "state")}
    for at, command in commands.items():
        if command and not any(power_off.HOST in argument for argument in command):
            yield problem(at, "no {host} in any argument", "one with it: it stands for the host")
    word = entry.get("when_off", "")
    if word != " ".join(word.split()):
        yield problem(f"{path}:when_off", repr(word), "words without blanks around them")
    yield from _no_secret_argument(commands, declared)


def _no_secret_argument(commands: Declared, declared: Declared) -> Iterator[str]:
    """Everybody on the master can read the arguments of a program."""
    values = [one for one in declared.get("secrets", {}).values() if isinstance(one, str) and one]
    for at, command in commands.items():
        if any(value in argument for argument in command or () for value in values):
            yield problem(at, "an argument that holds a secret", "a file that the program reads")


def _lease(declared: Declared) -> Iterator[str]:
    entry = declared.get("lease")
    if not entry or not entry.get("enabled"):
        return
    path = "openhim:lease"
    seconds = entry.get("seconds", lease.SECONDS)
    every = entry.get("renew_every_seconds", lease.RENEW_EVERY)
    if every * 3 > seconds:
        yield problem(
            f"{path}:renew_every_seconds",
            f"{every:g}",
            f"at most {seconds / 3:g}, a third of openhim:lease:seconds: one lost answer must not "
            "cut clients off",
        )
    offset = (declared.get("clock") or {}).get("max_offset_ms", clock.MAX_OFFSET_MS)
    skew = entry.get("max_skew_seconds", lease.MAX_SKEW)
    if skew * 1000 < 2 * offset:
        yield problem(
            f"{path}:max_skew_seconds",
            f"{skew:g}",
            f"at least {2 * offset / 1000:g}: two clocks that openhim:clock:max_offset_ms calls "
            "right may be so far apart",
        )
    if "certificates" not in declared:
        yield problem(
            "openhim:certificates", "nothing", "certificates: by them hosts and witness are known"
        )
    yield from _lease_witness(declared, entry)


def _lease_witness(declared: Declared, entry: Declared) -> Iterator[str]:
    path, hosts = "openhim:lease:witness", declared.get("hosts", {})
    masters = _with_role(hosts, "master")
    witness = entry.get("witness") or (masters[0] if len(masters) == 1 else None)
    if witness is None:
        yield problem(path, "nothing", "a minion ID: not exactly one host has the role master")
    elif witness not in hosts:
        yield _unknown(path, witness, hosts)
    elif hosts[witness].get("site") == declared.get("active_site"):
        yield problem(
            path,
            f"{witness!r}, at the active site",
            "a host at another site: who is cut off together with the active site is no witness",
        )


def _sets(declared: Declared) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, entry in declared.get("mongodb", {}).get("replica_sets", {}).items():
        if entry.get("members"):
            yield name, entry["members"]


def _with_role(hosts: Mapping[str, Any], role: str) -> list[str]:
    return sorted(host_id for host_id, host in hosts.items() if role in host.get("roles", ()))


RULES = (
    _sites,
    _active_site,
    _addresses,
    _members,
    _votes,
    _priorities,
    _databases,
    _durability,
    _install,
    _users,
    _ports,
    _core_config,
    _channels,
    _certificates,
    _backup,
    _drills,
    _standby,
    _cut_over,
    _power_off,
    _lease,
)
