"""A small convolutional network on scikit-learn's digits, written by hand and cut by hand.

Run it: python examples/small_cnn.py
"""

import torch
from torch import nn

import surmin
from surmin.data import load_dataset

ROUNDS = 15


def stages() -> list[nn.Module]:
    """Two stages; any modules will do that make up the network when run one after the other."""
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)),
    ]


def main() -> None:
    """Train for some rounds and print how it goes."""
    torch.set_num_threads(1)
    data = load_dataset("digits")
    network = stages()
    sm = surmin.SurrogateMinimizer(network, surmin.CrossEntropy())
    for done in range(1, ROUNDS + 1):
        report = sm.step(data.train_inputs, data.train_targets)
        if done % 3 == 0:
            print(f"round {done:2}: training loss {report.new_loss:.1e}, damping {report.damping:.0e}")
    with torch.no_grad():
        outputs = nn.Sequential(*network)(data.test_inputs)
    print(f"test accuracy {(outputs.argmax(1) == data.test_targets).double().mean().item():.1%}")


if __name__ == "__main__":
    main()
