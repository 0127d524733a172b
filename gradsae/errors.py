"""The errors that a user can cause."""


class UserError(Exception):
    """Bad input. Commands print the message alone and exit with a non-zero status."""


class DivergedError(UserError):
    """Training left the finite numbers: of these settings, so that others may still be trained."""
