"""Runs Salt's loader with an /etc and a /var/lib that are thrown away.

Started by ``unshare --mount`` or ``ip netns exec`` (then nft and every connection are the network
namespace's too), so it is in a mount namespace of its own and the machine sees nothing of what the
states write. Reads JSON from stdin (``opts``, ``overlay``, ``calls``) and writes the list of
results as JSON to stdout.
"""

import json
import subprocess
import sys
from pathlib import Path

import salt.config
import salt.loader
from salt.exceptions import CommandExecutionError

WRITTEN = ("/etc", "/var/lib")


def main():
    request = json.load(sys.stdin)
    for path in WRITTEN:
        _overlay(path, Path(request["overlay"]) / path.strip("/"))
    opts = salt.config.minion_config(None)
    opts.update(request["opts"])
    opts["grains"] = {"os_family": "Debian", "kernel": "Linux"}
    functions = salt.loader.minion_mods(opts)
    states = salt.loader.states(opts, functions, {}, {})
    results = []
    for kind, name, args, kwargs in request["calls"]:
        loaded = states if kind == "states" else functions
        try:
            results.append(loaded[name](*args, **kwargs))
        except CommandExecutionError as error:
            results.append({"error": str(error)})
    json.dump(results, sys.stdout)


def _overlay(path, folder):
    """Lays an own layer over a folder; it is kept between runs, as a host's disk is."""
    for name in ("upper", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={path},upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, path], check=True)


main()
