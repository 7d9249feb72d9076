"""Searching for a step that passes the test, at ever larger damping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from surmin.acceptance.candidates import Candidate, Order, Point
from surmin.acceptance.damping import LARGEST, Damping, is_acceptable, reduction_ratio
from surmin.errors import NonFiniteError
from surmin.options import Options


@dataclass(frozen=True)
class Trial:
    """A step and how its test went.

    Attributes:
        step: the candidate.
        loss: h(θ̄).
        gradient_norm: ‖∂h/∂θ‖ at θ̄.
        accepted: whether it passed the test.
    """

    step: Candidate
    loss: float
    gradient_norm: float
    accepted: bool

    @property
    def ratio(self) -> float:
        """Actual over predicted decrease."""
        return reduction_ratio(self.loss, self.step.new_loss, self.step.predicted)

    @property
    def is_at_rest(self) -> bool:
        """Whether no model is to blame: a stationary point, or a predicted decrease whose effect is lost in rounding.

        A step that predicts nothing does not count: every block met negative curvature at once, and more damping helps.
        """
        return not self.gradient_norm or (self.step.new_loss == self.loss and self.step.predicted > 0)


@dataclass(frozen=True)
class Search:
    """How to search for a step.

    Attributes:
        order: makes the candidates and runs them.
        options: of the minimizer.
    """

    order: Order
    options: Options

    def run(self, point: Point, damping: Damping) -> tuple[Trial, int, Damping]:
        """Solve and test, raising the damping until a step passes; solving again needs no new backward wave.

        Returns:
            The accepted trial or the best of the last rejected ones, the number of forward waves spent, and the damping
            for the next round.
        """
        for tries in range(1, self.options.max_tries + 1):
            trials = self._attempt(point, damping, tries)
            best = min(trials, key=lambda trial: (not trial.accepted, _or_infinity(trial.step.new_loss)))
            if best.accepted:
                return best, tries, best.step.damping.after_acceptance(best.ratio)
            if best.is_at_rest:
                break
            candidates = self.options.damping_candidates
            damping = damping.after_rejection(best.ratio, max(candidates) / min(candidates))
            del trials  # their waves would share memory with the next ones
            best = replace(best, step=replace(best.step, wave=None))
        if best.is_at_rest or (best.step.new_loss == best.loss and damping.value >= LARGEST):
            damping = damping.at_most(self.options.damping)
        return best, tries, damping

    def _momenta(self, tries: int) -> Sequence[float]:
        """A retry drops momentum if every candidate had it: damping does not shorten the last step's share."""
        candidates = self.options.momentum_candidates
        return candidates if tries == 1 or 0 in candidates else (0.0,)

    def _attempt(self, point: Point, damping: Damping, tries: int) -> list[Trial]:
        """All candidates at this damping, tested."""
        dampings = [damping.candidate(factor) for factor in self.options.damping_candidates]
        found = self.order.attempt(point, dampings, self._momenta(tries))
        if not (math.isfinite(found.loss) and math.isfinite(found.gradient_square)):
            raise start_error(found.loss, found.gradient_square)
        norm = math.sqrt(found.gradient_square)
        return [Trial(step, found.loss, norm, self._passes(found.loss, step, tries)) for step in found.candidates]

    def _passes(self, loss: float, step: Candidate, tries: int) -> bool:
        return is_acceptable(loss, step.new_loss, step.predicted, self.options.accept_above, tries)


def start_error(loss: float, gradient_square: float) -> NonFiniteError:
    """Why no round can start at the current parameters."""
    return NonFiniteError(
        f"the loss is {loss:g} and its gradient's square {gradient_square:g} at the current parameters: "
        "no step can be computed or tested from there; check the data's scale and the initialisation "
        "(a gradient oracle has no loss value and needs adapt_damping=False)"
    )


def _or_infinity(value: float) -> float:
    return value if math.isfinite(value) else math.inf
