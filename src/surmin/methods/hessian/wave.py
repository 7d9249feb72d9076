"""Products with the Hessian of the network's loss, exact, over the stages of all workers.

A perturbation of the parameters goes up as tangents of the activations; at the top the loss answers with ∇²ℓ times the
tangent of the output, and the change of the gradient comes back down, through each layer as in `layer.py`.
Products cost a forward and a backward wave whose messages hold as many activations as there are columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from surmin.methods.hessian.columns import Columns
from surmin.methods.hessian.layer import LayerTangents, layer_tangents
from surmin.methods.hessian.loss import loss_hessian
from surmin.pipeline.held_stages import Boundaries
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.layer import Layer
from surmin.stages.tape import Tape

Directions = Mapping[str, Tensor]
"""For every trainable layer here, by its global name, directions in its parameters as rows, (columns, P)."""


class NetworkHessian:
    """The Hessian of a pipeline's loss as a function of the parameters, by waves of tangents up and changes down.

    Args:
        pipeline: the network.
        columns: `BlockColumns` or `JointColumns`.

    Attributes:
        boundaries: what the pipeline's `forward` and `backward` must keep for `at`.
    """

    def __init__(self, pipeline: WorkerPipeline, columns: Columns) -> None:
        self.pipeline = pipeline
        self.columns = columns
        self.starts = [_first_moved(pipeline, position) for position in range(len(pipeline.stages))]
        self.boundaries: Boundaries = {
            stage: list(range(start + 1, len(stage.layers)))
            for stage, start in zip(pipeline.stages, self.starts, strict=True)
        }
        self.exchange = pipeline.exchange(("tangents",), ("changes",))

    def at(self, wave: Wave, inputs: Tensor, targets: Tensor) -> "HessianAtPoint":
        """The Hessian at the point of a wave, after the gradient wave; called on all workers.

        Args:
            wave: run with the `boundaries`.
            inputs: of its batch.
            targets: of its batch.
        """
        self.exchange.begin(inputs, targets)
        return HessianAtPoint(self, wave)


class HessianAtPoint:
    """∇²h at one point; made by `NetworkHessian.at`."""

    def __init__(self, hessian: NetworkHessian, wave: Wave) -> None:
        self._pipeline = hessian.pipeline
        self._exchange = hessian.exchange
        self._columns = hessian.columns
        self._starts = hessian.starts
        self._wave = wave
        self._layers = [
            [self._linearized(position, tape) for tape in tapes] for position, tapes in enumerate(wave.tapes)
        ]
        pairs = list(zip(wave.outputs, wave.targets, strict=True)) if self._pipeline.is_last else []
        self._answers = [loss_hessian(self._pipeline.loss, *pair) for pair in pairs]

    @torch.no_grad()
    def products(self, directions: Directions) -> dict[str, Tensor]:
        """∇²h times every direction, or its diagonal block times it, by layer like the directions; on all workers."""
        total: dict[str, Tensor] = {}
        with self._exchange.abandoned_on_failure():
            for number, (top, low) in enumerate(self._climb_all(directions)):
                self._descend(number, top, low, directions, total)
        means = self._pipeline.replicas.means([own.flatten() for own in total.values()])
        return {name: mean.view_as(total[name]) for name, mean in zip(total, means, strict=True)}

    @torch.no_grad()
    def outputs(self, directions: Directions) -> list[Tensor]:
        """How the directions change the network's output, (columns, n, *out) by micro-batch; only the way up.

        Returns:
            On the worker with the last stage; nothing elsewhere.
        """
        with self._exchange.abandoned_on_failure():
            return [top for top, _ in self._climb_all(directions) if top is not None]

    def _climb_all(self, directions: Directions) -> list[tuple[Tensor | None, "_Low"]]:
        self._pipeline.traffic.forward_waves += 1
        return [self._climb(number, directions) for number in range(len(self._wave.targets))]

    def _climb(self, number: int, directions: Directions) -> tuple[Tensor | None, "_Low"]:
        """The tangents of one micro-batch, through all stages here: at the network's output, and below every layer."""
        tangents: Tensor | None = None
        low: _Low = []
        for position in range(len(self._pipeline.stages)):
            carried = self._pipeline.trainable_below(position) > 0
            tangents = self._exchange.take("tangents", position)[0] if carried else None
            low.append([])
            with self._watched("up", number, position, tangents, directions):
                for layer, point in self._moved(position, number):
                    low[-1].append(tangents)
                    own = directions.get(layer.name)
                    tangents = point.push(tangents, None) if own is None else self._columns.enter(point, tangents, own)
            if tangents is not None and self._pipeline.has_above(position):
                self._exchange.put("tangents", position, (tangents,))
        return (tangents if self._pipeline.is_last else None), low

    def _descend(
        self, number: int, top: Tensor | None, low: "_Low", directions: Directions, total: dict[str, Tensor]
    ) -> None:
        """The changes of the gradient for one micro-batch, down through all stages here; adds to `total`."""
        changes = None if top is None else self._answers[number](top) / self._wave.shape[0]
        for position in reversed(range(len(self._pipeline.stages))):
            if self._pipeline.trainable_below(position + 1) == 0:
                return
            if self._pipeline.has_above(position):
                (changes,) = self._exchange.take("changes", position)
            assert changes is not None
            with self._watched("down", number, position, changes, directions):
                changes = self._through(position, number, changes, low[position], directions, total)
            if changes is not None and self._pipeline.trainable_below(position) > 0:
                self._exchange.put("changes", position, (changes,))

    def _through(
        self, position: int, number: int, changes: Tensor, low: Sequence[Tensor | None], directions: Directions,
        total: dict[str, Tensor],
    ) -> Tensor | None:  # fmt: skip
        """The changes below a stage; None below the first layer that trains."""
        below: Tensor | None = changes
        for (layer, point), tangents in reversed(list(zip(self._moved(position, number), low, strict=True))):
            assert below is not None
            own = directions.get(layer.name)
            if own is None:
                below = point.pull_inputs(below, tangents, None)
            else:
                below, product = self._columns.leave(point, below, tangents, own)
                total[layer.name] = total[layer.name] + product if layer.name in total else product
        return below

    def _linearized(self, position: int, tape: Tape) -> list[LayerTangents]:
        layers = self._pipeline.stages[position].layers
        with self._pipeline.work.phase(("linearized", self._wave.part_shape, position)):
            return [
                layer_tangents(
                    layers[index], tape.inputs[index].detach(), tape.parameters[index], tape.cotangents[index + 1]
                )
                for index in range(self._starts[position], len(layers))
            ]

    def _moved(self, position: int, number: int) -> list[tuple[Layer, LayerTangents]]:
        """The layers of a stage that tangents go through, and those at the point of a micro-batch."""
        layers = self._pipeline.stages[position].layers[self._starts[position] :]
        return list(zip(layers, self._layers[position][number], strict=True))

    @contextmanager
    def _watched(
        self, way: str, number: int, position: int, columns: Tensor | None, directions: Directions
    ) -> Iterator[None]:
        own = sum(len(directions.get(layer.name, ())) for layer in self._pipeline.stages[position].layers)
        kind = type(self._columns).__name__
        key = (kind, way, self._wave.part_shape, position, 0 if columns is None else len(columns), own)
        with self._pipeline.tracer.span("C", number), self._pipeline.work.phase(key):
            yield


_Low = list[list[Tensor | None]]
"""By stage and layer, the tangents that arrive there from below."""


def _first_moved(pipeline: WorkerPipeline, position: int) -> int:
    """The first layer of a stage that trains or has one below that does: where tangents start."""
    layers = pipeline.stages[position].layers
    if pipeline.trainable_below(position) > 0:
        return 0
    return next((index for index, layer in enumerate(layers) if layer.size), len(layers))
