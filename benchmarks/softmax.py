"""Cross-entropy over few classes: value and gradient by the library's loss, against torch's own softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clock import in_turns, ratios
from benchmarks.harness import Result, Settings, Table, median, spread
from surmin.losses import CrossEntropy

SIZES = ((400, 10), (5000, 2), (5000, 10), (5000, 15), (5000, 16), (60000, 10))
TURNS, QUICK_TURNS = 51, 2
COLUMNS = ("samples × classes", "ms: loss", "torch's", "loss, ours over torch's", "gradient, ours over torch's")


def run(settings: Settings) -> Result:
    """Both parts against torch's, in turns."""
    result, rows = Result(), []
    for samples, classes in SIZES[:1] if settings.quick else SIZES:
        generator = torch.Generator().manual_seed(0)
        outputs = 3 * torch.randn(samples, classes, generator=generator).to(settings.device)
        targets = torch.randint(classes, (samples,), generator=generator).to(settings.device)
        rows.append(_row(f"{samples:,} × {classes}", outputs, targets, settings, result))
    turns = QUICK_TURNS if settings.quick else TURNS
    result.tables.append(Table(f"median (range) over {turns} turns", COLUMNS, rows))
    return result


def _row(name: str, outputs: Tensor, targets: Tensor, settings: Settings, result: Result) -> tuple[str, ...]:
    loss = CrossEntropy()
    value, peer_value, gradient, peer_gradient = in_turns(
        [
            lambda: loss.sample_losses(outputs, targets),
            lambda: F.cross_entropy(outputs, targets, reduction="none"),
            lambda: loss.gradient(outputs, targets),
            lambda: _plain_gradient(outputs, targets),
        ],
        QUICK_TURNS if settings.quick else TURNS, settings.device, warm_up=3,
    )  # fmt: skip
    result.figures[name] = {"value": ratios(value, peer_value), "gradient": ratios(gradient, peer_gradient)}
    return (
        name, f"{1e3 * median(value):.3f}", f"{1e3 * median(peer_value):.3f}",
        spread(ratios(value, peer_value), 2), spread(ratios(gradient, peer_gradient), 2),
    )  # fmt: skip


def _plain_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """As torch takes it; ours is exact where a sample is all but fitted, for two passes more."""
    labels = targets.unsqueeze(-1)
    return outputs.softmax(-1).scatter_add_(-1, labels, outputs.new_full(labels.shape, -1.0))
