"""What Salt says of a command that it does not understand."""

#: In none of the answers to a command that somebody printed or wrote down.
NOT_UNDERSTOOD = (
    "is not available", "Passed invalid arguments", "No matching sls", "TypeError",
    "Rendering SLS", "Specified SLS", "usage:", "Usage:", "No function", "takes no",
)  # fmt: skip
