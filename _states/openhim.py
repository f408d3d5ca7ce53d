"""OpenHIM core as desired state: installed, configured, healthy, and the objects inside it.

"""

from __future__ import annotations
