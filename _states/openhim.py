"""OpenHIM core as desired state: installed, configured, healthy, and the objects inside it.

All states read the stack from the minion's pillar, and take the *names* of secrets, never their
values. In test mode nothing is written, and what would change is told. After writing, what was
written is read back through OpenHIM's API.

On a core host whose site is not the active one OpenHIM is installed, configured and kept stopped:
the other states say so there and change nothing.
"""

from __future__ import annotations

import functools
import json
import shutil
import socket
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError
from saltext.openhim import files
from saltext.openhim.core import (
    config,
    database,
    health,
    objects,
    release,
    synthetic,
)
from saltext.openhim.core import host as hosts
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError, Unreachable

_CONFIG_MODE = 0o600
_RESPONDER_MODE = 0o644

#: Seconds in which a TCP channel that was just declared begins to listen by itself.
_LISTEN_TIMEOUT = 2.0


def _state(function):
    """What goes wrong on purpose is the result False and a comment in words, never a traceback.

    In test mode, an OpenHIM that does not run (yet) leaves open what would be changed in it: that
    is None, since the states before may be about to start it.
    """

    @functools.wraps(function)
    def wrapper(name, *args, **kwargs):
        try:
            return function(name, *args, **kwargs)
        except Unreachable as error:
            if __opts__["test"]:
                return _said(name, None, f"not known, because it cannot be asked: {error}")
            return _said(name, False, str(error))
        except (OpenHIMError, CommandExecutionError) as error:
            return _said(name, False, str(error))

    return wrapper


def _core():
    return CoreHost(__pillar__, __opts__["id"])


def _said(name, result, comment, changes=None):
    return {"name": name, "changes": changes or {}, "result": result, "comment": comment}


def _inactive(name, core):
    return _said(
        name,
        True,
        f"OpenHIM is not active on this host: the active site is {core.stack.active_site}, and "
        "this host "
        f"is at {core.host.site}",
    )


def pillar_checked(name):
    """
    The pillar of this minion is allowed. The first state of every run: what follows requires it.

    name
        Any text; it says so in the state's ID.

    Changes nothing, in test mode or not. The result is False when the pillar is not allowed, with
    all problems in the comment.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        found = __salt__["openhim.pillar_check"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    ret["comment"] = (
        f"the pillar of the stack {found['stack']} is allowed: profile {found['profile']}, "
        f"{len(found['hosts'])} hosts"
    )
    return ret


@_state
def installed(name, root=None):
    """
    The declared release of OpenHIM core is installed whole, and is the current one.

    The release is made beside its place and renamed when it is whole; what an interrupted
    installation left is removed. Former releases stay, for the way back. OpenHIM is not restarted
    here: let its service watch this state.

    name
        Any text; it says so in the state's ID.

    root
        Where releases are kept. Default is ``/opt/openhim``.

    .. code-block:: yaml

        OpenHIM is installed:
          openhim.installed: []
    """
    core = _core()
    root = root or release.ROOT
    target, link = release.directory(core.declared, root), release.current(root)
    missing = release.problem(core.declared, target)
    changes = {}
    if missing:
        changes["release"] = {"old": None, "new": str(target)}
    if not release.is_current(link, target):
        old = str(link.readlink()) if link.is_symlink() else None
        changes["current"] = {"old": old, "new": str(target)}
    if not changes:
        return _said(name, True, f"OpenHIM core {core.version.text} is installed in {target}")
    if __opts__["test"]:
        return _said(
            name, None, f"OpenHIM core {core.version.text} would be installed in {target}", changes
        )
    if missing:
        _install(core, target)
    release.switch(link, target)
    left = release.problem(core.declared, link)
    if left:
        return _said(name, False, f"after the installation, {left}", changes)
    return _said(name, True, f"OpenHIM core {core.version.text} was installed in {target}", changes)


def _install(core, target):
    if release.method(core.declared) == "archive":
        release.unpack(_archive(core), core.declared, target)
        return
    partial = release.clean(target)
    try:
        release.npm_project(core.declared, partial)
        done = __salt__["cmd.run_all"](
            ["npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=str(partial),
            python_shell=False,
            # Its own cache, inside what is removed again: nothing depends on root's home.
            env={"npm_config_cache": str(partial / ".npm"), "npm_config_update_notifier": "false"},
        )
        if done["retcode"]:
            raise CommandExecutionError(
                f"npm could not install openhim-core {core.version.text}: "
                f"{(done['stderr'] or done['stdout']).strip()[-1000:]}"
            )
        shutil.rmtree(partial / ".npm", ignore_errors=True)
        release.npm_files(core.declared, partial)
        release.finish(partial, core.declared, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _archive(core):
    """The release archive on this host, its hash checked."""
    install = core.declared.get("install") or {}
    source, wanted = install.get("source"), install.get("source_hash")
    if not source or not wanted:
        raise CommandExecutionError(
            "openhim:core:install: the method archive needs source (salt:// or a URL) and "
            "source_hash"
        )
    saltenv = str(globals().get("__env__") or "base")
    expected = __salt__["file.get_source_sum"](
        source=source, source_hash=wanted, saltenv=saltenv, source_hash_name=Path(source).name
    )
    cached = __salt__["cp.cache_file"](source, saltenv, source_hash=expected["hsum"])
    if not cached:
        raise CommandExecutionError(f"the release archive {source} cannot be fetched")
    found = __salt__["file.get_hash"](cached, expected["hash_type"])
    if found != expected["hsum"]:
        raise CommandExecutionError(
            f"the release archive {source} has the {expected['hash_type']} {found}; declared is "
            f"{expected['hsum']}. Nothing was installed."
        )
    return cached


@_state
def configured(name, config_file=None, responder=None, user=None, group=None):
    """
    OpenHIM's configuration file is as declared, readable by OpenHIM's user alone; and the responder
    for synthetic transactions, which OpenHIM loads at its start, is beside it.

    Changes show which keys differ, with every secret hidden. OpenHIM reads both files at its start:
    let its service watch this state.

    name
        Any text.

    config_file
        Default is ``/etc/openhim/core.json``.

    responder
        Default is ``/etc/openhim/responder.js``.

    user, group
        Owner of the configuration. Default is ``openhim``.

    .. code-block:: yaml

        OpenHIM is configured:
          openhim.configured: []
    """
    core = _core()
    path = config_file or config.CONFIG_FILE
    user, group = user or hosts.USER, group or user or hosts.USER
    text = (json.dumps(core.config, indent=2, sort_keys=True) + "\n").encode()
    script = synthetic.responder(core.responder_port).encode()
    wanted = (
        (path, text, _CONFIG_MODE, user, group),
        (responder or hosts.RESPONDER_FILE, script, _RESPONDER_MODE, "root", "root"),
    )
    found = {entry[0]: files.differences(*entry) for entry in wanted}
    changes = {where: differences for where, differences in found.items() if differences}
    if not changes:
        return _said(name, True, f"OpenHIM is configured in {path}")
    if "content" in changes.get(path, {}):
        changes[path]["content"] = config.difference(_read(path), core.config)
    if __opts__["test"]:
        return _said(name, None, f"OpenHIM's configuration in {path} would be written", changes)
    for entry in wanted:
        if entry[0] in changes:
            files.write(*entry)
    left = [entry[0] for entry in wanted if files.differences(*entry)]
    if left:
        return _said(
            name, False, f"written, but it reads back differently: {', '.join(left)}", changes
        )
    return _said(name, True, f"OpenHIM's configuration in {path} was written", changes)


def _read(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@_state
def database_writable(name, timeout=60):
    """
    OpenHIM's databases take writes from OpenHIM's user. Waits for it, and changes nothing.

    name
        Any text.

    timeout
        Seconds to wait. Default is ``60``; in test mode it is asked once.
    """
    core = _core()
    if not core.active:
        return _inactive(name, core)
    if __opts__["test"]:
        try:
            database.wait_writable(core, 1)
        except OpenHIMError as error:
            return _said(name, None, f"it would be waited for: {error}")
    else:
        database.wait_writable(core, timeout)
    return _said(name, True, "OpenHIM's databases take writes")


@_state
def running(name, timeout=60):
    """
    OpenHIM's API answers. Waits for it after the service was started, and changes nothing.

    name
        Any text.

    timeout
        Seconds to wait. Default is ``60``; in test mode it is asked once.
    """
    core = _core()
    if not core.active:
        return _inactive(name, core)
    if __opts__["test"]:
        try:
            core.api().wait(0)
        except OpenHIMError as error:
            return _said(name, None, f"it would be waited for: {error}")
    else:
        core.api().wait(timeout)
    return _said(name, True, "OpenHIM's API answers")


@_state
def healthy(name, timeout=60):
    """OpenHIM's API answers, the declared version runs, and MongoDB takes OpenHIM's writes (a mark
    in the synthetic client, so ``synthetic_present`` comes first). Waits for the API. Reports no
    changes; in test mode nothing is written, and only the rest is checked.

    name
        Any text.

    timeout
        Seconds to wait for the API, and for each request. Default is ``60``.
    """
    core = _core()
    if not core.active:
        return _inactive(name, core)
    if __opts__["test"]:
        try:
            core.api().get("about")
        except OpenHIMError as error:
            return _said(name, None, f"it would be waited for: {error}")
        return _said(name, True, "OpenHIM's API answers; its writes are not tried in test mode")
    core.api().wait(timeout)
    found = health.check(core, timeout)
    return _said(
        name,
        True,
        f"OpenHIM {found['version']} is up and MongoDB took its write in "
        f"{found['write_seconds']} s",
    )


@_state
def restarted(name, timeout=60):
    """
    OpenHIM's servers are restarted through the API. Always a change: use it with ``onchanges``.

    name
        Any text.

    timeout
        Seconds to wait until they are back. Default is ``60``.
    """
    core = _core()
    if not core.active:
        return _inactive(name, core)
    changes = {"restarted": {"old": None, "new": "OpenHIM's servers"}}
    if __opts__["test"]:
        return _said(name, None, "OpenHIM would be restarted", changes)
    seconds = core.api().restart(timeout)
    return _said(name, True, f"OpenHIM was restarted and answered after {seconds:.1f} s", changes)


@_state
def administrator_present(name, timeout=60):
    """
    The administrator has the declared password, instead of the one that OpenHIM ships and everybody
    knows. Waits for OpenHIM's API.

    name
        Any text; the user and the secret's name are ``openhim:core:administrator``.

    timeout
        Seconds to wait for the API. Default is ``60``; in test mode it is not waited for.
    """
    core = _core()
    if not core.active:
        return _inactive(name, core)
    if not __opts__["test"]:
        core.api().wait(timeout)
    return _applied(name, core, lambda api: objects.administrator_plan(core))


@_state
def channel_present(name, definition, restart=True):
    """
    A channel is in OpenHIM, with the declared keys; others stay as they are.

    name
        The channel's name.

    definition
        OpenHIM's own keys (``urlPattern``, ``routes`` …). The ``host`` of a route may be a mapping
        from site to host, of which the active site's is taken. ``secret`` in a route names the
        secret that is its password.

    restart
        Whether to restart OpenHIM when the port of a TCP or TLS channel does not listen afterwards
        (OpenHIM changes the port of a channel only then). Default is ``True``.

    .. code-block:: yaml

        Laboratory orders:
          openhim.channel_present:
            - definition:
                urlPattern: ^/laboratory/.*$
                allow: [laboratory]
                routes:
                  - {name: laboratory, host: {north: 10.20.1.31}, port: 8090, primary: true}
    """
    core = _core()
    return _managed(name, lambda api: objects.channel_plan(core, api, name, definition), restart)


@_state
def channel_absent(name):
    """A channel is not in OpenHIM. One that has transactions is kept by OpenHIM with the status
    deleted.

    name
        The channel's name.
    """
    return _managed(name, lambda api: objects.channel_absent_plan(api, name))


@_state
def client_present(name, definition):
    """
    A client is in OpenHIM, with the declared keys; others stay as they are.

    name
        The client's ID.

    definition
        OpenHIM's own keys (``name``, ``roles`` …), and ``secret``: the name of the secret that is
        its password. Without it, the password is not managed.
    """
    core = _core()
    return _managed(name, lambda api: objects.client_plan(core, api, name, definition))


@_state
def client_absent(name):
    """
    A client is not in OpenHIM.

    name
        The client's ID.
    """
    return _managed(name, lambda api: objects.client_absent_plan(api, name))


@_state
def user_present(name, definition):
    """
    A user of OpenHIM's API and console is in OpenHIM, with the declared keys and password.

    name
        The user's e-mail address. OpenHIM tries to send a new user a message.

    definition
        OpenHIM's own keys (``firstname``, ``surname``, ``groups`` …), and ``secret``: the name of
        the secret that is the password.
    """
    core = _core()
    return _managed(name, lambda api: objects.user_plan(core, api, name, definition))


@_state
def user_absent(name):
    """
    A user is not in OpenHIM. OpenHIM itself refuses to remove root@openhim.org.

    name
        The user's e-mail address.
    """
    return _managed(name, lambda api: objects.user_absent_plan(api, name))


@_state
def role_present(name, channels=None, clients=None):
    """A role is exactly what these channels allow and these clients have. OpenHIM keeps no
    document for a role, so do not declare the same role in channels and clients too.

    name
        The role's name; it must not be the ID of a client.

    channels
        Names of channels.

    clients
        IDs of clients.
    """
    core = _core()
    return _managed(
        name, lambda api: objects.role_plan(core, api, name, channels or [], clients or [])
    )


@_state
def mediator_configured(name, definition):
    """
    A mediator that has registered has the declared configuration; other parameters stay.

    name
        The mediator's URN.

    definition
        ``config``: parameter to value. ``secrets``: parameter to the secret's name.
    """
    core = _core()
    return _managed(name, lambda api: objects.mediator_plan(core, api, name, definition))


@_state
def keystore(name, definition, restart=True):
    """
    OpenHIM's keystore holds the declared certificate with its key, and trusts the declared ones.

    name
        Any text.

    definition
        ``certificate`` (PEM) or ``certificate_file``; ``secret`` (the name of the key's secret) or
        ``key_file``; ``passphrase_secret``; ``trusted``: a list of PEM texts or of paths.

    restart
        Whether to restart OpenHIM after a change, which it uses only then. Default is ``True``.
    """
    core = _core()
    return _managed(name, lambda api: objects.keystore_plan(core, api, definition), restart)


@_state
def synthetic_present(name):
    """
    The client and the channel of synthetic transactions are in OpenHIM.

    name
        Any text; client and secret's name are ``openhim:core:synthetic``.
    """
    core = _core()
    return _several(
        name,
        {
            "client": lambda api: objects.client_plan(
                core, api, synthetic.client_id(core), synthetic.client(core)
            ),
            "channel": lambda api: objects.channel_plan(
                core, api, synthetic.CHANNEL, synthetic.channel(core)
            ),
        },
    )


@_state
def objects_present(name, restart=True):
    """
    All of ``openhim:objects`` is in OpenHIM: clients, channels, users, mediators' configuration and
    the keystore. One that fails does not keep the others from being made.

    name
        Any text.

    restart
        Whether to restart OpenHIM when a change needs it. Default is ``True``.
    """
    core = _core()
    return _several(name, _declared(core), restart)


def _declared(core):
    """The plans of all declared objects, in the order in which they can be made."""
    declared = core.stack.declared.get("objects") or {}
    makers = {
        "clients": lambda api, key, value: objects.client_plan(core, api, key, value),
        "channels": lambda api, key, value: objects.channel_plan(core, api, key, value),
        "roles": lambda api, key, value: objects.role_plan(
            core, api, key, value.get("channels") or [], value.get("clients") or []
        ),
        "users": lambda api, key, value: objects.user_plan(core, api, key, value),
        "mediators": lambda api, key, value: objects.mediator_plan(core, api, key, value),
    }
    plans = {
        f"{kind}:{key}": functools.partial(maker, key=key, value=value or {})
        for kind, maker in makers.items()
        for key, value in (declared.get(kind) or {}).items()
    }
    if declared.get("keystore"):
        plans["keystore"] = lambda api: objects.keystore_plan(core, api, declared["keystore"])
    return plans


def _managed(name, planned, restart=True):
    core = _core()
    if not core.active:
        return _inactive(name, core)
    return _applied(name, core, planned, restart)


def _applied(name, core, planned, restart=True):
    """One object: planned with ``planned(api)``, carried out, read back."""
    api = core.api()
    plan = planned(api)
    noted = f"; {plan.note}" if plan.note else ""
    if not plan.changes:
        return _said(name, True, f"the {plan.what} is as declared{noted}")
    if __opts__["test"]:
        return _said(name, None, f"the {plan.what} would be changed{noted}", plan.changes)
    try:
        plan.carry_out(lambda: planned(core.api()))
        comment = f"the {plan.what} was changed{noted}" + _in_use(core, [plan], restart)
    except OpenHIMError as error:
        return _said(name, False, str(error), plan.changes if plan.written else {})
    return _said(name, True, comment, plan.changes)


def _several(name, plans, restart=True):
    """Several objects as one state. plans: what each is called -> its planner."""
    core = _core()
    if not core.active:
        return _inactive(name, core)
    api, changes, failures, changed, notes = core.api(), {}, [], [], []
    for key, planned in plans.items():
        plan = None
        try:
            plan = planned(api)
            if plan.changes and not __opts__["test"]:
                plan.carry_out(functools.partial(planned, api))
                changed.append(plan)
        except (OpenHIMError, CommandExecutionError) as error:
            if __opts__["test"] and isinstance(error, Unreachable):
                raise
            failures.append(f"{key}: {error}")
        if plan and plan.note:
            notes.append(f"{key}: {plan.note}")
        if plan and plan.changes and (plan.written or __opts__["test"]):
            changes[key] = plan.changes
    said = "".join(f"; {note}" for note in notes)
    try:
        said += _in_use(core, changed, restart) if changed else ""
    except OpenHIMError as error:
        failures.append(str(error))
    if failures:
        return _said(name, False, "\n".join(failures) + said, changes)
    if not changes:
        return _said(name, True, f"all {len(plans)} objects are as declared{said}")
    if __opts__["test"]:
        return _said(name, None, f"{', '.join(changes)} would be changed{said}", changes)
    return _said(name, True, f"{', '.join(changes)} changed{said}", changes)


def _in_use(core, plans, restart):
    """Bring into use what was changed, by a restart where OpenHIM needs one; say so."""
    needed = any(plan.restart for plan in plans)
    silent = [port for plan in plans for port in plan.listens if not _listens(port)]
    if not needed and not silent:
        return ""
    why = f"ports {silent} did not listen" if silent else "OpenHIM reads its keystore at its start"
    if not restart:
        return f"; OpenHIM must be restarted to use it ({why})"
    core.api().restart()
    still = [port for port in silent if not _listens(port)]
    if still:
        raise OpenHIMError(
            f"OpenHIM was restarted and the ports {still} of TCP channels still do not listen; "
            "another "
            "program may hold them. Look at OpenHIM's log."
        )
    return f"; OpenHIM was restarted to use it ({why})"


def _listens(port):
    """Whether a port of this host takes connections, now or shortly."""
    deadline = time.monotonic() + _LISTEN_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
