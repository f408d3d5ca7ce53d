"""Runs Salt's loader with an /etc and a /var/lib that are thrown away.

Importing Salt costs more than most calls, so one process imports it, reads a request per line from
stdin (JSON: ``opts``, ``overlay``, ``network``, ``calls``), and forks for each. The child is in a
mount namespace of its own, so the machine sees nothing of what the states write, and in a host's
network where one is named: then nft and every connection are that one's too. It writes one line:
the list of results, or the traceback as a text.
"""

import ctypes
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import salt.config
import salt.loader
from salt.exceptions import CommandExecutionError

WRITTEN = ("/etc", "/var/lib")
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


def main():
    # What Salt or a command prints is not an answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _answer(answers, json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            os.write(answers, f'"the process ended with {status}"\n'.encode())


def _answer(answers, request):
    try:
        found = _call(request)
    except BaseException:
        found = traceback.format_exc()
    with os.fdopen(answers, "w") as file:
        file.write(json.dumps(found) + "\n")


def _call(request):
    libc = ctypes.CDLL(None, use_errno=True)
    _must(libc.unshare(CLONE_NEWNS))
    if request["network"]:
        with Path(request["network"]).open() as namespace:
            _must(libc.setns(namespace.fileno(), CLONE_NEWNET))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
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
    return results


def _must(code):
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _overlay(path, folder):
    """Lays an own layer over a folder; it is kept between runs, as a host's disk is."""
    for name in ("upper", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={path},upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, path], check=True)


main()
