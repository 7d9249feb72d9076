"""The methods by name. None is imported until it is built, so that names and options can be checked at once.

To add a method: write a file with its builder, `build(pipeline, *, option=default, ...) -> Method`, and a line here.
A method outside surmin goes by the name "module:builder".
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from surmin.errors import did_you_mean
from surmin.own_code import is_own, load_own

if TYPE_CHECKING:
    from torch import nn

    from surmin.losses import ConvexLoss
    from surmin.methods.base import Method
    from surmin.pipeline.worker_pipeline import WorkerPipeline


@dataclass(frozen=True)
class Entry:
    """A method.

    Attributes:
        builder: what makes it, "module:name".
        options: the options it takes, separated by spaces.
        given: further arguments for its builder.
    """

    builder: str
    options: str
    given: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> "Callable[..., Method]":
        """Import the builder."""
        return partial(resolve_name(self.builder), **self.given)


SM_OPTIONS = (
    "preset curvature local order blocks inner_steps rank curvature_fraction inner_fraction inner_tolerance "
    "damping damping_candidates delta wire seed"
)

METHODS: Mapping[str, Entry] = {
    "sm": Entry("surmin.minimizer:SurrogateMinimizer", SM_OPTIONS),
    "sm-paper": Entry("surmin.minimizer:SurrogateMinimizer", "inner_steps delta seed", {"preset": "paper"}),
    "gd": Entry("surmin.methods.first_order:gradient_descent", "lr"),
    "gd-armijo": Entry("surmin.methods.gd_armijo:ArmijoDescent", "lr"),
    "sgd": Entry("surmin.methods.first_order:sgd", "lr"),
    "adam": Entry("surmin.methods.first_order:adam", "lr"),
    "lbfgs": Entry("surmin.methods.lbfgs:Lbfgs", "lr inner_steps"),
    "cgblock": Entry("surmin.methods.cgblock:CgBlock", "inner_steps damping safeguard"),
    "cgblock-ggn": Entry(
        "surmin.methods.cgblock_ggn:CgBlockGaussNewton", "inner_steps damping rank curvature_fraction seed"
    ),
    "kfac": Entry("surmin.methods.kfac:Kfac", "damping rank curvature_fraction seed"),
    "newton": Entry("surmin.methods.newton:Newton", "damping safeguard"),
    "dgl": Entry("surmin.methods.dgl:DecoupledGreedyLearning", "lr optimizer seed"),
    "interlocking": Entry("surmin.methods.interlocking:InterlockingBackpropagation", "lr optimizer seed"),
    "dni": Entry("surmin.methods.dni:SyntheticGradients", "lr inner_lr inner_steps optimizer seed"),
    "locoprop": Entry("surmin.methods.locoprop:LocoProp", "lr inner_steps inner_lr inner_optimizer local_loss damping"),
    "dladmm": Entry("surmin.methods.dladmm:DlAdmm", "penalty"),
    "sso": Entry("surmin.methods.sso:Sso", "lr inner_steps inner_optimizer inner_lr"),
    "ddg": Entry("surmin.methods.ddg:DelayedGradients", "lr optimizer"),
    "features-replay": Entry("surmin.methods.features_replay:FeaturesReplay", "lr optimizer"),
    "fdg": Entry("surmin.methods.fdg:FullyDecoupled", "lr optimizer shrinking"),
}


def find_method(name: str) -> Entry:
    """The entry of a method.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
    """
    if is_own(name):
        _, *options = inspect.signature(load_own(name)).parameters
        return Entry(name, " ".join(options))
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: {did_you_mean(name, METHODS)}choose one of {', '.join(METHODS)}")
    return METHODS[name]


def takes(name: str, option: str) -> bool:
    """Whether a method takes an option."""
    return option in find_method(name).options.split()


def check_takes(name: str, options: Iterable[str]) -> None:
    """Raise ValueError for options that the method does not take."""
    _check_taken(name, options, find_method(name).options.split(), flag)


def default_option(name: str, option: str) -> Any:
    """The value of an option that is not given."""
    return inspect.signature(find_method(name).load()).parameters[option].default


def build_method(
    name: str,
    stages: "nn.Module | Sequence[nn.Module] | WorkerPipeline",
    loss: "ConvexLoss | None" = None,
    *,
    microbatches: int = 1,
    seed: int = 0,
    **options: Any,
) -> "Method":
    """Build a method for a network.

    Args:
        name: a key of `METHODS`, or "module:builder".
        stages: a module or consecutive modules, each a stage, or a pipeline.
        loss: convex in the last stage's output; only for a list of stages, as a pipeline has its own.
        microbatches: equal parts in which the batch goes through the stages; a pipeline has its own.
        seed: for methods that draw at random.
        options: the method's; defaults apply to those not given. `sm` takes all of `surmin.Options`.

    Raises:
        ValueError: if the method is unknown, does not take an option, or a value is not allowed.
    """
    from surmin.pipeline.in_process import pipeline_of  # here: it imports torch

    builder = find_method(name).load()
    parameters = inspect.signature(builder).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        _check_taken(name, options, list(parameters)[1:], str)
    seeded = {"seed": seed} if takes(name, "seed") else {}
    return builder(pipeline_of(stages, loss, microbatches), **seeded, **options)


def _check_taken(name: str, given: Iterable[str], taken: Sequence[str], write: Callable[[str], str]) -> None:
    if foreign := [option for option in given if option not in taken]:
        own = ", ".join(write(option) for option in taken if option != "seed")
        raise ValueError(f"method {name} does not take {', '.join(map(write, foreign))}; it takes {own}")


def flag(option: str) -> str:
    """An option as written on the command line."""
    return "--" + option.replace("_", "-")
