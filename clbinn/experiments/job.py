"""One run as a message: what it is, and how it ended."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from clbinn.experiments.store import run_path
from clbinn.schema import BenchmarkRecipe, StrategyRecipe

__all__ = ["Job", "RunResult", "Status"]

Status = Literal["done", "skipped", "failed", "interrupted"]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        strategy: Name of the strategy's recipe.
        seed: The run's seed.
        path: The run folder.
        status: `done`, `skipped` (it was finished before), `failed` or `interrupted` (the same call goes on with it).
        message: What went wrong.
        users_mistake: Whether the message is about what the user gave.
    """

    strategy: str
    seed: int
    path: Path
    status: Status
    message: str = ""
    users_mistake: bool = False


@dataclass(frozen=True)
class Job:
    """What `run` needs, and nothing that can't be sent to another machine."""

    benchmark: BenchmarkRecipe
    strategy: StrategyRecipe
    seed: int
    out: Path
    data_root: Path | None = None
    download: bool | None = None
    device: str = "auto"
    checkpoint_seconds: float | None = None

    @property
    def path(self) -> Path:
        """The run folder."""
        return run_path(self.out, self.benchmark, self.strategy, self.seed)

    @property
    def name(self) -> str:
        """What the run is called on the screen."""
        return f"{self.strategy.name} seed {self.seed}"

    def ended(self, status: Status, message: str = "", users_mistake: bool = False) -> RunResult:
        """The result of this job."""
        return RunResult(self.strategy.name, self.seed, self.path, status, message, users_mistake)

    def to_plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        plain = asdict(self)
        plain["benchmark"] = self.benchmark.model_dump(mode="json")
        plain["strategy"] = self.strategy.model_dump(mode="json")
        plain["out"] = str(self.out)
        plain["data_root"] = None if self.data_root is None else str(self.data_root)
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Job":
        """The job that `to_plain` wrote."""
        return cls(
            BenchmarkRecipe.model_validate(plain["benchmark"]),
            StrategyRecipe.model_validate(plain["strategy"]),
            plain["seed"],
            Path(plain["out"]),
            None if plain["data_root"] is None else Path(plain["data_root"]),
            plain["download"],
            plain["device"],
            plain["checkpoint_seconds"],
        )
