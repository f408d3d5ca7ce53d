"""The real OpenHIM on restored data, inert and isolated: its declaration, and its process."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pymongo.database import Database
from saltext.openhim import files, settings
from saltext.openhim.backup import scratch
from saltext.openhim.core import config, host, objects, release, synthetic
from saltext.openhim.core.host import CoreHost
from saltext.openhim.drill import inert
from saltext.openhim.drill.isolation import Isolation
from saltext.openhim.errors import OpenHIMError, Unreachable
from saltext.openhim.schema import needs

#: Seconds that OpenHIM has to serve: it may have to bring old data up to date first.
START_SECONDS = 180.0
#: Seconds for one transaction, and between two tries while OpenHIM starts.
_TRANSACTION_SECONDS = 30.0
_PAUSE = 0.2


@dataclass(frozen=True)
class Program:
    """What is started: the release's folder, and as whom."""

    current: Path = Path(release.ROOT) / "current"
    user: str = host.USER
    group: str = host.USER


def declared(pillar: Mapping[str, Any], host_id: str, urls: Mapping[str, str]) -> dict[str, Any]:
    """The pillar of a core on this host whose databases are elsewhere, inert. Pure but for chance.

    urls: where the databases are, by ``main`` and ``audit``. No secret of the stack is in it: those
    that OpenHIM wants are made up, for it meets nobody who knows the real ones.
    """
    openhim = dict(pillar["openhim"])
    here = openhim["hosts"][host_id]
    openhim["hosts"] = {**openhim["hosts"], host_id: {**here, "roles": [*here["roles"], "core"]}}
    core = openhim["core"]
    ours = {
        "bindAddress": "127.0.0.1",
        "mongo": {
            "url": urls["main"],
            "atnaUrl": urls["audit"],
            "openHIMApiWriteConcern": "majority",
        },
    }
    changed = settings.merged(settings.merged(core.get("config") or {}, inert.CONFIG), ours)
    openhim["core"] = {**core, "config": changed}
    # What a recovery or a profile says is of the real hosts.
    openhim.pop("recovery", None)
    openhim["profile"] = "production"
    openhim["secrets"] = {
        name: secrets.token_hex(32) for name in needs.by_file(openhim, host_id)["core"]
    }
    return {"openhim": openhim}


def admit_synthetic(core: CoreHost, database: Database) -> None:
    """Lets the synthetic transaction of this drill in: a channel and a client with its password."""
    channel, client = synthetic.channel(core), synthetic.client(core)
    password = objects.hashed_for_client(core.secret(client.pop("secret")))
    name, client_id = synthetic.CHANNEL, synthetic.client_id(core)
    database.channels.delete_many({"name": name})
    database.channels.insert_one({**channel, "name": name})
    database.clients.delete_many({"clientID": client_id})
    database.clients.insert_one({**client, **password, "clientID": client_id})


class InertCore:
    """A context manager: OpenHIM runs in an isolated place in the block.

    core: as :func:`declared` has it. parent: where its files are kept meanwhile.
    """

    def __init__(self, core: CoreHost, place: Isolation, parent: Path, program: Program):
        self._core, self._place, self._parent, self._program = core, place, parent, program
        self._folder: Path | None = None
        self._lock = -1
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> InertCore:
        self._folder, self._lock = scratch.own_folder(self._parent)
        try:
            self._process = self._start(self._folder)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            # The place's end is OpenHIM's; this is only the program that entered it.
            self._process.kill()
            self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        user, group = self._program.user, self._program.group
        # OpenHIM's user passes through, and has a folder of its own.
        folder.chmod(0o711)
        own = folder / "core"
        own.mkdir(mode=0o700)
        shutil.chown(own, user, group)
        configuration, responder = str(own / "core.json"), str(own / "responder.js")
        files.write(configuration, json.dumps(self._core.config).encode(), 0o600, user, group)
        script = synthetic.responder(self._core.responder_port).encode()
        files.write(responder, script, 0o600, user, group)
        command = self._core.command(self._program.current, configuration, responder)
        return self._place.start(command, own, user, group, own / "log")

    def check(self) -> None:
        """Raises OpenHIMError when OpenHIM runs no longer."""
        assert self._process is not None
        self._place.check()
        if self._process.poll() is not None:
            raise OpenHIMError(f"OpenHIM ended with {self._process.returncode}")

    def transaction(self) -> dict[str, Any]:
        """Waits until OpenHIM serves a synthetic transaction; what was found of it.

        Raises OpenHIMError when it ends, or does not serve within :data:`START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.check()
            except OpenHIMError as error:
                raise OpenHIMError(f"{error} before it served: {self._last_words()}") from error
            try:
                return self._place.inside(lambda: synthetic.run(self._core, _TRANSACTION_SECONDS))
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise OpenHIMError(
                        f"OpenHIM did not serve within {START_SECONDS:.0f} s: {error}"
                    ) from error
                time.sleep(_PAUSE)

    def _last_words(self) -> str:
        """The end of what OpenHIM printed; it had served nobody yet, so it quotes no patient."""
        assert self._folder is not None
        text = (self._folder / "core" / "log").read_text(encoding="utf-8", errors="replace")
        # A stack trace follows what it is about.
        errors = list(re.finditer(r"^\w*Error\b", text, re.MULTILINE))
        told = text[errors[-1].start() :][:500] if errors else text[-500:]
        return " ".join(str(config.masked(told)).split()) or "it left no word"
