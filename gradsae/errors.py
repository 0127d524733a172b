"""The errors that a user can cause."""


class UserError(Exception):
    """Bad input. Commands print the message alone and exit with a non-zero status."""

    def __str__(self) -> str:
        """Return the message; letters of a file or of its name that steer a terminal become ?."""
        shown = super().__str__()
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in shown)


class DivergedError(UserError):
    """Training left the finite numbers: of these settings, so that others may still be trained."""


class UnwritableError(UserError):
    """A folder cannot be written: a full disk, missing permission, a file in its place.

    `setting` is what a user writes to name another folder.
    """

    def __init__(self, message: str, setting: str) -> None:
        self.setting = setting
        super().__init__(message)


class TooFewRowsError(UserError):
    """A batch is larger than what is stored."""

    def __init__(self, field: str, value: int, n_rows: int) -> None:
        self.value, self.n_rows = value, n_rows
        super().__init__(
            f"{field}={value} is more than the {n_rows} stored training rows: read more tokens "
            f"(source.n_tokens) or take {field}={n_rows} at most"
        )

    def of(self, field: str) -> "TooFewRowsError":
        """Return the same error where another field than the batch size said how many."""
        return TooFewRowsError(field, self.value, self.n_rows)
