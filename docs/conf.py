"""The documentation as a site: the topics as they are, and the modules' docstrings."""

from importlib.metadata import version as _version
from pathlib import Path as _Path

project = "saltext-openhim"
author = "The saltext-openhim authors"
project_copyright = author
release = _version("saltext.openhim")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"{project} {release}"

myst_heading_anchors = 3
# Pages link to the state tree and to the example pillar, which are files beside the site.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "none"

_PAGES = {
    "modules": "# Execution modules\n\nWhat a person calls on a host with `salt` or `salt-call`.\n",
    "states": "# States\n\nWhat a state file declares.\n",
    "runners": "# Runners\n\nWhat only the master can do, with `salt-run`.\n",
}


def _write_reference() -> None:
    """A page for each kind of Salt module, with every file that there is of it."""
    docs = _Path(__file__).parent
    for kind, beginning in _PAGES.items():
        names = sorted(path.stem for path in (docs.parent / f"_{kind}").glob("*.py"))
        entries = [
            f"\n## {name}\n\n```{{eval-rst}}\n.. automodule:: saltext.openhim.{kind}.{name}\n```\n"
            for name in names
            if name != "__init__"
        ]
        (docs / "reference" / f"{kind}.md").write_text(beginning + "".join(entries), "utf-8")


_write_reference()
