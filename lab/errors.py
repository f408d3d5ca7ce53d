"""The one exception of the lab."""


class LabError(Exception):
    """Something in the lab failed; the message says what, what was expected and what to do."""
