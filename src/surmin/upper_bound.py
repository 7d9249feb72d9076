"""What makes the local losses sum to an upper bound: the curvature that goes down the pipe, and each block's κ."""

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.scalar import ScalarCurvature
from surmin.options import Options
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.surrogates.decoupling import check_decoupling, uniform_decoupling
from surmin.work import WorkMeter


def output_curvature(
    options: Options, replicas: Replicas = ONE_REPLICA, work: WorkMeter | None = None
) -> FactorCurvature | ScalarCurvature:
    """The curvature that goes down the pipe with these options."""
    if options.curvature == "factor":
        return FactorCurvature(
            rank=options.rank, fraction=options.curvature_fraction, top_factor=options.top_factor, wire=options.wire,
            keeps_pieces=options.local == "quadratic",  # nonlinear local losses need only what arrives at the block
        )  # fmt: skip
    return ScalarCurvature(
        per_sample=options.curvature == "sample",
        delta=options.delta,
        delta_relative=options.delta_relative,
        power_steps=options.power_steps,
        eigenvalue=options.eigenvalue,
        products=options.hessian_products,
        replicas=replicas,
        work=work or WorkMeter(),
    )


def inflation(options: Options, blocks: int) -> list[float]:
    """κ of every trainable block: 1 if curvatures are decoupled already, or blocks do not move together.

    Raises:
        ValueError: if the given κ do not fit the blocks.
    """
    if options.curvature != "factor" or options.order == "sequential":
        return [1.0] * blocks
    if options.decoupling is not None:
        return check_decoupling(options.decoupling, blocks)
    return uniform_decoupling(blocks)
