"""Activations are kept only for what comes after the gradient."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy
from surmin.curvature.factor import FactorCurvature
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.wave import Wave
from surmin.stages.block import cut_blocks

LAYERS = 5


def pipeline_and_wave(microbatches: int) -> tuple[InProcessPipeline, Wave]:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Sequential(nn.Tanh(), nn.Linear(4, 2))]
    pipeline = InProcessPipeline(stages, CrossEntropy(), microbatches=microbatches)
    return pipeline, pipeline.forward(torch.randn(6, 3), torch.arange(6) % 2)


def activations(wave: Wave) -> list[weakref.ref[Tensor]]:
    """What layers were given, but for the stages' own inputs."""
    return [weakref.ref(state) for own in wave.tapes for tape in own for state in tape.inputs[1:-1]]


@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_gradient_alone_lets_go_of_them_part_by_part(microbatches: int) -> None:
    pipeline, wave = pipeline_and_wave(microbatches)
    held, outputs = activations(wave), [output.detach().clone() for output in wave.outputs]
    assert len(held) == microbatches * (LAYERS - 2)
    kept = pipeline_and_wave(microbatches)[0]
    gradients = pipeline.backward(wave)
    assert not any(one() is not None for one in held)
    assert all(map(torch.equal, wave.outputs, outputs))
    other = pipeline_and_wave(microbatches)[1]
    expected = kept.backward(other, {})
    for own, others in zip(gradients.values(), expected.values(), strict=True):
        assert all(map(torch.equal, own, others))


def test_they_stay_if_curvature_follows() -> None:
    pipeline, wave = pipeline_and_wave(2)
    held, blocks = activations(wave), cut_blocks(pipeline.stages, "layer")
    gradients = pipeline.backward(wave, {})
    assert all(one() is not None for one in held)
    assert len(pipeline.curvature(wave, gradients, blocks, FactorCurvature(), 0)) == 3


def test_curvature_without_them_says_what_to_do() -> None:
    pipeline, wave = pipeline_and_wave(2)
    gradients = pipeline.backward(wave)
    with pytest.raises(RuntimeError, match=r"released its activations: give backward its boundaries, \{\} for none"):
        pipeline.curvature(wave, gradients, cut_blocks(pipeline.stages, "layer"), FactorCurvature(), 0)
