"""Tells Salt's loader where the modules of the installed package are.

Named by the ``salt.loader`` entry point. Synced from file_roots, Salt finds the folders by itself
and this is not used.
"""

from importlib.util import find_spec

#: Salt's loader tag → our subpackage.
_SUBPACKAGES = {
    "modules": "modules",
    "states": "states",
    "runners": "runners",
    "pillar": "pillar",
    "beacons": "beacons",
}


def directories() -> dict[str, list[str]]:
    """The folders of this package's Salt modules, by the loader's tag."""
    found = {}
    for tag, name in _SUBPACKAGES.items():
        spec = find_spec(f"saltext.openhim.{name}")
        found[tag] = list(spec.submodule_search_locations or ()) if spec else []
    return found
