"""Every way in which a pillar can be wrong, and the text that a person then reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.openhim import schema
from saltext.openhim.errors import PillarError
from saltext.openhim.schema import needs, reference

EXAMPLE = Path(__file__).parents[2] / "pillar" / "openhim" / "production.sls"

#: Every secret of the example, each of a kind that is allowed.
SECRETS = {
    "mongodb_keyfile": "a2V5ZmlsZQ" * 10,
    "mongodb_operator": "not-told-1",
    "mongodb_openhim": "not-told-2",
    "openhim_administrator": "not-told-3",
    "openhim_session_key": "not-told-4" * 4,
    "openhim_synthetic": "not-told-5",
    "client_laboratory": "not-told-6",
    "tls_ca": "not-told-7",
    "tls_ca_key": "not-told-8",
    "mongodb_backup": "not-told-9",
    "backup_store": "not-told-10",
    "backup_store_producer": "not-told-11",
    "backup_store_keeper": "not-told-12",
    "backup_copy": "not-told-13",
    "recovery_key": "not-told-14",
    "backup_verification": "not-told-15",
}

DELETED = ...  # the same in every worker, for it is in the names of tests


@pytest.fixture
def openhim() -> dict[str, Any]:
    """The example's declaration, without secrets."""
    return yaml.safe_load(EXAMPLE.read_text())["openhim"]


def changed(declared: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A pillar with other values at some paths below ``openhim``."""
    declared = copy.deepcopy(declared)
    for path, value in changes.items():
        *parents, last = path.split(":")
        place: Any = declared
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        if value is DELETED:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return {"openhim": declared}


def test_the_example_is_allowed(openhim: dict[str, Any]) -> None:
    """For every host that it declares, with that host's secrets."""
    assert schema.check({"openhim": openhim}) == []
    for host_id in openhim["hosts"]:
        assert schema.check({"openhim": {**openhim, "secrets": SECRETS}}, host_id) == []


SETS = "mongodb:replica_sets"
MEMBERS = f"{SETS}:openhim:members"

BAD = [
    # What is not there, or not of the kind.
    ({"stack": DELETED},
     "openhim:stack: found nothing; allowed a name of at most 63 letters, digits, '.', '_' and '-' "
     "(required)"),
    ({"stack": 12},
     "openhim:stack: found the number 12; allowed a name of at most 63 letters, digits, '.', '_' "
     "and '-' (in quotes)"),
    ({"sites": []},
     "openhim:sites: found an empty list; allowed a mapping, with at least one entry, from a name "
     "of letters, digits, '.', '_' and '-' to a mapping"),
    ({"profile": "small"}, "openhim:profile: found 'small'; allowed production or reduced"),
    ({"profile": "reducd"},
     "openhim:profile: found 'reducd'; allowed production or reduced (did you mean 'reduced'?)"),
    ({"mongodb:durabilty": "majority"},
     "openhim:mongodb:durabilty: found an unknown key; allowed cache_size_gb, config, databases, "
     "durability, election_timeout_ms, install, replica_sets, tls, tls_ca_file, users, version, "
     "write_timeout_ms (did you mean 'durability'?)"),
    ({"backup:repositoris": {}},
     "openhim:backup:repositoris: found an unknown key; allowed assertions, bundle, files, "
     "keep_aside_days, max_age_seconds, max_unverified_seconds, oplog, recovery_secret, repositories, retention, "
     "schedule, taken_by, user, verification_secret, verified_by (did you mean 'repositories'?)"),
    ({"mongodb:write_timeout_ms": 0},
     "openhim:mongodb:write_timeout_ms: found the number 0; allowed a whole number from 1"),
    # What YAML makes of things.
    ({f"{SETS}:openhim:port": "27017"},
     "openhim:mongodb:replica_sets:openhim:port: found '27017'; allowed a whole number from 1 to "
     "65535 (without quotes)"),
    ({f"{SETS}:openhim:port": 70000},
     "openhim:mongodb:replica_sets:openhim:port: found the number 70000; allowed a whole number "
     "from 1 to 65535"),
    ({f"{SETS}:openhim:port": True},
     "openhim:mongodb:replica_sets:openhim:port: found the boolean true (YAML reads unquoted yes, "
     "no, on and off so); allowed a whole number from 1 to 65535"),
    ({"mongodb:version": 6.0},
     "openhim:mongodb:version: found the number 6.0; allowed a version such as '6.0.5' (in quotes)"),
    ({"mongodb:version": "6.0"},
     "openhim:mongodb:version: found '6.0'; allowed a version such as '6.0.5'"),
    ({"sites:north:description": False},
     "openhim:sites:north:description: found the boolean false (YAML reads unquoted yes, no, on and "
     "off so); allowed a text (in quotes)"),
    ({"mongodb:tls": "yes"}, "openhim:mongodb:tls: found 'yes'; allowed true or false (without quotes)"),
    ({"manage_hosts_file": 1},
     "openhim:manage_hosts_file: found the number 1; allowed true or false"),
    ({"hosts:north-db1:address": "10.20.1"},
     "openhim:hosts:north-db1:address: found '10.20.1'; allowed an IP address"),
    ({"firewall:ssh_from:0": "10.20.1.7/16"},
     "openhim:firewall:ssh_from:0: found '10.20.1.7/16'; allowed an IP address or a network such as "
     "'10.20.0.0/16' (did you mean '10.20.0.0/16'?)"),
    ({"firewall:ssh_from": DELETED},
     "openhim:firewall:ssh_from: found nothing; allowed a list, each item an IP address or a network "
     "such as '10.20.0.0/16' (required)"),
    # Hosts and sites.
    ({"hosts:north-db2:site": "nort"},
     "openhim:hosts:north-db2:site: found 'nort'; allowed north, south, west (did you mean 'north'?)"),
    ({"hosts:north-db2:roles": ["mongo"]},
     "openhim:hosts:north-db2:roles:0: found 'mongo'; allowed mongodb or core or backup or master "
     "(did you mean 'mongodb'?)"),
    ({"hosts:north-db2:address": "10.20.1.11"},
     "openhim:hosts:north-db2:address: found '10.20.1.11', which is north-db1's too; allowed an "
     "address of its own"),
    ({"hosts:north-db2:name": "north-db1"},
     "openhim:hosts:north-db2:name: found 'north-db1', which is north-db1's too; allowed a name of "
     "its own"),
    ({"active_site": "east"},
     "openhim:active_site: found 'east'; allowed north, south, west (did you mean 'west'?)"),
    ({"hosts:north-core:roles": ["backup"]},
     "openhim:active_site: found 'north', which has no core; allowed a site with a host of the role "
     "core"),
    ({"recovery": {"active_site": "west"}},
     "openhim:recovery:active_site: found 'west', where the replica set 'openhim' has no member; "
     "allowed a site with a member of every set"),
    ({"recovery": {"active_site": "south", "lost_sites": ["south"]}},
     "openhim:recovery:lost_sites: found 'south'; allowed sites other than the active one"),
    ({"recovery": {"lost_sites": ["east"]}},
     "openhim:recovery:lost_sites: found 'east'; allowed north, south, west (did you mean 'west'?)"),
    ({"recovery": {"error": "the record is damaged"}},
     "openhim:recovery: found the record is damaged; allowed a recovery record that can be read"),
    # Replica sets.
    ({f"{MEMBERS}:north-db3": {"priority": 5, "votes": 0}},
     f"openhim:{MEMBERS}:north-db3: found 'north-db3'; allowed north-db1, north-db2, south-db1 "
     "(did you mean 'north-db2'?)"),
    ({"hosts:south-db1:roles": ["backup"]},
     f"openhim:{MEMBERS}:south-db1: found a host without the role mongodb; allowed north-db1, "
     "north-db2"),
    ({f"{MEMBERS}:south-db1": DELETED},
     f"openhim:{MEMBERS}: found 2 votes; allowed an odd number of at most 7: with an even one, half "
     "of them can elect nobody"),
    ({f"{MEMBERS}:south-db1:votes": 2},
     f"openhim:{MEMBERS}:south-db1:votes: found the number 2; allowed a whole number from 0 to 1"),
    ({f"{MEMBERS}:south-db1": {"votes": 0}},
     f"openhim:{MEMBERS}:south-db1:priority: found nothing, which is 1; allowed 0, because a member "
     "without a vote cannot become primary"),
    ({f"{MEMBERS}:south-db1:hidden": True},
     f"openhim:{MEMBERS}:south-db1:priority: found 1; allowed 0, because a member without being "
     "shown to clients cannot become primary"),
    ({f"{MEMBERS}:south-db1:priority": 10},
     f"openhim:{MEMBERS}: found the highest priority (10) at north and south; allowed the highest "
     "priority at the active site 'north' only; give the members elsewhere a lower one"),
    ({f"{MEMBERS}:south-db1:priority": 20},
     f"openhim:{MEMBERS}: found the highest priority (20) at south; allowed the highest priority at "
     "the active site 'north' only; give the members elsewhere a lower one"),
    ({f"{MEMBERS}": {name: {"priority": 0} for name in ("north-db1", "north-db2", "south-db1")}},
     f"openhim:{MEMBERS}: found only priorities of 0; allowed at least one member above 0"),
    ({"mongodb:databases:audit:replica_set": "audit"},
     "openhim:mongodb:databases:audit:replica_set: found 'audit'; allowed openhim"),
    ({"mongodb:durability": "every-site", "hosts:south-db1:site": "north"},
     "openhim:mongodb:durability: found 'every-site', while the voters of 'openhim' are all at one "
     "site; allowed majority, or voters at two sites or more"),
    ({f"{SETS}:audit": {"members": {"north-db1": {}}}},
     "openhim:mongodb:replica_sets:audit:port: found 27017, which the set 'openhim' has on "
     "north-db1; allowed a port of its own"),
    ({"core:ports:http": 8080},
     "openhim:core:ports:http: found 8080, which OpenHIM's api port has on north-core; allowed a "
     "port of its own"),
    # Installation and users.
    ({"mongodb:install": {"method": "preinstalled"}},
     "openhim:mongodb:install:binary: found nothing; allowed a text (required by the method "
     "'preinstalled')"),
    ({"core:install:source_hash": DELETED},
     "openhim:core:install:source_hash: found nothing; allowed a text (required by the method "
     "'archive')"),
    ({"mongodb:users:operator:operator": False},
     "openhim:mongodb:users: found 0 users with operator: true; allowed exactly one, as whom Salt "
     "administers the sets"),
    ({"mongodb:users:openhim:secret": DELETED},
     "openhim:mongodb:users:openhim:secret: found nothing; allowed the name of an entry of "
     "openhim:secrets (required)"),
    ({"core:database_user": "openhimm"},
     "openhim:core:database_user: found 'openhimm'; allowed backup, openhim, operator (did you mean "
     "'openhim'?)"),
    # A password where the name of a secret belongs is not repeated.
    ({"mongodb:users:openhim:secret": "p@ss word!"},
     "openhim:mongodb:users:openhim:secret: found a text; allowed the name of an entry of "
     "openhim:secrets"),
    # OpenHIM's ports are said in one place, where the firewall finds them.
    ({"core:config": {"router": {"httpPort": 6001}}},
     "openhim:core:config:router:httpPort: found 6001; allowed nothing; declare "
     "openhim:core:ports:http, which the firewall opens too"),
    ({"core:config": {"api": {"httpsPort": 9080}}},
     "openhim:core:config:api:httpsPort: found 9080; allowed nothing; declare "
     "openhim:core:ports:api, which the firewall opens too"),
    # Backups.
    ({"backup:taken_by": "south-db9"},
     "openhim:backup:taken_by: found 'south-db9'; allowed master, north-core, north-db1, north-db2, "
     "south-core, south-db1, west-backup (did you mean 'south-db1'?)"),
    ({"backup:user": "backupp"},
     "openhim:backup:user: found 'backupp'; allowed backup, openhim, operator (did you mean "
     "'backup'?)"),
    ({"backup:repositories:copy:copy_of": "stor"},
     "openhim:backup:repositories:copy:copy_of: found 'stor'; allowed store (did you mean "
     "'store'?)"),
    ({"backup:repositories:copy:pulled_by": DELETED},
     "openhim:backup:repositories:copy:pulled_by: found nothing; allowed the host that pulls the "
     "copies"),
    ({"backup:oplog": {"archived_by": "south-db", "repository": {"url": "/o", "secret": "o"}}},
     "openhim:backup:oplog:archived_by: found 'south-db'; allowed "),
    ({"backup:oplog": {"archived_by": "south-db1",
                       "repository": {"url": "/o", "secret": "o", "pruned_by": "south-db1"}}},
     "openhim:backup:oplog:repository:pruned_by: found 'south-db1', which archives or takes the "
     "backups; allowed another host: who takes the place of production must not be able to delete "
     "them"),
    ({"backup:oplog": {"archived_by": "south-db1", "repository":
                       {"url": "/var/lib/openhim-backup/copy", "secret": "o"}}},
     "openhim:backup:oplog:repository:url: found the URL of openhim:backup:repositories:copy; "
     "allowed a repository of its own: a slice a minute would slow that one down"),
    ({"backup:oplog:copy:pulled_by": DELETED},
     "openhim:backup:oplog:copy:pulled_by: found nothing; allowed a minion ID (required)"),
    ({"backup:oplog:copy:pulled_by": "south-db1"},
     "openhim:backup:oplog:copy:pulled_by: found 'south-db1', which archives or takes the "
     "backups; allowed another host: who takes the place of production must not be able to delete "
     "them"),
    ({"backup:oplog:copy:url": "rest:http://producer:{backup_store_producer}@10.20.0.40:8000/oplog/"},
     "openhim:backup:oplog:copy:url: found the URL of openhim:backup:oplog:repository; allowed a "
     "repository of its own: a slice a minute would slow that one down"),
    ({"backup:verification_secret": DELETED},
     "openhim:backup:verification_secret: found nothing; allowed the name of a secret, which signs "
     "the verifications that pruning relies on"),
    ({"backup:verified_by": "south-db1"},
     "openhim:backup:verified_by: found 'south-db1', which takes the backups; allowed another host: "
     "who takes the place of production must not be able to call them good"),
    ({"backup:verified_by": "north-core"},
     "openhim:backup:repositories:copy:url: found a folder of 'west-backup'; allowed a place that "
     "'north-core', which verifies, reaches too; or one host for both"),
    # Objects and certificates.
    ({"objects:channels:Laboratory orders:urlPattern": DELETED},
     "openhim:objects:channels:Laboratory orders:urlPattern: found nothing; allowed a value (the "
     "type 'http' needs it)"),
    ({"objects:channels:Results": {"type": "tcp", "tcpPort": 5001, "routes": [{"name": "r"}]}},
     "openhim:objects:channels:Results:tcpPort: found 5001, which OpenHIM's http port has on "
     "north-core; allowed a port of its own"),
    ({"objects:channels:Laboratory orders:routes:0:host": {"north": "10.20.1.31"}},
     "openhim:objects:channels:Laboratory orders:routes:0:host: found hosts for the sites north; "
     "allowed one for every site with a core: north, south"),
    ({"certificates": DELETED},
     "openhim:certificates: found nothing; allowed a mapping with the method x509 or pillar "
     "(openhim:mongodb:tls is true)"),
    ({"certificates:ca_server": DELETED},
     "openhim:certificates:ca_server: found nothing; allowed a minion ID (the method 'x509' needs "
     "it)"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), BAD, ids=lambda value: str(value)[:60])
def test_a_wrong_pillar_is_told_in_words(
    openhim: dict[str, Any], changes: dict[str, Any], text: str
) -> None:
    """One change, one problem more: its path, what was found, what is allowed."""
    assert any(one.startswith(text) for one in schema.check(changed(openhim, changes)))


def test_one_wrong_value_makes_no_second_problem(openhim: dict[str, Any]) -> None:
    """Where the value is simply of the wrong kind, nothing else is blamed."""
    for changes in (
        {"profile": "small"},
        {f"{SETS}:openhim:port": "27017"},
        {"hosts:north-db1:address": "10.20.1"},
        {"sites:north": "x"},
        {f"{MEMBERS}:south-db1:priority": "1"},
    ):
        assert len(schema.check(changed(openhim, changes))) == 1, changes


def test_a_name_that_yaml_took_for_a_boolean_is_told(openhim: dict[str, Any]) -> None:
    """The site of Norway."""
    openhim["sites"][False] = {}
    (problem,) = schema.check({"openhim": openhim})
    assert problem.startswith("openhim:sites:False: found the boolean false (YAML reads unquoted")


def test_all_problems_come_at_once(openhim: dict[str, Any]) -> None:
    """Correcting a pillar one error at a time is no way to spend a night."""
    wrong = changed(openhim, {"profile": "small", "active_site": "east", f"{MEMBERS}:x": {}})
    assert len(schema.check(wrong)) >= 3
    with pytest.raises(PillarError) as raised:
        schema.require(wrong)
    assert len(raised.value.problems) == len(schema.check(wrong))
    assert "nothing was touched" in str(raised.value)


@pytest.mark.parametrize("pillar", [{}, {"openhim": None}, {"openhim": []}, {"openhim": "x"}])
def test_a_pillar_without_a_declaration_is_refused(pillar: dict[str, Any]) -> None:
    """Nothing is not the same as fine."""
    (problem,) = schema.check(pillar)
    assert problem.endswith("allowed the stack's declaration, a mapping")


@pytest.mark.parametrize(
    "changes",
    [
        {"hosts:east-db1": {"site": "west", "address": "10.20.3.11", "roles": ["mongodb"]},
         "hosts:south-db2": {"site": "south", "address": "10.20.2.12", "roles": ["mongodb"]},
         f"{MEMBERS}:east-db1": {"priority": 0.5}, f"{MEMBERS}:south-db2": {"priority": 1}},
        {f"{SETS}:audit": {"port": 27018, "members": {"north-db1": {"priority": 2}, "north-db2": {},
                                                      "south-db1": {}}},
         "mongodb:databases:audit:replica_set": "audit"},
        {"core:ports": {"api": 9080, "http": 9001, "https": 9000}, f"{SETS}:openhim:port": 37017},
        {"profile": "reduced", "active_site": "south"},
        {"mongodb:durability": "every-site"},
        {f"{MEMBERS}:south-db1:priority": 0},
    ],
    ids=["five members at three sites", "an audit set", "other ports", "reduced elsewhere",
         "every-site", "a distant member that is never primary"],
)  # fmt: skip
def test_other_topologies_are_allowed(openhim: dict[str, Any], changes: dict[str, Any]) -> None:
    """The example is one declaration of many."""
    assert schema.check(changed(openhim, changes)) == []


# Secrets


@pytest.mark.parametrize(
    ("host_id", "name", "reason"),
    [
        ("north-db1", "mongodb_keyfile", "the members' authentication among themselves"),
        ("north-db1", "mongodb_operator", "openhim:mongodb:users:operator"),
        ("south-db1", "mongodb_openhim", "openhim:mongodb:users:openhim"),
        ("north-core", "mongodb_openhim", "openhim:mongodb:users:openhim"),
        ("north-core", "openhim_administrator", "openhim:core:administrator"),
        ("north-core", "openhim_session_key", "OpenHIM's sessions"),
        ("south-core", "openhim_synthetic", "openhim:core:synthetic"),
        ("south-core", "client_laboratory", "openhim:objects:clients:laboratory"),
        ("south-core", "tls_ca", "openhim:certificates (method 'x509')"),
        ("south-db1", "backup_store", "openhim:backup:repositories:store"),
        ("south-db1", "backup_store_producer", "openhim:backup:repositories:store"),
        ("west-backup", "backup_copy", "openhim:backup:repositories:copy"),
        ("west-backup", "backup_store_keeper", "openhim:backup:repositories:store"),
        ("west-backup", "backup_verification", "openhim:backup:verification_secret"),
        ("master", "tls_ca_key", "openhim:certificates (method 'x509')"),
    ],
)
def test_a_missing_secret_is_told_to_the_host_that_needs_it(
    openhim: dict[str, Any], host_id: str, name: str, reason: str
) -> None:
    """By name, with the place that asks for it."""
    openhim["secrets"] = {k: v for k, v in SECRETS.items() if k != name}
    assert schema.check({"openhim": openhim}, host_id) == [
        f"openhim:secrets:{name}: found nothing on {host_id}; allowed the secret for {reason}; give "
        "this host the pillar file that holds it"
    ]


def test_a_host_needs_the_secrets_of_its_roles_only(openhim: dict[str, Any]) -> None:
    """A database's host never sees OpenHIM's session key, nor a core the operator's password."""
    assert set(needs.needed(openhim, "north-db1")) == {
        "mongodb_keyfile", "mongodb_operator", "mongodb_openhim", "mongodb_backup", "tls_ca",
    }  # fmt: skip
    assert "mongodb_operator" not in needs.needed(openhim, "north-core")
    assert set(needs.needed(openhim, "master")) == {
        "tls_ca", "tls_ca_key", "recovery_key", "backup_store_producer",
    }  # fmt: skip
    openhim["certificates"] = {"method": "pillar"}
    assert {"tls_certificate", "tls_key"} <= set(needs.needed(openhim, "north-db1"))


def test_who_takes_restore_points_holds_nothing_that_removes_them(openhim: dict[str, Any]) -> None:
    """Nor may the pillar give that task to the same host."""
    assert "backup_store_keeper" not in needs.needed(openhim, "south-db1")
    having = [h for h in openhim["hosts"] if "backup_verification" in needs.needed(openhim, h)]
    assert having == ["west-backup"]
    openhim["backup"]["repositories"]["store"]["pruned_by"] = "south-db1"
    (said,) = [one for one in schema.check({"openhim": openhim}) if "pruned_by" in one]
    assert "found 'south-db1', which takes the backups; allowed another host" in said


def test_who_verifies_reads_the_copies_too_unless_it_takes_them(openhim: dict[str, Any]) -> None:
    """Nobody else would verify them; and production must not hold their keys."""
    openhim["backup"] |= {"verified_by": "north-core"}
    assert {"backup_store", "backup_copy"} <= set(needs.needed(openhim, "north-core"))
    openhim["backup"] |= {"verified_by": "south-db1"}
    assert "backup_copy" not in needs.needed(openhim, "south-db1")


def test_the_recovery_key_is_where_the_start_bundle_is_stored_and_nowhere_else(
    openhim: dict[str, Any],
) -> None:
    """Whoever has it has everything."""
    having = [h for h in openhim["hosts"] if "recovery_key" in needs.needed(openhim, h)]
    assert having == ["master"]


def test_the_start_bundle_needs_a_repository_of_its_own_and_a_host_that_stores_it(
    openhim: dict[str, Any],
) -> None:
    """Another repository is opened by others than the recovery key."""
    bundle, store = openhim["backup"]["bundle"], openhim["backup"]["repositories"]["store"]
    bundle["repositories"]["store"]["url"] = store["url"]
    (said,) = schema.check({"openhim": openhim})
    assert said.startswith("openhim:backup:bundle:repositories:store:url: found the URL of")
    bundle["repositories"]["store"]["url"] = "/elsewhere"
    openhim["hosts"]["master"]["roles"] = ["backup"]
    (said,) = schema.check({"openhim": openhim})
    assert "openhim:backup:bundle: found no host with the role master" in said


def test_who_archives_adds_slices_and_who_restores_reads_them(openhim: dict[str, Any]) -> None:
    """Whichever hosts that are; only who prunes them holds what removes them."""
    openhim["backup"]["oplog"] = {
        "archived_by": "south-core",
        "repository": {
            "url": "rest:http://{slices_add}@store/oplog/",
            "secret": "slices",
            "pruned_by": "west-backup",
            "prune_url": "rest:http://{slices_remove}@store/oplog/",
        },
    }
    assert schema.check({"openhim": openhim}) == []
    assert {"slices_add", "slices", "mongodb_backup"} <= set(needs.needed(openhim, "south-core"))
    assert {"slices_add", "slices"} <= set(needs.needed(openhim, "south-db1"))
    assert "slices_add" not in needs.needed(openhim, "north-db1")
    assert {"slices_remove", "slices"} <= set(needs.needed(openhim, "west-backup"))
    assert "slices_remove" not in needs.needed(openhim, "south-core")
    openhim["backup"]["oplog"]["copy"] = {"url": "/c", "secret": "second", "pulled_by": "north-db1"}
    assert {"slices_add", "slices", "second"} <= set(needs.needed(openhim, "north-db1"))
    assert "second" not in needs.needed(openhim, "south-db1")


def test_secrets_of_routes_and_mediators_are_needed(openhim: dict[str, Any]) -> None:
    """Wherever a name of a secret stands in the objects."""
    openhim["objects"]["channels"]["Laboratory orders"]["routes"][0]["secret"] = "upstream"
    openhim["objects"]["mediators"] = {"urn:m": {"secrets": {"token": "mediator_token"}}}
    openhim["objects"]["keystore"] = {"secret": "key", "passphrase_secret": "phrase"}
    needed = needs.needed(openhim, "north-core")
    assert {"upstream", "mediator_token", "key", "phrase"} <= set(needed)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("mongodb_keyfile", "not base64!",
         "found a text that MongoDB refuses; allowed 6 to 1024 base64 characters"),
        ("mongodb_keyfile", "abcd",
         "found a text that MongoDB refuses; allowed 6 to 1024 base64 characters"),
        ("mongodb_keyfile", "A" * 1025,
         "found a text that MongoDB refuses; allowed 6 to 1024 base64 characters"),
        ("openhim_session_key", "hush-hush",
         "found 9 characters; allowed a random text of 32 or more"),
        ("openhim_session_key", needs.SHIPPED_SESSION_KEY,
         "found the key that every OpenHIM is shipped with; allowed a random text"),
        ("mongodb_operator", "example-only-password",
         "found the placeholder of the example files; allowed a secret of your own"),
        ("mongodb_operator", "-----BEGIN PGP MESSAGE-----\nhush-hush",
         "found a text that is still encrypted; allowed one that the master can decrypt"),
        ("mongodb_operator", "", "found an empty text; allowed a text that is not empty"),
        ("mongodb_operator", 1234567,
         "found a number; allowed a text that is not empty (in quotes)"),
        ("mongodb_operator", ["hush-hush"], "found a list; allowed a text that is not empty"),
    ],
)  # fmt: skip
def test_a_secret_that_cannot_be_used_is_told_but_not_shown(
    openhim: dict[str, Any], name: str, value: Any, text: str
) -> None:
    """What is wrong, never what it says."""
    openhim["secrets"] = {**SECRETS, name: value}
    (problem,) = schema.check({"openhim": openhim}, "master")
    assert problem == f"openhim:secrets:{name}: {text}"
    assert not value or str(value) not in problem


def test_no_problem_shows_a_secret(openhim: dict[str, Any]) -> None:
    """Whatever else is wrong."""
    openhim["secrets"] = SECRETS
    for changes, _ in BAD:
        problems = "\n".join(schema.check(changed(openhim, changes), "north-core"))
        assert "not-told" not in problems
        assert "p@ss" not in problems


def test_the_placeholders_of_the_example_files_are_refused(openhim: dict[str, Any]) -> None:
    """All of them, so that nobody runs with a password that everybody can read."""
    folder = EXAMPLE.parents[1] / "secrets"
    for file in sorted(folder.glob("*.example")):
        values = yaml.safe_load(file.read_text())["openhim"]["secrets"]
        assert values
        problems = schema.check({"openhim": {**openhim, "secrets": values}})
        assert len(problems) == len(values), file.name


def test_a_minion_that_is_not_declared_is_told(openhim: dict[str, Any]) -> None:
    """With the hosts that are."""
    (problem,) = schema.check({"openhim": openhim}, "stranger")
    assert problem == (
        "openhim:hosts:stranger: found nothing for this minion; allowed master, north-core, "
        "north-db1, north-db2, south-core, south-db1, west-backup"
    )


# The reference page


def test_the_reference_page_is_written_from_the_table() -> None:
    """``make docs`` brings it up to date."""
    file = EXAMPLE.parents[2] / "docs" / "reference" / "pillar.md"
    assert file.read_text() == reference.page()


def test_every_key_of_the_example_is_in_the_reference(openhim: dict[str, Any]) -> None:
    """Down to the leaves of what is ours."""
    page = reference.page()
    for path in ("openhim:mongodb:replica_sets:<name>:members:<name>", "openhim:core:ports"):
        assert f"## `{path}`\n" in page
    for key in openhim:
        assert f"| `{key}` |" in page
