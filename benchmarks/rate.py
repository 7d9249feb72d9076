"""How much of a device's matrix-product rate the local phase achieves, and each of its parts."""

from dataclasses import asdict, dataclass

import torch

from benchmarks.clock import in_turns
from benchmarks.harness import Result, Settings, Table, median
from benchmarks.phases import PhaseTimer
from benchmarks.products import BLOCKS, SAMPLES, hidden_block
from surmin.local_phase import LocalPhase
from surmin.options import Options

GPU_WIDTH, CPU_WIDTH, QUICK_WIDTH = 4096, 1024, 128
TURNS = 20
PARTS = {
    "moments": "second moments",
    "invert": "preconditioner",
    "precondition": "applying it",
    "product": "curvature products",
}


@dataclass(frozen=True)
class Rate:
    """One part of a local phase.

    Attributes:
        name: of the part.
        seconds: that it takes, the median.
        operations: counted in it.
        fraction: of the rate of a square matrix product in the same precision.
    """

    name: str
    seconds: float
    operations: int
    fraction: float


def run(settings: Settings) -> Result:
    """In float32, and on a GPU also with products in TF32."""
    width = QUICK_WIDTH if settings.quick else GPU_WIDTH if settings.device.type == "cuda" else CPU_WIDTH
    result = Result(figures={"width": width, "precisions": {}})
    before = torch.get_float32_matmul_precision()
    for name, precision in {"float32": "highest", "TF32": "high"}.items():
        if name == "TF32" and settings.device.type != "cuda":
            continue
        torch.set_float32_matmul_precision(precision)
        try:
            _measure(result, settings, width, name)
        finally:
            torch.set_float32_matmul_precision(before)
    return result


def _measure(result: Result, settings: Settings, width: int, precision: str) -> None:
    settings.note(f"a local phase at width {width}, {precision}")
    turns = 5 if settings.quick else TURNS
    peak = _matrix_product_rate(settings.device, width, turns)
    parts = _parts(settings, width, turns, peak)
    result.figures["precisions"][precision] = {"matrix product": peak, "parts": [asdict(part) for part in parts]}
    columns = ("", "ms", "operations, 1e9", "1e12 a second", "of the rate")
    rows = [
        (
            *(part.name, f"{1e3 * part.seconds:.2f}", f"{part.operations / 1e9:.0f}"),
            *(f"{part.operations / part.seconds / 1e12:.2f}", f"{part.fraction:.0%}"),
        )
        for part in parts
    ]
    title = (
        f"Local phase of a linear block of width {width}, {precision}; a square product: {peak / 1e12:.2f}e12 a second"
    )
    result.tables.append(Table(title, columns, rows))


def _matrix_product_rate(device: torch.device, width: int, turns: int) -> float:
    """Operations a second of a square product."""
    left, right = torch.randn(2, width, width).to(device)
    (seconds,) = in_turns([lambda: left @ right], turns, device, warm_up=3)
    return 2 * width**3 / median(seconds)


def _parts(settings: Settings, width: int, turns: int, peak: float) -> list[Rate]:
    expansion, options = hidden_block(width, 1000 if settings.quick else SAMPLES, settings.device), Options()

    def solve(meter: PhaseTimer) -> None:
        LocalPhase(options, meter).problem(expansion, 0).solve(BLOCKS, options.damping)

    with torch.no_grad():
        solve(PhaseTimer(settings.device))  # warm-up
        timers = [PhaseTimer(settings.device) for _ in range(turns)]
        for timer in timers:
            solve(timer)
        whole = PhaseTimer(settings.device)
        (seconds,) = in_turns([lambda: solve(whole)], turns, settings.device, warm_up=1)
    found = {name: (median([timer.seconds[name] for timer in timers]), timers[0].counted_in(name)) for name in PARTS}
    rates = [Rate(PARTS[name], *of, of[1] / of[0] / peak) for name, of in found.items()]
    operations, taken = timers[0].operations, median(seconds)
    return [*rates, Rate("the whole phase", taken, operations, operations / taken / peak)]
