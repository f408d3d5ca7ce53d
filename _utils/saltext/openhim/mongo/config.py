"""What each mongod on a host is told: its configuration file and where its things are."""

from __future__ import annotations

from typing import Any

from saltext.openhim.errors import OpenHIMError
from saltext.openhim.settings import TLS_DIRECTORY, ReplicaSet, Stack, merged

CONFIG_DIRECTORY = "/etc/mongod"
DATA_DIRECTORY = "/var/lib/mongodb"
LOG_DIRECTORY = "/var/log/mongodb"
RUN_DIRECTORY = "/run/mongodb"
KEYFILE_PATH = f"{CONFIG_DIRECTORY}/keyfile"
CERTIFICATE_PATH = f"{TLS_DIRECTORY}/mongodb.pem"


def binary(stack: Stack) -> str:
    """The path of mongod, by the declared way of installing it."""
    mongodb = stack.declared["mongodb"]
    install = mongodb.get("install") or {}
    method = install.get("method", "package")
    if method == "archive":
        return f"/opt/mongodb/{mongodb['version']}/bin/mongod"
    return install.get("binary", "/usr/bin/mongod")


def instances(stack: Stack, minion_id: str) -> list[dict[str, Any]]:
    """The mongods of a host, one per replica set that has a member there."""
    return [
        {
            "set": replica_set.name,
            "port": _port(replica_set, minion_id),
            "unit": f"mongod-{replica_set.name}.service",
            "config": f"{CONFIG_DIRECTORY}/{replica_set.name}.conf",
            "data": f"{DATA_DIRECTORY}/{replica_set.name}",
            "log": f"{LOG_DIRECTORY}/{replica_set.name}.log",
            "pid": f"{RUN_DIRECTORY}/{replica_set.name}.pid",
            "started_with": f"{RUN_DIRECTORY}/{replica_set.name}.started-with",
            "binary": binary(stack),
            "keyfile": KEYFILE_PATH,
            "certificate": CERTIFICATE_PATH if stack.declared["mongodb"].get("tls") else None,
        }
        for replica_set in stack.sets_on(minion_id)
    ]


def _port(replica_set: ReplicaSet, minion_id: str) -> int:
    member = replica_set.member_on(minion_id)
    if member is None:
        raise OpenHIMError(f"{minion_id} has no member of the replica set {replica_set.name}")
    return member.port


def mongod_config(stack: Stack, minion_id: str, set_name: str) -> dict[str, Any]:
    """The content of one mongod's configuration file.

    What ``openhim:mongodb:config`` says is merged over it, key by key.
    https://www.mongodb.com/docs/manual/reference/configuration-options/
    """
    replica_set = stack.replica_sets[set_name]
    mongodb = stack.declared["mongodb"]
    host = stack.host(minion_id)
    config: dict[str, Any] = {
        "net": {
            "port": _port(replica_set, minion_id),
            # Loopback is where Salt connects; the rest of the world comes by the declared address.
            "bindIp": f"127.0.0.1,{host.address}",
            "unixDomainSocket": {"enabled": False},
        },
        "processManagement": {"pidFilePath": f"{RUN_DIRECTORY}/{set_name}.pid"},
        "replication": {"replSetName": set_name},
        "security": {
            "authorization": "enabled",
            "clusterAuthMode": "keyFile",
            "keyFile": KEYFILE_PATH,
        },
        "storage": {"dbPath": f"{DATA_DIRECTORY}/{set_name}"},
        "systemLog": {
            "destination": "file",
            "path": f"{LOG_DIRECTORY}/{set_name}.log",
            "logAppend": True,
            "logRotate": "reopen",
        },
    }
    if mongodb.get("tls"):
        config["net"]["tls"] = {
            "mode": "requireTLS",
            "certificateKeyFile": CERTIFICATE_PATH,
            "CAFile": f"{TLS_DIRECTORY}/ca.crt",
            "allowConnectionsWithoutCertificates": True,
        }
    if mongodb.get("cache_size_gb") is not None:
        config["storage"]["wiredTiger"] = {
            "engineConfig": {"cacheSizeGB": mongodb["cache_size_gb"]}
        }
    return merged(config, mongodb.get("config") or {})
