"""Real restic, and real servers for its repositories: SFTP, REST in append-only mode, S3."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from saltext.openhim.backup.repository import Repository

from tests import ports

PASSWORD = "a-password-that-nobody-sees"
PATIENCE = 120


@contextlib.contextmanager
def server(command, port, log, **options):
    """A server that answers on its port; ended with all that it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=out, **options
        )
        try:
            answers(process, port, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(process, port, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    pytest.fail(f"no server on port {port}: {log.read_text()}")


@dataclass
class Rest:
    """rclone's REST server over a folder, as a producer sees it."""

    port: int
    folder: Path
    user: str
    password: str

    def url(self, port=None):
        return f"rest:http://{self.user}:{self.password}@127.0.0.1:{port or self.port}/"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def make(tmp_path, cache):
    """A factory: a repository object with little patience; local unless a URL is given."""

    def factory(url=None, password=PASSWORD, **options):
        options = {"timeout": 60, "stall": 30, "lock_wait": 1, "cache_dir": cache, **options}
        return Repository(str(url or tmp_path / "repository"), password, **options)

    return factory


@pytest.fixture(scope="session")
def initialised(tmp_path_factory):
    """A local repository made once: deriving a key takes a while."""
    folder = tmp_path_factory.mktemp("initialised") / "repository"
    Repository(str(folder), PASSWORD, cache_dir=None).initialise()
    return folder


@pytest.fixture
def local(make, initialised, tmp_path):
    """A local repository that is initialised."""
    shutil.copytree(initialised, tmp_path / "repository")
    return make()


@pytest.fixture
def rest(tmp_path):
    """rclone serve restic --append-only, with a user and a password."""
    folder = tmp_path / "rest"
    folder.mkdir()
    found = Rest(ports.free(), folder, "producer", secrets.token_urlsafe(12))
    command = ["rclone", "serve", "restic", "--append-only", "--addr", f"127.0.0.1:{found.port}"]
    environment = {
        **os.environ,
        "RCLONE_USER": found.user,
        "RCLONE_PASS": found.password,
        "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
    }
    with server([*command, folder], found.port, tmp_path / "rclone.log", env=environment):
        yield found


@pytest.fixture
def sftp(tmp_path, make):
    """A repository behind an sshd of our own, with a host key of its own."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host", "client"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True)
    shutil.copy(folder / "client.pub", folder / "authorized")
    port = ports.free()
    public = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    ssh = f"ssh -p {port} -i {folder}/client -o BatchMode=yes -o IdentitiesOnly=yes"
    ssh += f" -o UserKnownHostsFile={folder}/known root@127.0.0.1 -s sftp"
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "config"]
    with server(command, port, folder / "log"):
        yield make(f"sftp:root@127.0.0.1:{tmp_path}/by-sftp", options=[f"sftp.command={ssh}"])


@pytest.fixture
def s3(tmp_path, make):
    """A repository in a bucket of moto's S3 server."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not in this environment; `make` sets one up that has it")
    port = ports.free()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with server(command, port, tmp_path / "moto.log"):
        yield make(
            f"s3:http://127.0.0.1:{port}/bucket",
            environment={
                "AWS_ACCESS_KEY_ID": "producer",
                "AWS_SECRET_ACCESS_KEY": "the-secret-access-key",
            },
        )


class Wire:
    """A line to a server that is cut, or goes silent, after some bytes went up it."""

    def __init__(self, target, after, silent):
        self.target, self.after, self.silent = target, after, silent
        self.carried = 0
        self.broken = threading.Event()
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.connections += [near, far]
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source, to, upwards):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.carried += len(data) if upwards else 0
                if self.carried > self.after:
                    self._break()
                if self.broken.is_set():
                    return
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    def _break(self):
        self.broken.set()
        if not self.silent:
            self.listener.close()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def wire():
    """A factory of lines that break: ``wire(port, after=bytes, silent=False)``."""
    made = []

    def factory(target, after, silent=False):
        made.append(Wire(target, after, silent))
        return made[-1]

    yield factory
    for one in made:
        one.close()


@pytest.fixture
def mount(tmp_path):
    """A factory of folders on a mount of their own: small, or read-only."""
    mounted = []

    def factory(*arguments):
        folder = tmp_path / f"mount-{len(mounted)}"
        folder.mkdir()
        subprocess.run(["mount", *arguments, str(folder)], check=True)
        mounted.append(folder)
        return folder

    yield factory
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def stale_lock():
    """Leaves the exclusive lock of a restic that was killed, with its real process ID."""

    def leave(repository):
        process = subprocess.Popen(
            ["restic", "--no-cache", "-r", repository.url, "check", "--read-data"],
            env={**os.environ, "RESTIC_PASSWORD": repository.password},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        locks = Path(repository.url) / "locks"
        # While it is written, a lock has a longer name.
        while process.poll() is None and not any(len(lock.name) == 64 for lock in locks.iterdir()):
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert list(locks.iterdir()), "the check was over before it was killed"
        return process.pid

    return leave
