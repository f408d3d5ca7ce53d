"""Which host needs which secret, and whether the secrets that it has can be used.

A host's pillar holds the secrets of its roles and no others, so this is checked per host. No text
here ever contains a secret.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from saltext.openhim.core.versions import SHIPPED_SESSION_KEY
from saltext.openhim.schema.kinds import problem
from saltext.openhim.schema.rules import names

KEYFILE = "mongodb_keyfile"
SESSION_KEY = "openhim_session_key"
AUTHORITY = "tls_ca"
AUTHORITY_KEY = "tls_ca_key"
OWN_CERTIFICATE = ("tls_certificate", "tls_key")

#: The placeholders of the example files begin so; they are refused everywhere.
EXAMPLE_MARK = "example-only"

#: How a secret begins that the GPG renderer did not decrypt.
ENCRYPTED_MARK = "-----BEGIN PGP MESSAGE-----"

MIN_SESSION_KEY = 32

DEFAULT_DATABASE_USER = "openhim"


def needed(declared: Mapping[str, Any], host_id: str) -> dict[str, str]:
    """The secrets that a host needs: name → for what, in words.

    declared: the pillar's ``openhim``. host_id: a declared host.
    """
    found: dict[str, str] = {}
    for secrets in by_file(declared, host_id).values():
        found |= secrets
    return found | _of_certificates(declared, host_id)


def by_file(declared: Mapping[str, Any], host_id: str) -> dict[str, dict[str, str]]:
    """The same without certificates, by the pillar file that holds them in the example."""
    roles = declared["hosts"][host_id].get("roles", ())
    backup = declared.get("backup", {})
    takes = host_id in (backup.get("taken_by"), backup.get("oplog", {}).get("archived_by"))
    takes = takes or _rebuilds(declared, host_id)
    # Who takes restore points must not hold what removes them.
    found = {"backup" if takes else "backup_keeper": _of_backup(declared, host_id)}
    if "master" in roles:
        found["start_bundle"] = _of_start_bundle(declared)
        found["cut_over"] = _of_cut_over(declared)
    if "mongodb" in roles:
        found["mongodb"] = _of_mongodb(declared)
    if "core" in roles:
        found["core"] = _of_core(declared)
    return {file: secrets for file, secrets in found.items() if secrets}


def check(declared: Mapping[str, Any], host_id: str | None) -> Iterator[str]:
    """The problems of the secrets: those that this host lacks, and those that cannot be used."""
    secrets = declared.get("secrets", {})
    hosts = declared.get("hosts")
    if host_id is not None and hosts is not None:
        if host_id not in hosts:
            yield problem(f"openhim:hosts:{host_id}", "nothing for this minion", names(hosts))
        else:
            for name, reason in sorted(needed(declared, host_id).items()):
                if name not in secrets:
                    yield problem(
                        f"openhim:secrets:{name}",
                        f"nothing on {host_id}",
                        f"the secret for {reason}; give this host the pillar file that holds it",
                    )
    for name, value in sorted(secrets.items()):
        if isinstance(value, str):
            yield from _usable(name, value)
            if name in _of_cut_over(declared):
                yield from _tsig(name, value)


def _usable(name: str, value: str) -> Iterator[str]:
    path = f"openhim:secrets:{name}"
    if value.strip().startswith(EXAMPLE_MARK):
        yield problem(path, "the placeholder of the example files", "a secret of your own")
    elif value.lstrip().startswith(ENCRYPTED_MARK):
        # Some versions of Salt hand on what they cannot decrypt, and it would become the password.
        yield problem(path, "a text that is still encrypted", "one that the master can decrypt")
    elif name == KEYFILE and not re.fullmatch(r"[A-Za-z0-9+/=]{6,1024}", re.sub(r"\s", "", value)):
        yield problem(path, "a text that MongoDB refuses", "6 to 1024 base64 characters")
    elif name == SESSION_KEY and value == SHIPPED_SESSION_KEY:
        yield problem(path, "the key that every OpenHIM is shipped with", "a random text")
    elif name == SESSION_KEY and len(value) < MIN_SESSION_KEY:
        yield problem(
            path, f"{len(value)} characters", f"a random text of {MIN_SESSION_KEY} or more"
        )


def _tsig(name: str, value: str) -> Iterator[str]:
    """The key that signs updates of a name server, in the form that name servers write it."""
    if value.lstrip().startswith((EXAMPLE_MARK, ENCRYPTED_MARK)):
        return  # told already
    try:
        base64.b64decode(value.strip(), validate=True)
    except ValueError:
        yield problem(
            f"openhim:secrets:{name}",
            "a text that is not base64",
            "the TSIG key as the name server's own configuration has it",
        )


def _of_mongodb(declared: Mapping[str, Any]) -> dict[str, str]:
    users = declared.get("mongodb", {}).get("users", {})
    return {KEYFILE: "the members' authentication among themselves"} | {
        user["secret"]: f"openhim:mongodb:users:{name}"
        for name, user in users.items()
        if user.get("secret")
    }


def _of_core(declared: Mapping[str, Any]) -> dict[str, str]:
    core = declared.get("core", {})
    found = {SESSION_KEY: "OpenHIM's sessions"}
    for key in ("administrator", "synthetic"):
        found[core.get(key, {}).get("secret", f"openhim_{key}")] = f"openhim:core:{key}"
    user = core.get("database_user", DEFAULT_DATABASE_USER)
    name = declared.get("mongodb", {}).get("users", {}).get(user, {}).get("secret")
    if name:
        found[name] = f"openhim:mongodb:users:{user}"
    found |= dict(_of_objects(declared.get("objects", {}), "openhim:objects"))
    return found


def _of_objects(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every ``secret``, ``…_secret`` and value of ``secrets`` inside the objects."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            is_name = key == "secret" or str(key).endswith("_secret")
            if is_name and isinstance(entry, str):
                yield entry, path
            elif key == "secrets" and isinstance(entry, Mapping):
                yield from ((name, path) for name in entry.values())
            else:
                yield from _of_objects(entry, f"{path}:{key}")
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _of_objects(entry, f"{path}:{number}")


def _of_backup(declared: Mapping[str, Any], host_id: str) -> dict[str, str]:
    """The credentials of the repositories that this host uses, each with what it may do there."""
    backup = declared.get("backup", {})
    repositories = backup.get("repositories", {})
    oplog = backup.get("oplog", {})
    takes, verifies = (backup.get(key) == host_id for key in ("taken_by", "verified_by"))
    archives = oplog.get("archived_by") == host_id
    drills = declared.get("drills", {}).get("run_by") == host_id
    rebuilds = _rebuilds(declared, host_id)
    found: dict[str, str] = {}
    # Who takes restore points restores them too, and reads the slices for that.
    copy = oplog.get("copy", {})
    pulls = copy.get("pulled_by") == host_id
    slices = _of_repository(
        oplog.get("repository", {}), host_id, archives or takes or pulls or rebuilds
    )
    found |= dict.fromkeys(slices, "openhim:backup:oplog:repository")
    copied = _of_repository(copy, host_id, pulls or (verifies and not takes and not archives))
    found |= dict.fromkeys(copied, "openhim:backup:oplog:copy")
    prunes_any = any(entry.get("pruned_by") == host_id for entry in repositories.values())
    if backup.get("verification_secret") and (verifies or prunes_any):
        found[backup["verification_secret"]] = "openhim:backup:verification_secret"
    for name, entry in repositories.items():
        used = _is_used(name, entry, backup, host_id) or drills
        used = used or (rebuilds and "copy_of" not in entry)
        secrets = _of_repository(entry, host_id, used)
        found |= dict.fromkeys(secrets, f"openhim:backup:repositories:{name}")
    user = declared.get("mongodb", {}).get("users", {}).get(backup.get("user"), {})
    if (takes or archives) and user.get("secret"):
        found[user["secret"]] = "openhim:backup:user"
    return found


def _rebuilds(declared: Mapping[str, Any], host_id: str) -> bool:
    """Whether a host waits to be rebuilt from the repositories: it reads what production wrote."""
    host = declared["hosts"][host_id]
    return bool(host.get("standby")) and "mongodb" in host.get("roles", ()) and "backup" in declared


def _is_used(name: str, entry: Mapping[str, Any], backup: Mapping[str, Any], host_id: str) -> bool:
    """Whether a host reads a repository of restore points, or writes to it."""
    takes, verifies = (backup.get(key) == host_id for key in ("taken_by", "verified_by"))
    feeds = any(
        other.get("copy_of") == name and other.get("pulled_by") == host_id
        for other in backup.get("repositories", {}).values()
    )
    first = "copy_of" not in entry
    pulls = entry.get("pulled_by") == host_id
    # Who verifies reads the copies too, but production must not hold their keys.
    return pulls or feeds or (takes and first) or (verifies and (first or not takes))


def _of_repository(entry: Mapping[str, Any], host_id: str, used: bool) -> list[str]:
    """The secrets of one repository for a host that uses it, or prunes it."""
    prunes = entry.get("pruned_by") == host_id
    found = [entry["secret"]] if (used or prunes) and entry.get("secret") else []
    if used:
        found += [*entry.get("environment", {}).values(), *in_url(entry.get("url", ""))]
    if prunes:
        found += [*entry.get("prune_environment", {}).values()]
        found += in_url(entry.get("prune_url", entry.get("url", "")))
    return found


def _of_start_bundle(declared: Mapping[str, Any]) -> dict[str, str]:
    """The recovery key, and the credentials of the stores that keep the start bundle."""
    bundle = declared.get("backup", {}).get("bundle", {})
    found = {bundle["secret"]: "openhim:backup:bundle"} if bundle.get("secret") else {}
    for name, entry in bundle.get("repositories", {}).items():
        secrets = _of_repository(entry, "", used=True)
        found |= dict.fromkeys(secrets, f"openhim:backup:bundle:repositories:{name}")
    return found


def _of_cut_over(declared: Mapping[str, Any]) -> dict[str, str]:
    """The key that signs updates of the name server."""
    name = declared.get("cut_over", {}).get("dns", {}).get("key", {}).get("secret")
    return {name: "openhim:cut_over:dns:key"} if name else {}


def in_url(url: str) -> list[str]:
    """The names of the secrets that a repository's URL holds in braces."""
    return re.findall(r"\{([^{}]+)\}", url)


def _of_certificates(declared: Mapping[str, Any], host_id: str) -> dict[str, str]:
    certificates = declared.get("certificates", {})
    method = certificates.get("method")
    if method is None:
        return {}
    found = [AUTHORITY]
    if method == "pillar":
        found += OWN_CERTIFICATE
    elif certificates.get("ca_server") == host_id:
        found.append(AUTHORITY_KEY)
    return {name: f"openhim:certificates (method {method!r})" for name in found}
