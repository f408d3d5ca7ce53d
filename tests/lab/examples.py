"""The documentation's examples, as a stack that is well can carry them out.

An example is typed as it is written. States and orchestrations are previewed (``test=True``). What
else is changed, refused, or left out is in the table below, each with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.stack import Stack
from tests.answers import NOT_UNDERSTOOD
from tests.unit.docs.written import Example

#: Of one that was understood, and still did nothing.
FAILED = (
    "Traceback",
    "Refused: ",
    "did not return",
    "No minions matched",
    "ERROR",
    "Result: False",
)

#: These act, and can say instead what they would do.
PREVIEWED = ("state.apply", "state.highstate", "state.orchestrate")

#: Where somebody types ``salt-call``: on the host that has what is asked for.
CALLED_ON = {"openhim_backup.status": "south-db1", "openhim.healthy": "north-core"}


@dataclass(frozen=True)
class Otherwise:
    """What differs for the examples that begin so, and why.

    instead: words that are typed for others. said: what the right answer says, where it is that it
    cannot be done; fails: whether it then fails, as it does not where somebody only asked; None
    where both are right. left_out: it is not typed at all.
    """

    begins: str
    why: str
    instead: Mapping[str, str] = field(default_factory=dict)
    said: str = ""
    fails: bool | None = False
    left_out: bool = False


#: The first one that fits counts.
TABLE: Sequence[Otherwise] = (
    # What the stack of the tests does not have as the documentation has it.
    Otherwise(
        "salt-run openhim_dr.after_action example 3 by=Ben done=41",
        "the recovery is its first, and its corrective action has another number",
        instead={"3": "1", "done=41": "{action}"},
    ),
    Otherwise(
        "salt-run openhim_dr.after_action example 3",
        "the recovery on its record is the first",
        instead={"3": "1"},
    ),
    Otherwise(
        "salt-run openhim_dr.status example",
        "it is an hour old at most, and not every repository has all that it will have",
        said="Backups of example: ",
        fails=None,
    ),
    Otherwise(
        "salt-run openhim_dr.drills example",
        "not every kind of drill was passed yet, and its exit code says so",
        said="tabletop",
        fails=None,
    ),
    Otherwise(
        "salt-run openhim_dr.tabletop example primary-site-is-cut-off by=Ada answers=",
        "nobody has written the answers into that file",
        said="answers: the file cannot be read",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.tabletop example dead-minion by=Ada 'names=",
        "the names are those of another stack's sites and hosts",
        said="found 'dublin-db1'; allowed a host: master, north-core",
        fails=True,
    ),
    # What is refused while all is well.
    Otherwise(
        "salt-run state.orchestrate orch.failover",
        "nothing is lost",
        said="Refused: openhim/north-db1:27017: PRIMARY",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.failover_plan",
        "nothing is lost; the reasons are the answer",
        said="openhim/north-db1:27017: PRIMARY",
    ),
    Otherwise(
        'salt-run state.orchestrate orch.restore \'pillar={"restore": {"confirm": "example", '
        '"to_time"',
        "the archive began after that time",
        said="2026-01-31T11:59:59Z (1769860799.0) can't be reached",
        fails=True,
    ),
    Otherwise(
        "salt-run state.orchestrate orch.core",
        "OpenHIM runs where it should",
        said="Refused: OpenHIM runs on north-core and is not fenced",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.withdraw",
        "no failover was declared",
        said="the newest recovery is none that is still under way and promotes somebody",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.rejoin_plan",
        "north is the active site",
        said="- north is the active site; only others rejoin it",
    ),
    Otherwise(
        "salt-run state.orchestrate orch.rejoin",
        "north is the active site",
        said="Refused: north is the active site; only others rejoin it",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.move_plan verb=failback",
        "north is the active site",
        said="- north is the active site already; there is nothing to move",
    ),
    Otherwise(
        "salt-run state.orchestrate orch.failback",
        "north is the active site",
        said="Refused: north is the active site already; there is nothing to move",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.rebuild_plan",
        "the example has no hosts there",
        said="found 'west', where no member of the replica set is declared",
    ),
    Otherwise(
        "salt-run state.orchestrate orch.rebuild",
        "the example has no hosts there",
        said="found 'west', where no member of the replica set is declared",
        fails=True,
    ),
    # What the example pillar does not declare.
    Otherwise(
        "salt-run openhim_dr.points_to",
        "the example declares no cut-over",
        said="openhim:cut_over: found nothing",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.cut_over",
        "the example declares no cut-over",
        said="openhim:cut_over: found nothing",
        fails=True,
    ),
    Otherwise(
        "salt south-db1 openhim_backup.recovery_key_add",
        "the example has a recovery key for the start bundle alone",
        said="openhim:backup:recovery_secret: found nothing",
        fails=True,
    ),
    Otherwise(
        "salt master openhim_lease.granted",
        "the example has no lease, and so no witness of it",
        said="this host is not the witness of the lease",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_dr.ledger",
        "there was no failover yet",
        said="no failover of 'example' is on record, so there is no ledger of one",
        fails=True,
    ),
    Otherwise(
        "salt-run openhim_watch.notify",
        "the master of the tests notifies nobody",
        said="openhim_notify: found nothing",
        fails=True,
    ),
    # What is not typed.
    Otherwise(
        "salt-run state.event openhim/backup/configured",
        "it waits for an event of the restore below it, which is left out",
        left_out=True,
    ),
    Otherwise(
        "salt north-core service.start openhim-core",
        "it is for after that restore",
        left_out=True,
    ),
    Otherwise(
        "salt south-db1 openhim_backup.restore latest overwrite=True",
        "it replaces all data, on empty sets without OpenHIM; it has no preview",
        left_out=True,
    ),
    Otherwise(
        "salt -L north-db1,north-db2,north-core openhim_fence.fence",
        "it stops the active site, and has no preview",
        left_out=True,
    ),
    Otherwise(
        "salt north-db1 openhim_ledger.keep",
        "it names the moment at which two histories parted, and there is one history",
        left_out=True,
    ),
)


def otherwise(example: Example) -> Otherwise:
    """What the table says of an example."""
    plain = Otherwise("", "it is typed as it is written")
    return next((one for one in TABLE if example.typed.startswith(one.begins)), plain)


def typed(example: Example, values: Mapping[str, str]) -> list[str]:
    """The words that are typed. values: of the names in braces that the table has."""
    instead = otherwise(example).instead
    words = [instead.get(word, word) for word in example.words]
    words = [values.get(word, word) for word in words]
    acts = any(word in PREVIEWED for word in words)
    return [*words, "test=True"] if acts and "test=True" not in words else words


def problem(running: Stack, example: Example, values: Mapping[str, str]) -> str | None:
    """Type it, and say what is wrong with the answer; None when nothing is."""
    rule = otherwise(example)
    words = typed(example, values)
    done = running.lab.host(_host(example)).run(words, check=False, timeout=600)
    said = done.stdout + done.stderr
    print(f"{example.page}: {words}: {done.returncode}\n{said[-1500:]}")
    wrong = [word for word in NOT_UNDERSTOOD if word in said]
    if rule.said:
        wrong += [] if rule.said in said else [f"no {rule.said!r}"]
    else:
        wrong += [word for word in FAILED if word in said]
        wrong += [] if said.strip() else ["silence"]
    if rule.fails is not None and bool(done.returncode) is not rule.fails:
        wrong.append(f"exit code {done.returncode}")
    return f"{example.page}: {words}: {wrong}\n{said[-3000:]}" if wrong else None


def _host(example: Example) -> str:
    """Where it is typed."""
    if example.words[0] != "salt-call":
        return "master"
    return next((CALLED_ON[word] for word in example.words if word in CALLED_ON), "north-db1")
