"""Nonlinear local losses, as the waves leave them in the stages of small networks."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.output_curvature import Message
from surmin.stages.partition import partition
from surmin.surrogates.nonlinear import NonlinearLocalLoss
from surmin.surrogates.output_surrogate import QuadraticSurrogate
from tests.cases import BY_NAME
from tests.waves import block_expansions, local_loss_of


def local_loss(name: str, index: int, *, fraction: float = 1, damping: float = 0.05) -> NonlinearLocalLoss:
    """That of a stage of a case's network, cut in two; the bound is inflated twice."""
    case = BY_NAME[name]
    curvature = FactorCurvature(fraction=fraction)
    expansion = block_expansions(partition(case.network(), 2), case, case.batch(), curvature, blocks="stage")[index]
    samples = curvature.sample_count(6)
    loss = local_loss_of(expansion, samples)
    return loss.inflated(2.0).damped(damping)


@dataclass(frozen=True)
class Underestimated(QuadraticSurrogate):
    """A quadratic that says it has only a part of its curvature."""

    times: float = 4

    def columns(self, output: Tensor, fraction: float, seed: int) -> Message:
        columns, *rows = super().columns(output, fraction, seed)
        return columns / self.times**0.5, *rows


def top_of_a_network(damping: float) -> NonlinearLocalLoss:
    """The local loss of a last stage that is one layer: a quadratic."""
    case = BY_NAME["relu"]
    curvature = FactorCurvature(fraction=1)
    expansions = block_expansions(partition(case.network(), 4), case, case.batch(), curvature, blocks="stage")
    assert [type(module) for module in case.network()[-1:]] == [nn.Linear]
    return local_loss_of(expansions[-1], 6).damped(damping)


def underestimated(loss: NonlinearLocalLoss, times: float) -> NonlinearLocalLoss:
    """A quadratic one, solved as if it curved so many times less."""
    assert isinstance(loss.surrogate, QuadraticSurrogate)
    return replace(loss, surrogate=Underestimated(**vars(loss.surrogate), times=times))
