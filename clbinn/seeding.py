"""Seeds for every purpose from one: independent streams that do not depend on what ran before."""

import hashlib

__all__ = ["derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """A number in [0, 2⁶³) from a seed and what it is for, e.g. `derive_seed(seed, "evaluation", task)`.

    The same parts give the same number on every machine; any other parts give an unrelated one.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
