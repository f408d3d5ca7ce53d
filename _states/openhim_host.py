"""
What every host of the OpenHIM stack needs besides its services, as states.

.. code-block:: yaml

    mongod has its certificate and key in one file:
      openhim_host.combined_pem

    No certificate expires soon:
      openhim_host.certificates_valid

    The clock is right:
      openhim_host.clock_synchronised
"""

from salt.exceptions import CommandExecutionError


def tls_files(name, user="mongodb", group="mongodb"):
    """
    The host's TLS files are as the pillar's secrets ``tls_ca``, ``tls_certificate`` and ``tls_key``
    say (``openhim:certificates:method: pillar``).

    ``ca.crt`` and ``host.crt`` can be read by all, ``host.key`` by root, and on hosts with a
    replica-set member ``mongodb.pem`` by mongod. Nothing is written when key, certificate, CA and
    the host's name and address do not fit. The changes name the files, never what is in them.

    name: any text. user, group: who runs mongod.
    """
    return _tls(name, "pillar", user, group)


def combined_pem(name, user="mongodb", group="mongodb"):
    """
    ``mongodb.pem`` is made of the host's certificate and key (``openhim:certificates:method:
    x509``, where other states issue those two). The same checks as for ``tls_files``.

    name: any text. user, group: who runs mongod.
    """
    missing = __salt__["openhim_host.tls_missing"]()
    if missing and __opts__["test"]:
        # The states that issue them wrote nothing in test mode either.
        comment = f"mongodb.pem would be made when there are: {', '.join(missing)}."
        return {"name": name, "changes": {}, "result": None, "comment": comment}
    return _tls(name, "x509", user, group)


def certificates_valid(name, days_remaining=None):
    """
    Every certificate that this host uses is valid for some time yet. Changes nothing.

    Looked at are the files and what the host's servers hand out. One that cannot be looked at fails
    the state as well; in test mode, where the states before this one did nothing, that is said
    and left open.

    name: any text. days_remaining: days; ``openhim:certificates:days_remaining`` when left out.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        problems = __salt__["openhim_host.certificate_problems"](days_remaining)
        count = len(__salt__["openhim_host.certificates"]()) if not any(problems.values()) else 0
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if not any(problems.values()):
        return {**ret, "comment": f"{count} certificates in use, all valid for long enough."}
    comment = "\n".join(problems["expiring"] + problems["unseen"])
    open_question = __opts__["test"] and not problems["expiring"]
    return {**ret, "result": None if open_question else False, "comment": comment}


def clock_configured(name):
    """
    chrony follows ``openhim:clock:servers``; a host that is one of them serves the others.

    In a container that may not set the clock, a drop-in lets chronyd run without setting it. Let
    the service watch this state.

    name: any text.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "chrony is as declared."}
    try:
        pending = __salt__["openhim_host.clock_pending"]()
        if not pending:
            return ret
        ret["changes"] = pending
        if __opts__["test"]:
            comment = f"Would write: {', '.join(sorted(pending))}."
            return {**ret, "result": None, "comment": comment}
        __salt__["openhim_host.clock_write"]()
        left = __salt__["openhim_host.clock_pending"]()
    except CommandExecutionError as error:
        return {**ret, "changes": {}, "result": False, "comment": str(error)}
    if left:
        return {**ret, "result": False, "comment": f"Still differs: {', '.join(sorted(left))}."}
    return {**ret, "comment": f"Written: {', '.join(sorted(pending))}."}


def clock_synchronised(name, max_offset_ms=None, wait=30, command_socket=None):
    """
    The clock is synchronised, and off by no more than is allowed. Changes nothing.

    name: any text. max_offset_ms: milliseconds; ``openhim:clock:max_offset_ms`` when left out.
    wait: seconds that a chronyd may need that has just started (not in test mode).
    command_socket: chronyd's command socket, when it is not the default one.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    wait = 0 if __opts__["test"] else wait
    try:
        found = __salt__["openhim_host.clock"](max_offset_ms, wait, command_socket)
    except CommandExecutionError as error:
        # Without chrony: in test mode its installation may be what a state before would do.
        result = None if __opts__["test"] else False
        return {**ret, "result": result, "comment": str(error)}
    if found["synchronised"]:
        return {**ret, "comment": f"Synchronised: {found['reason']}."}
    too_early = __opts__["test"] and found["offset_ms"] is None
    result = None if too_early else False
    return {**ret, "result": result, "comment": f"{found['status']}: {found['reason']}"}


def _tls(name, method, user, group):
    ret = {"name": name, "changes": {}, "result": True, "comment": "The TLS files are as wanted."}
    try:
        # A user that a package brings is not there yet in test mode: differences need none.
        pending = __salt__["openhim_host.tls_pending"](method, user, group)
        if not pending:
            return ret
        ret["changes"] = pending
        if __opts__["test"]:
            comment = f"Would write: {', '.join(sorted(pending))}."
            return {**ret, "result": None, "comment": comment}
        __salt__["openhim_host.tls_write"](method, user, group)
        left = __salt__["openhim_host.tls_pending"](method, user, group)
    except CommandExecutionError as error:
        return {**ret, "changes": {}, "result": False, "comment": str(error)}
    if left:
        return {**ret, "result": False, "comment": f"Still differs: {', '.join(sorted(left))}."}
    return {**ret, "comment": f"Written: {', '.join(sorted(pending))}."}
