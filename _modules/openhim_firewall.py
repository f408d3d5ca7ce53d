"""
The firewall of a host of the OpenHIM stack: one nftables table of our own.

What is open is decided by the pillar (``openhim:hosts``, ``openhim:firewall``) and by the TCP
channels that OpenHIM serves now. Other tables are never touched.
"""

import salt.utils.network
from salt.exceptions import CommandExecutionError
from saltext.openhim import firewall, nftables, settings
from saltext.openhim.errors import OpenHIMError


def rules(ports=None):
    """
    The rules that this host should have, as text for ``nft -f``.

    ports: TCP ports of channels, when they were asked already.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.rules
    """
    ports = tcp_ports()["ports"] if ports is None else ports
    return _guarded(lambda: firewall.ruleset(_stack(), __opts__["id"], ports))


def tcp_ports():
    """
    The ports of OpenHIM's TCP channels that this host opens, and where they are known from.

    Returns a dictionary: ``ports``; ``source``: ``live`` (OpenHIM was asked now), ``last known``
    (it could not be asked), ``declared`` (it never was; these are the declared channels' ports) or
    ``no core`` (OpenHIM is not declared on this host); ``reason``: why it could not be asked.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.tcp_ports
    """
    if "core" not in _guarded(_host).roles:
        return {"ports": [], "source": "no core", "reason": ""}
    try:
        # In test mode nothing is written, not even what OpenHIM just said.
        answer = __salt__["openhim.tcp_ports"](remember=not __opts__.get("test"))
    except KeyError:
        answer = _unasked("the module openhim is not loaded on this minion")
    except CommandExecutionError as error:
        answer = _unasked(str(error))
    return {
        "ports": sorted(answer["ports"]),
        "source": answer["source"],
        "reason": answer.get("reason") or "",
    }


def active():
    """
    Our table as the kernel has it now, as text, or None when it is not loaded.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.active
    """
    return _guarded(nftables.listing)


def check(text=None):
    """
    Asks nft and the kernel whether rules would be accepted; changes nothing.

    text: the rules; those of this host when left out.

    Returns True; raises with what nft says when they would not.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.check
    """
    _guarded(nftables.check, rules() if text is None else text)
    return True


def pending(ports=None):
    """
    What differs between this host and its rules; an empty dictionary when nothing does.

    ports: TCP ports of channels, when they were asked already.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.pending
    """
    return _guarded(nftables.differences, rules(ports))


def apply(text=None, ports=None):
    """
    Loads the rules in one step and keeps them for the next boot.

    They are validated before. When this host then no longer reaches the master that it reached
    before, the previous rules come back and this raises; without a master (``file_client: local``)
    that is not asked. Where systemd runs, a timer brings them back even if the minion is killed.

    text: other rules than those of this host, for a test of them. ports: TCP ports of channels,
    when they were asked already.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.apply
    """
    ports = tcp_ports()["ports"] if ports is None else ports
    text = rules(ports) if text is None else text
    _guarded(nftables.apply, text, endpoints=_master(), facts={"tcp_ports": ports})
    _guarded(nftables.persist_unit)
    return True


def remove():
    """
    Removes our table, its file and its unit. The host then accepts what other tables let through.

    Returns what was there: a list of ``kernel``, ``unit``, ``file``.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.remove
    """
    return _guarded(nftables.remove)


def present():
    """
    Which parts are on this host: a list of ``kernel``, ``unit``, ``file``.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_firewall.present
    """
    return _guarded(nftables.present)


def _stack():
    # __pillar__ and not pillar.get, which masks values inside modules.
    return settings.from_pillar(__pillar__)


def _host():
    return _stack().host(__opts__["id"])


def _unasked(reason):
    # What is open now was right when OpenHIM could be asked: an outage must not close it.
    remembered = nftables.remembered_facts().get("tcp_ports")
    if remembered is not None:
        return {"ports": remembered, "source": "last known", "reason": reason}
    ports = firewall.declared_tcp_ports(_stack())
    return {"ports": ports, "source": "declared", "reason": reason}


def _master():
    """The endpoints of the master or masters that this minion talks to; none without a master."""
    if __opts__.get("file_client") == "local" or __opts__.get("master_type") == "disable":
        return []
    masters = __opts__.get("master")
    if isinstance(masters, str):
        # The address that the running minion resolved, so that no name server is asked here.
        masters = [__opts__.get("master_ip") or masters]
    ports = (__opts__.get("publish_port", 4505), __opts__.get("master_port", 4506))
    return [
        (salt.utils.network.parse_host_port(m)[0], int(port))
        for m in masters or ()
        for port in ports
    ]


def _guarded(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
