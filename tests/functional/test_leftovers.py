"""A killed test run leaves no server behind."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.functional.conftest import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
#: Starts a grandchild in a session of its own, as a daemon is, says its number, and waits.
RUN = """
import subprocess, time
from tests import leftovers
leftovers.watch()
server = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(server.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_run_takes_its_servers_with_it():
    run = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    server = psutil.Process(int(run.stdout.readline()))
    run.kill()
    run.communicate()
    eventually(lambda: not server.is_running() or server.status() == "zombie", what="its end")
