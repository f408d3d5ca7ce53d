"""OpenHIM core on this host: is it up, does it write, what does it route.

Everything here reads the stack's declaration from the minion's pillar and asks OpenHIM through its
own API. Secrets are looked up by name and never returned.
"""

from __future__ import annotations
