"""Mistakes of the user: one clear message, no traceback, exit status 2."""

__all__ = ["DataError", "RecipeError", "RunError", "UserError"]


class UserError(Exception):
    """What is wrong, where, and what to do about it. The command line prints it and exits with status 2."""


class RecipeError(UserError):
    """A recipe or an override that can't be used; lists every fault with file, line and column."""


class DataError(UserError):
    """Data that are missing, damaged, or of the wrong shape."""


class RunError(Exception):
    """A run that could not go on (numbers that are not finite, a full disk). Exit status 1."""
