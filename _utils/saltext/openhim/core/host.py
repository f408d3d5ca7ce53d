"""OpenHIM core on one host: what the declaration means there, and a client of its API."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from saltext.openhim import secrets, settings
from saltext.openhim.core import api, config, release, versions
from saltext.openhim.errors import OpenHIMError, PillarError

UNIT = "openhim-core.service"
USER = "openhim"
STATE_DIRECTORY = "/var/lib/openhim"

#: Where the responder (what the synthetic transaction is routed to) listens, beside OpenHIM's own
#: internal ports 7786, 7787 and 7788, and only on the loopback interface.
RESPONDER_PORT = 7789
RESPONDER_FILE = "/etc/openhim/responder.js"


class CoreHost:
    """OpenHIM core on one host of the stack.

    pillar: the minion's whole pillar. minion_id: the host.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the host is not a core host, and holds
    no drills either: there OpenHIM is installed, and never active.
    """

    def __init__(self, pillar: Mapping[str, Any], minion_id: str):
        self.pillar = pillar
        self.stack = settings.from_pillar(pillar)
        self.host = self.stack.host(minion_id)
        drills = (self.stack.declared.get("drills") or {}).get("run_by") == minion_id
        if "core" not in self.host.roles and not drills:
            raise OpenHIMError(
                f"the host {minion_id} does not have the role core; its roles are "
                f"{', '.join(self.host.roles) or 'none'}. Ask a core host."
            )
        self.declared: Mapping[str, Any] = self.stack.declared["core"]
        self.version = versions.parse(self.declared["version"])

    @property
    def active(self) -> bool:
        """Whether OpenHIM is to run on this host now."""
        return self.stack.core_is_active(self.host.id)

    @property
    def administrator(self) -> tuple[str, str]:
        """E-mail address and secret's name of the administrator as whom Salt uses the API."""
        declared = self.declared.get("administrator") or {}
        email = declared.get("email", versions.SHIPPED_ADMINISTRATOR)
        return email, declared.get("secret", "openhim_administrator")

    @property
    def responder_port(self) -> int:
        """The port of the responder on the loopback interface."""
        return int((self.declared.get("synthetic") or {}).get("port", RESPONDER_PORT))

    @cached_property
    def config(self) -> dict[str, Any]:
        """OpenHIM's configuration, with secrets."""
        return config.build(self.stack, self.pillar)

    def secret(self, name: str) -> str:
        """The value of a secret of the pillar, by name."""
        return secrets.lookup(self.pillar, name)

    def api(self, timeout: float = api.TIMEOUT) -> api.Api:
        """A client of this host's API as the administrator. timeout: seconds per request."""
        protocol, address, port = config.api_address(self.stack)
        email, secret = self.administrator
        return api.Api(
            protocol,
            address,
            port,
            email,
            self.secret(secret),
            basic=self.uses_basic_authentication,
            certificates=self.trusted_certificates(),
            timeout=timeout,
        )

    @property
    def uses_basic_authentication(self) -> bool:
        """Whether the API takes a user and password: as the version ships it, or as declared."""
        declared = ((self.declared.get("config") or {}).get("api") or {}).get("authenticationTypes")
        if isinstance(declared, list):
            return "basic" in declared
        return self.version.has_basic_authentication

    def trusted_certificates(self) -> list[str]:
        """PEM texts of the certificates that this host's API may show."""
        keystore = (self.stack.declared.get("objects") or {}).get("keystore") or {}
        files = [
            release.program(self.declared) / "resources/certs/default/cert.pem",
            Path(settings.TLS_DIRECTORY) / "host.crt",
            Path(settings.TLS_DIRECTORY) / "ca.crt",
        ]
        named = [self.declared.get("api_certificate"), keystore.get("certificate_file")]
        files += [Path(name) for name in named if name]
        texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
        return texts + ([keystore["certificate"]] if keystore.get("certificate") else [])

    def settings(self) -> dict[str, Any]:
        """What the state tree needs to install and run OpenHIM here: paths, unit, command, ports.

        Nothing in it is secret.
        """
        protocol, address, api_port = config.api_address(self.stack)
        _, http_port = config.router_address(self.stack)
        ports = self.stack.core_ports
        return {
            "active": self.active,
            "version": self.version.text,
            "root": release.ROOT,
            "release": str(release.directory(self.declared)),
            "current": str(release.current()),
            "directory": str(release.program(self.declared)),
            "config": config.CONFIG_FILE,
            "responder": RESPONDER_FILE,
            "state_directory": STATE_DIRECTORY,
            "unit": UNIT,
            "user": USER,
            "group": USER,
            "node_package": self.declared.get("node_package", "nodejs"),
            "command": self.command(),
            "environment": {},
            "ports": {**ports, "api": api_port, "http": http_port},
            "responder_port": self.responder_port,
            "api": f"{protocol}://{address}:{api_port}",
        }

    def command(
        self, current: Path | None = None, configuration: str = "", responder: str = ""
    ) -> list[str]:
        """OpenHIM's command line. Options with a path such as ``./preload.js`` are of the release.

        current: the release's directory. configuration, responder: paths of those files. The
        defaults are the places on a core host.
        """
        current = current or release.current()
        options = [
            str(current / option[2:]) if option.startswith("./") else option
            for option in self.declared.get("node_options") or []
        ]
        node = self.declared.get("node", "/usr/bin/node")
        return [
            node,
            *options,
            "--require",
            responder or RESPONDER_FILE,
            str(release.program(self.declared, current) / "lib/server.js"),
            f"--conf={configuration or config.CONFIG_FILE}",
        ]


def require_secret_name(definition: Mapping[str, Any], what: str) -> str:
    """The name of the secret in a definition; ``what`` names the object in the error."""
    name = definition.get("secret")
    if not isinstance(name, str) or not name:
        raise PillarError([f"{what}: found no `secret`; the name of a secret is needed."])
    return name
