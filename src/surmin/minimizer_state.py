"""What a `SurrogateMinimizer` carries from one round to the next, and from one run to another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surmin.options import Options


@dataclass(frozen=True)
class MinimizerState:
    """Plain numbers, and the last step.

    Attributes:
        round: rounds made.
        damping: λ of the next one.
        inflation_share: the share of κ in use in the next one.
        seed: seed of all random draws.
        previous_step: the last accepted one by the parameters' global names; None if momentum does not need it.
    """

    round: int
    damping: float
    inflation_share: float
    seed: int
    previous_step: Mapping[str, Tensor] | None

    @classmethod
    def checked(
        cls, state: Mapping[str, Any], options: Options, damping: float, parameters: Mapping[str, Tensor]
    ) -> "MinimizerState":
        """A state that a minimizer with these options, this λ and these parameters can continue from.

        Raises:
            ValueError: if the state is not a SurrogateMinimizer's, or that of a different one.
        """
        expected = sorted(cls.__dataclass_fields__)
        if sorted(state) != expected:
            raise ValueError(f"not the state of a SurrogateMinimizer: expected {expected}, got {sorted(state)}")
        own = cls(**state)
        own._check_numbers()
        own._check_options(options, damping)
        own._check_step(parameters)
        return own

    def as_dict(self) -> dict[str, Any]:
        """Its fields; the last step's tensors are not copied."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def _check_numbers(self) -> None:
        numbers = all(_is_number(value, int | float) for value in (self.damping, self.inflation_share))
        if not (
            numbers and math.isfinite(self.damping) and self.damping >= 0 and 0 < self.inflation_share <= 1
            and _is_number(self.round, int) and self.round >= 0
        ):  # fmt: skip
            raise ValueError(
                "the state of a SurrogateMinimizer is out of range: "
                f"round {self.round!r}, damping {self.damping!r}, inflation_share {self.inflation_share!r}"
            )

    def _check_options(self, options: Options, damping: float) -> None:
        share = self.inflation_share
        if self.damping == 0 if options.adapt_damping else self.damping != damping:
            raise ValueError(
                f"the state was saved with damping {self.damping:g}, which this minimizer "
                + ("cannot adapt" if options.adapt_damping else f"has fixed at {damping:g}")
            )
        if share != 1 and not options.adapt_decoupling:
            raise ValueError(f"the state was saved with {share:g} of the inflation, which this minimizer cannot adapt")
        if self.seed != options.seed:
            raise ValueError(f"the state was saved with seed {self.seed}, this minimizer has {options.seed}")

    def _check_step(self, parameters: Mapping[str, Tensor]) -> None:
        if self.previous_step is None:
            return
        step = self.previous_step
        tensors = isinstance(step, Mapping) and all(isinstance(value, Tensor) for value in step.values())
        if not tensors or {n: value.shape for n, value in step.items()} != {n: p.shape for n, p in parameters.items()}:
            raise ValueError("the state of a SurrogateMinimizer is of another network: its last step does not fit")


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
