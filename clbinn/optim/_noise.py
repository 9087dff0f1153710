"""Random numbers for the optimizers: a seeded stream of their own, quick on a CPU, on the device itself elsewhere."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbinn.checks import check_count
from clbinn.optim import _loops

__all__ = ["Noise", "tanh"]


def tanh(x: Tensor) -> Tensor:
    """tanh x, in place; on a CPU in a compiled loop, which takes a quarter of the time of torch's."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or not x.is_contiguous():
        return x.tanh_()
    _loops.tanh(x.view(-1).numpy())
    return x


class Noise:
    """A stream of random numbers that depends on its seed alone.

    Args:
        seed: Start of the stream, at least 0.
        device: Where the numbers are wanted. Streams of different devices differ.

    Attributes:
        state: Of the generators for CPUs, NumPy's SFC64 (see `clbinn.optim._loops.words`).
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        check_count("seed", seed, 0)
        self.seed = int(seed)  # a NumPy integer could not be loaded by torch.load(..., weights_only=True)
        self.state = _first_state(self.seed)
        self._device_generator: torch.Generator | None = None
        self._device_state: Tensor | None = None
        self.to(device)

    def to(self, device: torch.device | str) -> None:
        """Serve this device from now on; a new device starts its own stream at the seed."""
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        if not on_cpu and (self._device_generator is None or self._device_generator.device != self.device):
            self._device_generator = torch.Generator(self.device).manual_seed(self.seed)
            if self._device_state is not None:
                self._device_generator.set_state(self._device_state)

    def uniform(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`count` numbers, uniform on (0, 1)."""
        if self.device.type == "cpu":
            words = np.empty((-(-count // (2 * _loops.LANES)), _loops.LANES), np.uint64)
            _loops.words(self.state, words)
            integers = torch.from_numpy(words.reshape(-1).view(np.int32)[:count]).to(torch.float32)
            half = float(_loops.HALF_RANGE)
            return integers.add_(half).mul_(0.5 / half).to(dtype)
        drawn = torch.rand(count, generator=self._device_generator, device=self.device, dtype=dtype)
        return drawn.clamp_min_(torch.finfo(dtype).eps / 4)  # which may be 0

    def logit(self, out: Tensor) -> Tensor:
        """Fills a flat tensor with draws of ln(u / (1 - u)), which is 2δ of the relaxation; all finite on a CPU."""
        if self.device.type != "cpu":
            return torch.logit(out.uniform_(generator=self._device_generator), out=out)
        _loops.logistic(self.state, out.view(-1).numpy())
        return out

    def draw_(self, probability: Tensor) -> Tensor:
        """Probabilities → ±1 in place, +1 where a uniform number is below."""
        if self.device.type == "cpu" and probability.dtype == torch.float32 and probability.is_contiguous():
            _loops.draw(self.state, probability.view(-1).numpy())
            return probability
        uniform = self.uniform(probability.numel(), probability.dtype).view(probability.shape)
        return probability.copy_(torch.where(uniform < probability, 1.0, -1.0))

    def signs(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`count` draws of ±1, each with probability ½."""
        return torch.where(self.uniform(count) < 0.5, -1.0, 1.0).to(dtype)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, as integers and tensors."""
        device_state = self._device_generator.get_state() if self._device_generator is not None else self._device_state
        return {"seed": self.seed, "cpu": torch.from_numpy(self.state.view(np.int64).copy()), "device": device_state}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raise ValueError for what `load_state_dict` can't take."""
        if state["cpu"].shape != self.state.shape or state["cpu"].dtype != torch.int64:
            raise ValueError("the random stream is of another version of clbinn, and can't be continued")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` gave; ValueError for another version's."""
        self.check_state_dict(state)
        self.seed = int(state["seed"])
        self.state = state["cpu"].cpu().numpy().view(np.uint64).copy()
        self._device_state = None if state["device"] is None else state["device"].cpu()
        if self._device_generator is not None:
            self._device_generator.manual_seed(self.seed)  # where a stream that was saved on a CPU begins
            if self._device_state is not None:
                self._device_generator.set_state(self._device_state)


def _first_state(seed: int) -> NDArray[np.uint64]:
    """NumPy's SFC64 starts so, from three words of a seed, and drops the first twelve."""
    words = np.random.SeedSequence(seed).generate_state(3 * _loops.LANES, np.uint64).reshape(3, _loops.LANES)
    state = np.concatenate([words, np.ones((1, _loops.LANES), np.uint64)])
    _loops.words(state, np.empty((12, _loops.LANES), np.uint64))
    return state
