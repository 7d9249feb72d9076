"""The methods by name. Nothing is imported until a method is built, so that names and options can be checked at once.

To add a method: write a file with its builder, `build(pipeline, *, option=default, ...) -> Method`, and a line here.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from surmin.errors import did_you_mean

if TYPE_CHECKING:
    from surmin.methods.base import Method
    from surmin.pipeline.worker_pipeline import WorkerPipeline


@dataclass(frozen=True)
class Entry:
    """A method.

    Attributes:
        builder: where what makes it is within `surmin`, "module:name".
        options: that it takes, separated by spaces.
        given: what its builder gets besides.
    """

    builder: str
    options: str
    given: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> "Callable[..., Method]":
        """Import the builder."""
        return partial(resolve_name(f"surmin.{self.builder}"), **self.given)


SM_OPTIONS = (
    "preset curvature local order blocks inner_steps rank curvature_fraction inner_fraction inner_tolerance "
    "damping damping_candidates delta wire seed"
)

METHODS: Mapping[str, Entry] = {
    "sm": Entry("minimizer:SurrogateMinimizer", SM_OPTIONS),
    "sm-paper": Entry("minimizer:SurrogateMinimizer", "inner_steps delta seed", {"preset": "paper"}),
    "gd": Entry("methods.first_order:gradient_descent", "lr"),
    "gd-armijo": Entry("methods.gd_armijo:ArmijoDescent", "lr"),
    "sgd": Entry("methods.first_order:sgd", "lr"),
    "adam": Entry("methods.first_order:adam", "lr"),
    "lbfgs": Entry("methods.lbfgs:Lbfgs", "lr inner_steps"),
    "cgblock": Entry("methods.cgblock:CgBlock", "inner_steps damping safeguard"),
    "cgblock-ggn": Entry("methods.cgblock_ggn:CgBlockGaussNewton", "inner_steps damping rank curvature_fraction seed"),
    "kfac": Entry("methods.kfac:Kfac", "damping rank curvature_fraction seed"),
    "newton": Entry("methods.newton:Newton", "damping safeguard"),
    "dgl": Entry("methods.dgl:DecoupledGreedyLearning", "lr optimizer seed"),
    "interlocking": Entry("methods.interlocking:InterlockingBackpropagation", "lr optimizer seed"),
    "dni": Entry("methods.dni:SyntheticGradients", "lr inner_lr inner_steps optimizer seed"),
    "locoprop": Entry("methods.locoprop:LocoProp", "lr inner_steps inner_lr inner_optimizer local_loss damping"),
    "dladmm": Entry("methods.dladmm:DlAdmm", "penalty"),
    "sso": Entry("methods.sso:Sso", "lr inner_steps inner_optimizer inner_lr"),
    "ddg": Entry("methods.ddg:DelayedGradients", "lr optimizer"),
    "features-replay": Entry("methods.features_replay:FeaturesReplay", "lr optimizer"),
    "fdg": Entry("methods.fdg:FullyDecoupled", "lr optimizer shrinking"),
}


def find_method(name: str) -> Entry:
    """The entry of a method.

    Raises:
        ValueError: for an unknown name, naming the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: {did_you_mean(name, METHODS)}known are {', '.join(METHODS)}")
    return METHODS[name]


def takes(name: str, option: str) -> bool:
    """Whether a method takes an option."""
    return option in find_method(name).options.split()


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise ValueError for options that the method does not take."""
    taken = find_method(name).options.split()
    foreign = [option for option in options if option not in taken]
    if foreign:
        own = ", ".join(flag(option) for option in taken if option != "seed")
        raise ValueError(f"method {name} does not take {', '.join(map(flag, foreign))}; it takes {own}")


def default_option(name: str, option: str) -> Any:
    """The value an option has when it is not given."""
    return inspect.signature(find_method(name).load()).parameters[option].default


def build_method(name: str, pipeline: "WorkerPipeline", options: Mapping[str, Any], seed: int = 0) -> "Method":
    """A method at work on a pipeline.

    Args:
        name: a key of `METHODS`.
        pipeline: holds the network and its loss.
        options: those given; the others have the method's defaults.
        seed: for methods that draw at random.

    Raises:
        ValueError: for an unknown method, an option it does not take, or a value that is not possible.
    """
    check_options(name, options)
    seeded = {"seed": seed} if takes(name, "seed") else {}
    return find_method(name).load()(pipeline, **seeded, **options)


def flag(option: str) -> str:
    """An option as it is written on the command line."""
    return "--" + option.replace("_", "-")
