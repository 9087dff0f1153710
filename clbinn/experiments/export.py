"""The network of a run as a file of its own, with one bit for each weight of ±1."""

from pathlib import Path

from clbinn import packed
from clbinn.errors import UserError, unwritable
from clbinn.experiments import checkpoint

__all__ = ["export"]

_ELSEWHERE = " (of a single task's runs, that of the first mc_samples has it; synthetic problems keep none)"


def export(run: Path, file: Path) -> str:
    """Write the network that a run ended with, or stands at, for `clbinn.packed.load`.

    Args:
        run: A run folder.
        file: The file to write.

    Returns:
        What was written, in a sentence.

    Raises:
        UserError: There is no whole checkpoint, its weights are real, or the file can't be written.
        RunError: The disk is full.
    """
    state, faults = checkpoint.load_latest(run)
    if state is None:
        raise UserError("\n".join([*faults, f"{run}: there is no checkpoint to take the network from{_ELSEWHERE}"]))
    best = state.get("progress", {}).get("best", {})  # empty where the first epoch was cut off
    learner = best.get("learner", state["learner"])
    network = learner.get("model") or learner["network"]
    numbers = sum(tensor.numel() for tensor in network.values())
    if not any(packed.binary(tensor) for tensor in network.values()):
        raise UserError(f"{run}: none of the network's weights are ±1")
    try:
        weights = packed.save(network, file)
    except OSError as error:
        raise unwritable(f"{file}: the network", error) from None
    return f"{file}: {weights:,} weights of one bit, {numbers - weights:,} other numbers; {file.stat().st_size:,} bytes"
