"""What recording spans costs: the waves of a round, traced, over the same waves with tracing off."""

from collections.abc import Callable

from benchmarks.clock import in_turns, ratios
from benchmarks.harness import Result, Settings, Table, Target, median, spread
from benchmarks.problems import gaussian_mlp
from surmin import CrossEntropy, partition
from surmin.curvature.factor import FactorCurvature
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.tracing import NULL_TRACER, SpanRecorder, Tracer

SAMPLES, LAYERS, WIDTH, STAGES, MICROBATCHES, TURNS = 5000, 8, 64, 4, 20, 200
LIMIT = 1.01


def run(settings: Settings) -> Result:
    """Small micro-batches, so that there are many spans for little work."""
    samples, turns = (500, 5) if settings.quick else (SAMPLES, TURNS)
    problem = gaussian_mlp(settings.device, LAYERS, WIDTH, samples)
    pipeline = InProcessPipeline(partition(problem.network(0), STAGES), CrossEntropy(), microbatches=MICROBATCHES)
    blocks, _ = pipeline.cut("layer")
    recorder = SpanRecorder(0)

    def waves(tracer: Tracer) -> Callable[[], None]:
        def compute() -> None:
            pipeline.tracer = tracer
            wave = pipeline.forward(problem.inputs, problem.targets)
            pipeline.curvature(wave, pipeline.backward(wave, {}), blocks, FactorCurvature(), 0)

        return compute

    traced, bare = in_turns([waves(recorder), waves(NULL_TRACER)], turns, settings.device, warm_up=2)
    spans, over = len(recorder.take()) // (turns + 2), ratios(traced, bare)
    rows = [(f"{spans}", spread([1e3 * own for own in bare], 1), spread(over, 4))]
    title = f"Waves of a round on {problem.name}, {samples} samples in {MICROBATCHES} micro-batches: median (range)"
    return Result(
        [Table(title, ("spans", "ms untraced", "traced over untraced"), rows)],
        [Target("traced over untraced, median", median(over), LIMIT)],
        {"spans": spans, "traced": traced, "untraced": bare},
    )
