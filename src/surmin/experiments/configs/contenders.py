"""What the paper's grid consists of: every method with the settings to try for it.

The paper's own methods are SM, GD + Armijo, GD with a constant step, DDG, CGBlock and SSO. Of the others some use
curvature; some take first-order steps, most of them in one part of the network. Importing this imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal["paper", "curvature", "first-order"]
TRIPS = {"damping": (1e-4, 1e-3, 1e-2), "damping_candidates": ((0.1, 1.0), (0.03, 0.1, 0.3, 1.0))}


@dataclass(frozen=True)
class Contender:
    """A method of the grid.

    Attributes:
        method: its name in the registry.
        family: "paper" if the paper compares with it; otherwise what its steps are based on.
        takes_steps: whether it runs once for every N.
        options: the fixed ones.
        tuned: the option to tune, and its values; if several, every combination.
    """

    method: str
    family: Family
    takes_steps: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Sequence[Any]] = field(default_factory=dict)


RATES = (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 1e-2, 3e-2)
LOCAL_RATES = (3e-3, 1e-2, 2e-2, 3e-2, 1e-1)
CONTENDERS: Mapping[str, Contender] = {
    "sm": Contender("sm", "paper", True, tuned={"damping": (1e-3, 1e-2, 1e-1)}),
    "sm-trips": Contender("sm", "curvature", True, {"preset": "trips"}, TRIPS),
    "sm-paper": Contender("sm-paper", "paper", True, tuned={"delta": (0.1, 1.0, 10.0, 100.0)}),
    "gd": Contender("gd", "paper", tuned={"lr": (0.03, 0.1, 0.3, 1.0, 3.0)}),
    "gd-armijo": Contender("gd-armijo", "paper"),
    "ddg": Contender("ddg", "paper", options={"optimizer": "adam"}, tuned={"lr": RATES}),
    "sso": Contender("sso", "paper", True, tuned={"lr": (10.0, 50.0, 200.0), "inner_lr": (1.0, 10.0)}),
    "cgblock": Contender("cgblock", "paper", True, {"safeguard": "none"}),
    "cgblock-damping": Contender(
        "cgblock", "paper", True, {"safeguard": "damping"}, {"damping": (0.001, 0.01, 0.1, 1.0, 10.0)}
    ),
    "cgblock-armijo": Contender("cgblock", "curvature", True, {"safeguard": "armijo"}),
    "cgblock-ggn": Contender("cgblock-ggn", "curvature", True, tuned={"damping": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}),
    "locoprop": Contender(
        "locoprop",
        "first-order",
        True,
        tuned={"lr": (0.1, 0.3, 1.0, 10.0, 100.0), "inner_lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    ),
    "kfac": Contender("kfac", "curvature", tuned={"damping": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)}),
    "dgl": Contender("dgl", "first-order", tuned={"lr": LOCAL_RATES}),
    "interlocking": Contender("interlocking", "first-order", tuned={"lr": LOCAL_RATES}),
    "adam": Contender("adam", "first-order", tuned={"lr": (1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2)}),
    "lbfgs": Contender("lbfgs", "curvature", True),
    "features-replay": Contender("features-replay", "first-order", tuned={"lr": RATES}),
    "fdg": Contender("fdg", "first-order", tuned={"lr": RATES}),
    "dni": Contender("dni", "first-order", tuned={"lr": RATES}),
    "dladmm": Contender("dladmm", "first-order", tuned={"penalty": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}),
}
"""By the name used in tables."""


def write_value(value: Any, between: str) -> str:
    """A setting's number as a word; several with a separator."""
    return between.join(f"{number:g}" for number in (value if isinstance(value, tuple) else (value,)))
