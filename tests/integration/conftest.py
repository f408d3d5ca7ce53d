"""Real masters and minions, whose Salt runs in environments of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltfactories.daemons.minion import SaltMinion
from saltfactories.manager import FactoriesManager

from lab import environments, secrets
from tests import ports
from tests.authority import Authority, pem
from tests.listener import Listener, listening

REPOSITORY = environments.REPOSITORY
HOST = "north-db1"


@dataclass
class Answer:
    """What a function of Salt returned, and the exit code that its command would have."""

    data: Any
    returncode: int


class MinionOnItsOwnDisk(SaltMinion):
    """Keeps what a host remembers of recoveries for itself: two minions here are two hosts."""

    def cmdline(self, *args: str) -> list[str]:
        own = Path(self.config_dir) / "disk"
        own.mkdir(exist_ok=True)
        script = """\
mount --make-rprivate /
mkdir -p "$0/upper" "$0/work" "$0/known"
mount -t overlay overlay /var/lib -o lowerdir=/var/lib,upperdir="$0/upper",workdir="$0/work"
mkdir -p /var/lib/saltext-openhim
mount --bind "$0/known" /var/lib/saltext-openhim
exec "$@"
"""
        command = super().cmdline(*args)
        return ["unshare", "--mount", "sh", "-ec", script, str(own), *command]


class Site:
    """A master and one minion, a host of the example pillar, and commands for both."""

    def __init__(
        self,
        kind: str,
        environment: Path,
        root: Path,
        roots: list[Path],
        events: Any,
        settings: Mapping[str, Any] | None = None,
        log_level: str = "debug",
        host: str = HOST,
    ):
        self.kind = kind
        self.host = host
        self.environment = environment
        self.root = root
        self.pillar = root / "pillar"
        self.records = root / "records"
        self.orchestrations = root / "orchestrations"  # those of a test's own
        self.orchestrations.mkdir()
        shutil.copytree(REPOSITORY / "pillar", self.pillar)
        declared = yaml.safe_load((self.pillar / "openhim" / "production.sls").read_text())
        secrets.write(declared, root / "secrets")
        factories = FactoriesManager(
            root_dir=root / "salt",
            scripts_dir=environment / "bin",
            log_server_host="127.0.0.1",
            log_server_port=0,
            log_server_level="error",
            slow_stop=False,
            start_timeout=60,
            stats_processes=None,
            event_listener=events,
        )
        self.master = factories.salt_master_daemon(
            f"{kind}-master",
            defaults={
                "file_roots": {"base": [str(folder) for folder in (*roots, self.orchestrations)]},
                "pillar_roots": {"base": [str(self.pillar), str(root / "secrets")]},
                "ext_pillar": [{"openhim_recovery": str(self.records)}],
                "auto_accept": True,
                **(settings or {}),
            },
            overrides={
                "interface": "127.0.0.1",
                "worker_threads": 3,
                "log_level_logfile": log_level,
            },
        )
        self.minion = self.master.salt_minion_daemon(
            host,
            factory_class=MinionOnItsOwnDisk,
            defaults={
                "enable_fqdns_grains": False,
                "grains_cache": True,
                "features": {"x509_v2": True},  # the default from Salt 3008 on
            },
            overrides={"log_level_logfile": log_level},
        )

    def salt(self, function: str, *arguments: Any, **named: Any) -> Answer:
        """What ``salt HOST FUNCTION`` returns."""
        return self._ask("minion", function, arguments, named)

    def run(self, function: str, *arguments: Any, **named: Any) -> Answer:
        """What ``salt-run FUNCTION`` returns."""
        return self._ask("runner", function, arguments, named)

    def _ask(self, *command: Any) -> Answer:
        self.client.stdin.write(json.dumps(command) + "\n")
        self.client.stdin.flush()
        line = self.client.stdout.readline()
        assert line, "the client of Salt has ended; what it said is in the test's output"
        return Answer(*json.loads(line))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The daemons and the client run, for as long as the context lasts."""
        program = Path(__file__).with_name("salt_client.py")
        with self.master.started(), self.minion.started():
            self.client = subprocess.Popen(
                [
                    self.environment / "bin" / "python",
                    program,
                    self.master.config_file,
                    self.host,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd="/",
            )
            try:
                yield
            finally:
                self.client.stdin.close()
                self.client.wait(30)

    def log(self) -> str:
        """All that the master and the minion have logged."""
        return "".join(path.read_text() for path in self.root.rglob("*.log"))

    def secrets(self) -> dict[str, str]:
        """Every secret of the pillar, by its name."""
        return {
            name: value
            for file in (self.root / "secrets" / "secrets").glob("*.sls")
            for name, value in json.loads(file.read_text())["openhim"]["secrets"].items()
        }

    @contextmanager
    def changed_pillar(self, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """The example pillar with a change, for as long as the context lasts."""
        path = self.pillar / "openhim" / "production.sls"
        before = path.read_text()
        declared = yaml.safe_load(before)
        change(declared["openhim"])
        try:
            path.write_text(json.dumps(declared))
            yield
        finally:
            path.write_text(before)


@contextmanager
def started(
    kind: str,
    environment: Path,
    roots: list[Path],
    events: Any,
    settings: Mapping[str, Any] | None = None,
    log_level: str = "debug",
    host: str = HOST,
) -> Iterator[Site]:
    """A site whose daemons run, and are gone afterwards; ``settings`` are the master's."""
    root = Path(tempfile.mkdtemp(prefix="salt-"))
    try:
        site = Site(kind, environment, root, roots, events, settings, log_level, host)
        with site.running():
            yield site
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="package")
def installed(event_listener: Any) -> Iterator[Site]:
    """The package is installed with pip; file_roots hold nothing of it."""
    with tempfile.TemporaryDirectory(prefix="installed-") as folder:
        environment = Path(folder) / "environment"
        environments.install(environment)
        empty = Path(folder) / "empty"
        empty.mkdir()
        with started("installed", environment, [empty], event_listener) as site:
            yield site


@pytest.fixture(scope="package")
def people() -> Iterator[Listener]:
    """Those whom the master of ``synced`` notifies."""
    with listening() as listener:
        yield listener


@dataclass
class Door:
    """Where salt-api of ``synced`` listens, and to whom it opens."""

    folder: Path
    port: int
    user: str = "duty"
    password: str = "told to those on duty"

    @property
    def served(self) -> Path:
        """The folder that it shows to everybody."""
        return self.folder / "status"

    def settings(self) -> dict[str, Any]:
        """Of the master, as docs/topics/status-page.md has them; only the login is another."""
        return {
            "rest_cherrypy": {
                "host": "127.0.0.1",
                "port": self.port,
                "ssl_crt": str(self.folder / "api.crt"),
                "ssl_key": str(self.folder / "api.key"),
                "static": str(self.served),
            },
            "netapi_enable_clients": ["runner"],
            "external_auth": {
                "file": {
                    "^filename": str(self.folder / "users"),
                    "^hashtype": "sha256",
                    self.user: [{"@runner": ["openhim_dr.report"]}],
                }
            },
        }

    def made(self) -> Door:
        """Its files are there."""
        authority = Authority()
        certificate, key = authority.issue(["127.0.0.1"])
        for name, content in (
            ("ca.crt", pem(authority.certificate)),
            ("api.crt", certificate),
            ("api.key", key),
            ("users", f"{self.user}:{sha256(self.password.encode()).hexdigest()}\n".encode()),
        ):
            (self.folder / name).write_bytes(content)
        self.served.mkdir()
        return self


@pytest.fixture(scope="package")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    """Where salt-api of ``synced`` listens, when a test starts it."""
    return Door(tmp_path_factory.mktemp("api"), ports.free()).made()


@pytest.fixture(scope="package")
def synced(event_listener: Any, people: Listener, door: Door) -> Iterator[Site]:
    """The package is served from file_roots; nothing but Salt and PyMongo is installed."""
    roots, plain = [REPOSITORY / "salt"], environments.plain()
    settings = {
        **door.settings(),
        "openhim_notify": people.url("hooks"),
        "reactor": [
            {"salt/beacon/*/openhim_backup/*": ["salt://reactor/backups.sls"]},
            {"openhim/emergency/*": ["salt://reactor/emergency.sls"]},
            {"openhim/break_glass/*": ["salt://reactor/emergency.sls"]},
        ],
    }
    with started("synced", plain, roots, event_listener, settings) as site:
        yield site


@pytest.fixture(scope="package", params=["installed", "synced"])
def site(request: pytest.FixtureRequest) -> Site:
    """Both ways of use; of the second one, after both syncs."""
    site = request.getfixturevalue(request.param)
    if site.kind == "synced":
        assert site.salt("saltutil.sync_all").returncode == 0
        assert site.run("saltutil.sync_all").returncode == 0
    return site


def modules(folder: str) -> list[str]:
    """The names of this package's Salt modules of one kind: ``_modules``, ``_states``…"""
    return sorted(p.stem for p in (REPOSITORY / folder).glob("*.py") if p.stem != "__init__")


def python(environment: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in an environment, from a folder that is not the repository."""
    return subprocess.run(
        [environment / "bin" / "python", "-c", code],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
