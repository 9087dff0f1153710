"""Mistakes of the user: one clear message, no traceback, exit status 2."""

import errno

__all__ = ["DataError", "RecipeError", "RunError", "UserError", "describe", "disk_is_full", "unwritable"]


class UserError(Exception):
    """What is wrong, where, and what to do about it. The command line prints it and exits with status 2."""


class RecipeError(UserError):
    """A recipe or an override that can't be used; lists every fault with file, line and column."""


class DataError(UserError):
    """Data that are missing, damaged, or of the wrong shape."""


class RunError(Exception):
    """A run that could not go on (numbers that are not finite, a full disk). Exit status 1."""


def describe(error: Exception) -> str:
    """In a line: the message of an error that is meant for users; for any other also what and where it is."""
    if isinstance(error, UserError | RunError):
        return str(error)
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def disk_is_full(error: OSError) -> bool:
    """Whether there is no room: nothing that another command would mend."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwritable(what: str, error: OSError) -> UserError | RunError:
    """The error to raise for a file that can't be written.

    Args:
        what: The file, and what was to be in it, as the subject of a sentence.
        error: Why.
    """
    message = f"{what} can't be written: {error.strerror or error}"
    if disk_is_full(error):
        return RunError(f"{message}; make room, then give the same command again")
    return UserError(message)
