"""The errors that this package raises.

Every message says what happened, what was expected and what to do next, because the reader
may be on call at night. Execution modules turn these into ``CommandExecutionError``.
"""


class OpenHIMError(Exception):
    """Base of every error that this package raises on purpose."""


class PillarError(OpenHIMError):
    """The pillar says something that it may not say, or leaves out something that it must say.

    ``problems`` is the list of single findings, each naming the path, what was found and what is
    allowed.
    """

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the pillar, nothing was touched:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class Refused(OpenHIMError):
    """The step was possible but not safe, and was not taken."""


class Unreachable(OpenHIMError):
    """No answer: connection refused, timed out, or the name is unknown."""


class Unauthorized(OpenHIMError):
    """The server answered, and did not accept the credentials."""
