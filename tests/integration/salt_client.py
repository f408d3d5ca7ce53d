"""Runs in the Python of a site's Salt, reads commands from standard input and answers each.

One process for many commands: starting ``salt`` costs seconds each time. A line in is
``[kind, function, arguments, named]``, a line out ``[answer, exit code]``.
"""

import json
import os
import sys

import salt.client
import salt.config
import salt.runner


def main() -> None:
    """Answer until standard input ends. Arguments: the master's configuration, the minion's ID."""
    config, minion = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Salt prints is not an answer
    client = salt.client.LocalClient(config)
    for line in sys.stdin:
        kind, function, arguments, named = json.loads(line)
        if kind == "minion":
            done = client.cmd(
                minion, function, arguments, kwarg=named, timeout=120, full_return=True
            ).get(minion, {"ret": "no answer", "retcode": 1})
            answer = [done["ret"], done["retcode"]]
        else:
            # A new one each time: its loader remembers what was there before a sync.
            runner = salt.runner.RunnerClient(salt.config.master_config(config))
            done = runner.cmd(function, arguments, kwarg=named, full_return=True, print_event=False)
            answer = [done["return"], 0 if done["success"] else 1]
        print(json.dumps(answer, default=str), file=answers, flush=True)


main()
