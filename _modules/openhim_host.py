"""
What every host of the OpenHIM stack needs besides its services: certificates that are valid and
fit, a clock that is right, and the names of the other hosts.
"""

from salt.exceptions import CommandExecutionError
from saltext.openhim import certificates as certs
from saltext.openhim import clock as clocks
from saltext.openhim import files, secrets, settings, tls_files
from saltext.openhim.errors import OpenHIMError

_METHODS = ("x509", "pillar")


def certificates():
    """
    Every certificate that this host uses, in files and as its servers hand it out.

    Returns a list of dictionaries: ``source``, ``subject``, ``not_after`` (ISO 8601, UTC),
    ``days_left``, ``problem`` (why there is no certificate to look at; empty otherwise).

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.certificates
    """
    return [
        {
            "source": finding.source,
            "subject": finding.subject,
            "not_after": finding.not_after.isoformat() if finding.not_after else "",
            "days_left": None if finding.not_after is None else round(finding.days_left(), 1),
            "problem": finding.problem,
        }
        for finding in _guarded(lambda: certs.survey(certs.in_use(_stack(), _id())))
    ]


def certificate_problems(days_remaining=None):
    """
    What is wrong with this host's certificates.

    days_remaining: days that each must be valid for; ``openhim:certificates:days_remaining`` when
    left out.

    Returns a dictionary of two lists of sentences: ``expiring``, and ``unseen`` for files that are
    not there and servers that do not answer, of which nothing can be said.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.certificate_problems days_remaining=60
    """
    stack = _guarded(_stack)
    if days_remaining is None:
        declared = stack.declared.get("certificates") or {}
        days_remaining = declared.get("days_remaining", certs.DAYS_REMAINING)
    findings = _guarded(lambda: certs.survey(certs.in_use(stack, _id())))
    return {
        "expiring": certs.too_late(findings, days_remaining),
        "unseen": [f"{f.source}: {f.problem}" for f in findings if f.problem],
    }


def certificate_names():
    """
    The names that this host's certificate must carry: its own, its address, and the loopback ones
    by which it talks to itself.

    Returns a dictionary: ``common_name``, and ``alternatives``, a list such as ``DNS:north-db1``,
    ``IP:10.20.1.11``.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.certificate_names
    """
    stack = _guarded(_stack)
    return {
        "common_name": _guarded(stack.host, _id()).name,
        "alternatives": _guarded(certs.wanted_names, stack, _id()),
    }


def tls_missing():
    """
    Which of the files that ``mongodb.pem`` is made of are not on this host; a list of paths.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.tls_missing
    """
    return tls_files.missing()


def tls_pending(method="pillar", user="mongodb", group="mongodb"):
    """
    Which TLS files of this host differ from how they should be, and in what; never their contents.

    method: ``pillar``: all files, from the secrets ``tls_ca``, ``tls_certificate`` and ``tls_key``;
    ``x509``: only ``mongodb.pem``, from the certificate and the key that are on this host.
    user, group: the owner of ``mongodb.pem``.

    Raises when key, certificate, CA and the host's names do not fit together.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.tls_pending method=x509
    """
    return _guarded(lambda: tls_files.differences(_tls(method, user, group)))


def tls_write(method="pillar", user="mongodb", group="mongodb"):
    """
    Writes the TLS files that differ. Parameters and errors: ``openhim_host.tls_pending``.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.tls_write method=x509
    """
    _guarded(lambda: tls_files.write(_tls(method, user, group)))
    return True


def clock(max_offset_ms=None, wait=0, command_socket=None):
    """
    Whether this host's clock is right, as chrony measures it.

    max_offset_ms: what is allowed, in milliseconds; ``openhim:clock:max_offset_ms`` when left out.
    wait: seconds to wait for it to become right. command_socket: chronyd's command socket, when it
    is not the default one.

    Returns a dictionary: ``status`` (``synchronised``, ``not running``, ``no source`` or
    ``offset too large``), ``synchronised``, ``reason``, ``offset_ms`` (ahead: positive; None when
    nothing was measured), ``stratum``, ``source``.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.clock
    """
    stack = _guarded(_stack)
    if max_offset_ms is None:
        declared = stack.declared.get("clock") or {}
        max_offset_ms = declared.get("max_offset_ms", clocks.MAX_OFFSET_MS)
    found = _guarded(
        lambda: clocks.wait(wait, max_offset_ms, clocks.serves(stack, _id()), command_socket)
    )
    return {
        "status": found.status,
        "synchronised": found.status == clocks.SYNCHRONISED,
        "reason": found.reason,
        "offset_ms": found.offset_ms,
        "stratum": found.stratum,
        "source": found.source,
    }


def chrony_config():
    """
    The text of ``chrony.conf`` for this host.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.chrony_config
    """
    return _guarded(lambda: clocks.configuration(_stack(), _id()))


def clock_pending():
    """
    Which files of chrony's configuration differ from ``openhim:clock``, by path.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.clock_pending
    """
    found = {}
    for path, text in _guarded(lambda: clocks.wanted_files(_stack(), _id())).items():
        if changes := files.differences(path, text.encode(), mode=0o644):
            found[path] = changes
    return found


def clock_write():
    """
    Writes chrony's configuration. The service must be restarted after it.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.clock_write
    """
    for path, text in _guarded(lambda: clocks.wanted_files(_stack(), _id())).items():
        _guarded(files.write, path, text.encode(), mode=0o644)
    return True


def hosts_entries():
    """
    The lines that ``/etc/hosts`` needs, when ``openhim:manage_hosts_file`` is true.

    Returns a list of dictionaries: ``address`` and ``names``; empty when names are left to DNS.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.hosts_entries
    """
    stack = _guarded(_stack)
    if not stack.declared.get("manage_hosts_file"):
        return []
    return [
        {"address": host.address, "names": list(dict.fromkeys((host.name, host.id)))}
        for _, host in sorted(stack.hosts.items())
    ]


def certificate_fits():
    """
    Whether this host's certificate is the one that it needs: issued by the declared authority, for
    this host's key, names and address, and valid for longer than
    ``openhim:certificates:days_remaining``.

    The authority is asked only when it is not, so that hosts which have theirs do not depend on it.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_host.certificate_fits
    """
    stack = _guarded(_stack)
    days = stack.declared["certificates"].get("days_remaining", certs.DAYS_REMAINING)
    return not _guarded(tls_files.misfit, stack, _id(), days)


def _id():
    return __opts__["id"]


def _stack():
    # __pillar__ and not pillar.get, which masks values inside modules.
    return settings.from_pillar(__pillar__)


def _tls(method, user, group):
    if method not in _METHODS:
        raise OpenHIMError(f"method: found {method!r}; allowed are {', '.join(_METHODS)}")
    if method == "x509":
        return tls_files.from_disk(_stack(), _id(), user, group)
    ca, certificate, key = (
        secrets.lookup(__pillar__, name) for name in ("tls_ca", "tls_certificate", "tls_key")
    )
    return tls_files.from_secrets(_stack(), _id(), ca, certificate, key, user, group)


def _guarded(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
