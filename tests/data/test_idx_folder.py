from pathlib import Path

import numpy as np
import pytest
import torch

from surmin.data import DataError, load_dataset
from surmin.data.idx_folder import IMAGES, LABELS
from tests.data.idx_files import cyclic_labels, random_images, write_folder, write_idx


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_and_labels(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path, suffix)
    dataset = load_dataset(str(tmp_path), dtype=torch.float64)
    expected = (torch.from_numpy(random_images(30)).double() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(dataset.train_inputs, expected.unsqueeze(1))
    assert dataset.train_targets.tolist() == cyclic_labels(30).tolist()
    assert dataset.test_inputs.shape == (20, 1, 4, 3)
    assert dataset.test_targets.dtype == torch.int64
    assert (dataset.classes, dataset.input_shape) == (10, (1, 4, 3))
    assert not dataset.has_tokens


def test_the_plain_file_goes_before_the_compressed_one(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / f"{IMAGES['test']}.gz").write_bytes(b"not even gzip")
    assert len(load_dataset(tmp_path).test_inputs) == 20


def test_first_samples_in_file_order(tmp_path: Path) -> None:
    write_folder(tmp_path)
    whole, part = load_dataset(tmp_path), load_dataset(tmp_path, train_samples=7)
    assert torch.equal(part.train_inputs, whole.train_inputs[:7])
    assert torch.equal(part.train_targets, whole.train_targets[:7])
    assert part.classes == whole.classes
    assert len(part.test_inputs) == len(whole.test_inputs)


@pytest.mark.parametrize("count", [-1, 0, 31])
def test_impossible_sample_counts_say_how_many_there_are(tmp_path: Path, count: int) -> None:
    write_folder(tmp_path)
    with pytest.raises(DataError, match=f"cannot take {count} training samples, there are 1 to 30"):
        load_dataset(tmp_path, train_samples=count)


@pytest.mark.parametrize("name", [*IMAGES.values(), *LABELS.values()])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"no file {name} or {name}.gz"):
        load_dataset(tmp_path)


def test_counts_that_disagree(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_idx(tmp_path / LABELS["training"], cyclic_labels(29))
    with pytest.raises(DataError, match=r"\(training\): 30 inputs but 29 labels"):
        load_dataset(tmp_path)


def test_shapes_that_disagree(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_idx(tmp_path / IMAGES["test"], random_images(20, 4, 4))
    with pytest.raises(DataError, match=r"training inputs are \(4, 3\) each, test inputs \(4, 4\)"):
        load_dataset(tmp_path)


def test_a_single_class(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for part, count in (("training", 30), ("test", 20)):
        write_idx(tmp_path / LABELS[part], np.zeros(count, dtype=np.uint8))
    with pytest.raises(DataError, match="need at least two classes"):
        load_dataset(tmp_path)
