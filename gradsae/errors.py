"""The one error that a user can cause."""


class UserError(Exception):
    """Bad input. Commands print the message alone and exit with a non-zero status."""
