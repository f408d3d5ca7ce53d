"""Sessions for contributors. ``make`` is the short way; here is what it does not cover.

Salt takes long to install, so the sessions use the environments of :mod:`lab.environments`.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "none"

#: The layers that need no booted hosts; the lab's image has one version of Salt.
WITHOUT_LAB = ("tests/unit", "tests/functional", "tests/integration")

#: The release of Salt with long-term support; its own packages bring Python 3.10.
LTS = "salt~=3006.0"


def environment(session: nox.Session, salt: str = "", python: str = "python3") -> str:
    """The Python of the development environment; with another Salt, or made by another Python."""
    variables = {"SALTEXT_OPENHIM_SALT": salt} if salt else {}
    command = (python, "-m", "lab.environments", "development")
    made = session.run(*command, silent=True, external=True, env=variables, stderr=None)
    return f"{made.strip()}/bin/python"


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's checks, the form of every file, the library's types."""
    python = environment(session)
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(python, "-m", "mypy", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """All but the lab; arguments after ``--`` go to pytest."""
    command = ("-m", "pytest", "-n", "2", *WITHOUT_LAB, *session.posargs)
    session.run(environment(session), *command, external=True)


@nox.session(name="tests-3006")
def tests_3006(session: nox.Session) -> None:
    """The same with Salt 3006, the release with long-term support."""
    command = ("-m", "pytest", "-n", "2", *WITHOUT_LAB, *session.posargs)
    variables = {"SALTEXT_OPENHIM_SALT": LTS}
    session.run(environment(session, LTS), *command, external=True, env=variables)


@nox.session(name="unit-3006-python3.10")
def unit_3006_python310(session: nox.Session) -> None:
    """The unit tests with Salt 3006 and the oldest Python; needs ``python3.10`` on PATH."""
    python = environment(session, LTS, "python3.10")
    session.run(python, "-m", "pytest", "tests/unit", *session.posargs, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """The wheel and the source archive, in dist/."""
    session.run(environment(session), "-m", "build", external=True)


@nox.session
def changelog(session: nox.Session) -> None:
    """CHANGELOG.md as it would be with the fragments in changelog/."""
    session.run(environment(session), "-m", "towncrier", "build", "--draft", external=True)
