"""A minion whose /etc and /var/lib are thrown away after the test, and kept between its calls."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

INSIDE = Path(__file__).with_name("inside.py")
REPOSITORY = Path(__file__).resolve().parents[2]


@functools.cache
def _salt():
    """The process that forks for each call; it ends when its stdin does, so with this one."""
    return subprocess.Popen(
        [sys.executable, str(INSIDE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "_utils")},
        text=True,
    )


class Minion:
    """One host's minion: its pillar, its options, and its disk.

    network: the path of the network namespace that it is in; this machine's when left out.
    """

    def __init__(self, name, pillar, folder, network=None):
        self.name = name
        self.pillar = pillar
        self.opts = {"file_client": "local"}
        self.folder = folder
        self._network = network
        (folder / "modules").mkdir(parents=True)

    def module(self, function, *args, **kwargs):
        return self._call("modules", function, args, kwargs)

    def state(self, function, *args, test=False, **kwargs):
        return self._call("states", function, args, kwargs, test=test)

    def disk(self):
        """Every file that the minion has written, by path, with its mode and content."""
        found = {}
        for top in ("etc", "var/lib"):
            upper = self.folder / "disk" / top / "upper"
            for path in sorted(upper.rglob("*")) if upper.exists() else ():
                if path.is_file() or path.is_symlink():
                    content = None if path.is_symlink() else path.read_text()
                    mode = oct(path.lstat().st_mode & 0o777)
                    found[f"/{top}/{path.relative_to(upper)}"] = (mode, content)
        return found

    def path(self, path):
        """Where a file that the minion has written is on this machine."""
        top = "etc" if path.startswith("/etc/") else "var/lib"
        return self.folder / "disk" / top / "upper" / path.removeprefix(f"/{top}/")

    def _call(self, kind, function, args, kwargs, test=False):
        opts = {
            "id": self.name,
            "pillar": self.pillar,
            "test": test,
            "module_dirs": [str(self.folder / "modules"), str(REPOSITORY / "_modules")],
            "states_dirs": [str(REPOSITORY / "_states")],
            "root_dir": str(self.folder),
            "cachedir": str(self.folder / "cache"),
            **self.opts,
        }
        request = {
            "opts": opts,
            "overlay": str(self.folder / "disk"),
            "network": self._network,
            "calls": [[kind, function, args, kwargs]],
        }
        salt = _salt()
        salt.stdin.write(json.dumps(request) + "\n")
        salt.stdin.flush()
        answer = json.loads(salt.stdout.readline())
        assert isinstance(answer, list), answer
        return answer[0]
