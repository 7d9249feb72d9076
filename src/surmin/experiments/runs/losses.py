"""The loss that the command line names, and targets as it takes them; class numbers in them."""

from dataclasses import replace
from inspect import isclass, isroutine, signature
from pkgutil import resolve_name

import torch
import torch.nn.functional as F
from torch import Tensor

from surmin.data import Dataset
from surmin.experiments.configs.problem import LOSSES, ProblemConfig
from surmin.losses import ConvexLoss, CrossEntropy, GradientOracle
from surmin.own_code import is_own, load_own


def make_loss(name: str) -> ConvexLoss:
    """One of this package, or one of the user's own.

    Raises:
        ValueError: when a name of the user's own stands for no loss, or for one without a value.
    """
    if is_own(name):
        return _own_loss(name)
    loss: ConvexLoss = resolve_name(f"surmin.losses:{LOSSES[name]}")()
    return loss


def fit_targets(config: ProblemConfig, data: Dataset) -> Dataset:
    """The data with targets for the loss: one-hot ones for class numbers where the loss is one of numbers.

    A loss of the user's own gets the targets as they are.

    Raises:
        ValueError: for targets that the loss cannot take.
    """
    if is_own(config.loss):
        return data
    loss = make_loss(config.loss)
    if not isinstance(loss, CrossEntropy):
        return _one_hot(data, getattr(torch, config.dtype)) if data.classes else _checked(config, loss, data)
    if not data.classes:
        raise ValueError(
            f"{config.data}: y_train has floating-point numbers, and cross-entropy needs class numbers, integers: "
            "give --loss squared (paper and theory have no --loss)"
        )
    return data


def labels_of(targets: Tensor) -> Tensor:
    """Class numbers, of one-hot targets too."""
    return targets.argmax(-1) if targets.is_floating_point() else targets


def are_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Where the largest output is the target's class."""
    return outputs.argmax(-1) == labels_of(targets)


def _one_hot(data: Dataset, dtype: torch.dtype) -> Dataset:
    def numbers(labels: Tensor) -> Tensor:
        return F.one_hot(labels, data.classes).to(dtype)

    return replace(data, train_targets=numbers(data.train_targets), test_targets=numbers(data.test_targets))


def _checked(config: ProblemConfig, loss: ConvexLoss, data: Dataset) -> Dataset:
    for targets in (data.train_targets, data.test_targets):
        try:
            loss.check(torch.zeros_like(targets), targets)
        except ValueError as error:
            raise ValueError(f"{config.data}: {error}") from error
    return data


def _own_loss(name: str) -> ConvexLoss:
    found = load_own(name)
    if isclass(found) or isroutine(found):
        try:
            signature(found).bind()
        except TypeError as error:
            raise ValueError(f"{name} is called without arguments to make the loss: {error}") from error
        found = found()
    missing = [member for member in vars(ConvexLoss) if not (member.startswith("_") or hasattr(found, member))]
    if missing:
        kind = f"{type(found).__name__} has no {', '.join(missing)}"
        raise ValueError(f"{name} must be, or return, a loss by the protocol surmin.ConvexLoss: {kind}")
    if isinstance(found, GradientOracle):
        raise ValueError(f"{name} is a gradient oracle, which has no loss to report: train with it in a program")
    return found
