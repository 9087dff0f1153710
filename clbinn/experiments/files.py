"""Writing files so that a crash leaves the old content or the new, never a mixture."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clbinn.errors import RunError, UserError, disk_is_full

__all__ = ["append_line", "disk_errors", "drop_unfinished_line", "make_folder", "replace_file"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def replace_file(path: Path, content: bytes | str, keep: Path | None = None) -> None:
    """Write a file atomically: temporary file beside it, fsync, rename.

    Args:
        path: The file.
        content: All of it; text is written as UTF-8.
        keep: Where the file that was there goes; None lets it go.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line and hand it to the operating system at once."""
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")


def drop_unfinished_line(path: Path) -> None:
    """Take off what a crash left behind the last whole line of a file, if there is one."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def make_folder(path: Path) -> None:
    """Make a folder for results, if it isn't there.

    Raises:
        UserError: It can't be made there.
        RunError: The disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if disk_is_full(error):
            raise _full(path, error) from error
        raise UserError(f"{path}: can't be made ({error.strerror}); choose another --out") from None


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, and files of the folder that can't be read or written, into one clear message.

    Raises:
        RunError: The block raised an OSError of the disk.
        UserError: Something in the folder has other permissions, or is a folder where a file is expected.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename2 or error.filename)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR) and folder in Path(name).parents:
            raise UserError(f"{name}: {error.strerror}; set that right, or choose another --out") from error
        if error.errno not in _DISK:
            raise
        raise _full(folder, error) from error


def _full(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder}: can't write any more ({os.strerror(error.errno or 0)}). What was written before is intact: "
        "make room, then give the same command again to go on."
    )


def _sync_folder(folder: Path) -> None:
    # the rename itself lasts only once the folder is on the disk
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
