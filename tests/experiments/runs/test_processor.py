import pytest
import torch

from surmin.experiments.runs.processor import set_up_processor


def test_what_is_below_the_smallest_normal_number_is_zero() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    torch.set_flush_denormal(False)
    least, half = torch.finfo(torch.float32).tiny, torch.tensor([0.5], device="cpu")
    assert (half * least).item() > 0
    set_up_processor(torch.get_num_threads())
    assert (half * least).item() == 0
