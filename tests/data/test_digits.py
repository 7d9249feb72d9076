import numpy as np
import pytest
import sklearn.datasets
import torch

from surmin.data import DataError, load_dataset
from surmin.data.digits import DEVIATION, MEAN


def test_shapes_and_split() -> None:
    dataset = load_dataset("digits")
    assert dataset.train_inputs.shape == (1437, 1, 8, 8)
    assert dataset.test_inputs.shape == (360, 1, 8, 8)
    assert dataset.train_inputs.dtype == torch.float32
    assert dataset.classes == 10
    assert set(dataset.train_targets.tolist()) == set(dataset.test_targets.tolist()) == set(range(10))


def test_the_images_are_scikit_learns() -> None:
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    dataset = load_dataset("digits", dtype=torch.float64)
    found = torch.cat([dataset.train_inputs, dataset.test_inputs]).flatten(1) * DEVIATION + MEAN
    rows = torch.cat([found * 16, torch.cat([dataset.train_targets, dataset.test_targets])[:, None]], 1).cpu()
    expected = torch.cat([torch.from_numpy(pixels), torch.from_numpy(labels)[:, None]], 1)
    order = np.random.RandomState(0).permutation(len(expected))
    torch.testing.assert_close(rows, expected[order])


def test_training_pixels_are_standardised() -> None:
    inputs = load_dataset("digits", dtype=torch.float64).train_inputs
    assert inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert inputs.std().item() == pytest.approx(1, abs=1e-3)


def test_no_test_image_is_trained_on() -> None:
    dataset = load_dataset("digits")
    distances = torch.cdist(dataset.test_inputs.flatten(1), dataset.train_inputs.flatten(1))
    assert distances.min() > 0.1


def test_loading_is_repeatable_and_leaves_the_generators_alone() -> None:
    state = torch.get_rng_state()
    first, second = load_dataset("digits"), load_dataset("digits")
    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_first_samples() -> None:
    whole, part = load_dataset("digits"), load_dataset("digits", train_samples=100)
    assert torch.equal(part.train_inputs, whole.train_inputs[:100])
    assert torch.equal(part.test_targets, whole.test_targets)


def test_too_many_samples() -> None:
    with pytest.raises(DataError, match="cannot take 2000 training samples, there are 1 to 1,437 to take"):
        load_dataset("digits", train_samples=2000)
