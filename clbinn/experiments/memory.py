"""Where memory ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clbinn.errors import RunError

__all__ = ["memory_errors"]


@contextmanager
def memory_errors(folder: Path) -> Iterator[None]:
    """Turn what NumPy and torch raise where memory ends into one message with the cure.

    Raises:
        RunError: The block wanted more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = str(error).partition("\n")[0]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in told:
            raise
        raise RunError(
            f"{folder}: the memory doesn't suffice ({told.partition('Allocator: ')[2] or told}). Make the network, "
            "train.batch_size or train.eval_batch_size smaller. The last checkpoint is kept."
        ) from error
