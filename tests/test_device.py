"""What `--device` does to tests, seen with a device that needs no hardware."""

import torch
from torch import nn

from surmin.data import load_dataset
from surmin.models import mlp
from tests.device import MadeOn, here

META = torch.device("meta")


def test_what_tests_make_lies_on_the_device_and_what_surmin_loads_does_not() -> None:
    before = here()
    with MadeOn(META):
        made = [torch.zeros(2), torch.randn(2, requires_grad=True), *nn.Linear(2, 3).parameters()]
        made += list(mlp((4,), outputs=2, layers=2, width=5).parameters())
        assert {tensor.device for tensor in made} == {here()} == {META}
        assert made[1].requires_grad and made[1].is_leaf
        assert torch.zeros(2, device="cpu").device.type == "cpu"
        assert load_dataset("digits", train_samples=3).train_inputs.device.type == "cpu"
    assert here() == before


def test_initial_weights_are_those_of_the_processor() -> None:
    with MadeOn(torch.device("cpu")):
        torch.manual_seed(0)
        drawn = nn.Linear(3, 2)
    torch.manual_seed(0)
    assert torch.equal(drawn.weight.cpu(), nn.Linear(3, 2).weight.cpu())
