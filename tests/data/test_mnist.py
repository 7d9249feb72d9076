import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from surmin.data import DataError, load_dataset, mnist
from surmin.data.idx_folder import IMAGES, LABELS
from tests.data.idx_files import cyclic_labels, encode_idx, random_images, write_folder, write_idx
from tests.data.loopback import Loopback
from tests.mnist_files import ABSENT, mnist_folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data folder is named, and the user's cache is empty."""
    monkeypatch.delenv("SURMIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "surmin" / "mnist"


@pytest.fixture
def mirror(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """A mirror of a small data set under MNIST's names, with the sums to match."""
    source = tmp_path / "source"
    source.mkdir()
    write_folder(source, ".gz")
    for path in source.iterdir():
        loopback.files[path.name] = path.read_bytes()
    contents = {
        IMAGES["training"]: random_images(30),
        LABELS["training"]: cyclic_labels(30),
        IMAGES["test"]: random_images(20),
        LABELS["test"]: cyclic_labels(20),
    }
    sums = {name: hashlib.md5(encode_idx(values)).hexdigest() for name, values in contents.items()}
    monkeypatch.setattr(mnist, "CHECKSUMS", sums)
    monkeypatch.setattr(mnist, "MIRRORS", (loopback.url,))
    return loopback


def test_the_published_files() -> None:
    folder = mnist_folder()
    if folder is None:
        pytest.skip(ABSENT)
    dataset = load_dataset("mnist", data_dir=folder, train_samples=5000)
    assert dataset.train_inputs.shape == (5000, 1, 28, 28)
    assert dataset.test_inputs.shape == (10_000, 1, 28, 28)
    assert dataset.classes == 10
    assert dataset.train_targets[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert dataset.train_inputs.min().item() == pytest.approx(-0.1307 / 0.3081)
    assert dataset.train_inputs.max().item() == pytest.approx((1 - 0.1307) / 0.3081)


@pytest.mark.slow
def test_the_scaling_standardises_the_published_training_images() -> None:
    folder = mnist_folder()
    if folder is None:
        pytest.skip(ABSENT)
    inputs = load_dataset("mnist", data_dir=folder).train_inputs
    assert len(inputs) == 60_000
    assert inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert inputs.std().item() == pytest.approx(1, abs=1e-3)


def test_a_named_folder_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, environment = tmp_path / "named", tmp_path / "environment"
    for folder, count in ((named, 30), (environment, 40)):
        folder.mkdir()
        write_folder(folder, train=count)
    monkeypatch.setenv("SURMIN_DATA", str(environment))
    assert len(load_dataset("mnist", data_dir=named).train_inputs) == 30
    assert len(load_dataset("mnist").train_inputs) == 40


def test_the_environment_goes_before_the_cache(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_cache.mkdir(parents=True)
    write_folder(empty_cache)
    assert len(load_dataset("mnist").train_inputs) == 30
    monkeypatch.setenv("SURMIN_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"{tmp_path}: no file"):
        load_dataset("mnist")


def test_a_named_folder_is_never_filled(tmp_path: Path, mirror: Loopback) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(DataError, match="no file train-images-idx3-ubyte"):
        load_dataset("mnist", data_dir=folder)
    assert not any(folder.iterdir())
    assert mirror.requests == []


def test_the_cache_is_filled_once(empty_cache: Path, mirror: Loopback) -> None:
    first, second = load_dataset("mnist"), load_dataset("mnist")
    assert torch.equal(first.train_inputs, second.train_inputs)
    assert sorted(mirror.requests) == sorted(mirror.files)
    assert sorted(path.name for path in empty_cache.iterdir()) == sorted(mirror.files)


def test_only_what_is_missing_is_fetched(empty_cache: Path, mirror: Loopback) -> None:
    load_dataset("mnist")
    (empty_cache / f"{LABELS['test']}.gz").unlink()
    mirror.requests.clear()
    load_dataset("mnist")
    assert mirror.requests == [f"{LABELS['test']}.gz"]


def test_a_foreign_label_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_idx(tmp_path / LABELS["test"], np.full(20, 12, dtype=np.uint8))
    with pytest.raises(DataError, match="label 12"):
        load_dataset("mnist", data_dir=tmp_path)
