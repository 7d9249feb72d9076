import pytest
import torch

from surmin.experiments.runs.team import choose_device


@pytest.mark.parametrize(("name", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_processes_take_the_gpus_of_their_machine_in_turn(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = [choose_device(name, place) for place in range(5)]
    assert found == [torch.device(kind, number) if kind == "cuda" else torch.device(kind) for number in (0, 1, 2, 0, 1)]


def test_without_a_gpu_there_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", 3) == torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA device is available here"):
        choose_device("cuda")
