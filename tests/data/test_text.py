from pathlib import Path

import pytest
import torch

from surmin.data import DataError, load_dataset, text


def decode(tokens: torch.Tensor, vocabulary: str) -> str:
    return "".join(vocabulary[token] for token in tokens.flatten().tolist())


def test_windows_of_a_file(tmp_path: Path) -> None:
    content = "the quick brown fox jumps over the lazy dög\n" * 20
    path = tmp_path / "story.md"
    path.write_text(content, encoding="utf-8")
    dataset = load_dataset("text", data_dir=path, context=16)
    vocabulary = "".join(sorted(set(content)))
    assert dataset.classes == len(vocabulary)
    assert dataset.has_tokens and dataset.train_inputs.dtype == dataset.train_targets.dtype == torch.int64
    assert dataset.input_shape == (16,)
    windows = decode(dataset.train_inputs, vocabulary)
    assert content.startswith(windows) and len(content) * 0.9 - 17 <= len(windows) <= len(content) * 0.9
    assert content[1:].startswith(decode(dataset.train_targets, vocabulary))
    split = len(content) - round(0.1 * len(content))
    assert content[split:].startswith(decode(dataset.test_inputs, vocabulary))
    assert content[split + 1 :].startswith(decode(dataset.test_targets, vocabulary))


def test_a_folder_is_joined_in_order(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "b.txt").write_text("b" * 50)
    (tmp_path / "a.txt").write_text("\ufeff" + "a" * 50, encoding="utf-8")
    (tmp_path / "more" / "c.txt").write_text("c" * 50)
    (tmp_path / "notes.md").write_text("z" * 50)
    dataset = load_dataset("text", data_dir=tmp_path, context=5)
    assert dataset.classes == 3
    assert decode(dataset.train_inputs, "abc") == ("a" * 50 + "b" * 50 + "c" * 35)[:130]


def test_python_topics_are_the_default() -> None:
    dataset = load_dataset("text", context=32, train_samples=100)
    assert dataset.train_inputs.shape == dataset.train_targets.shape == (100, 32)
    assert torch.equal(dataset.train_inputs[:, 1:], dataset.train_targets[:, :-1])
    assert 50 < dataset.classes < 500
    assert int(dataset.test_inputs.max()) < dataset.classes


def test_the_shortest_text_that_will_do(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_text("ab" * 25)
    assert len(load_dataset("text", data_dir=path, context=4).test_inputs) == 1
    with pytest.raises(DataError, match="50 characters are too few to train and test on windows of 5"):
        load_dataset("text", data_dir=path, context=5)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: cannot be read"):
        load_dataset("text", data_dir=tmp_path / "absent")
    with pytest.raises(DataError, match=r"no \.txt files"):
        load_dataset("text", data_dir=tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="0 characters are too few"):
        load_dataset("text", data_dir=tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"\xe9" * 1000)
    with pytest.raises(DataError, match="not UTF-8 text"):
        load_dataset("text", data_dir=tmp_path)
    (tmp_path / "same.txt").write_text("a" * 2000)
    with pytest.raises(DataError, match="every character is the same"):
        load_dataset("text", data_dir=tmp_path / "same.txt")


def test_too_much_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_BYTES", 1000)
    (tmp_path / "a.txt").write_text("ab" * 501)
    with pytest.raises(DataError, match="1,002 bytes of text, at most 1,000"):
        load_dataset("text", data_dir=tmp_path)


def test_text_of_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="/dev/zero: more than 1,000 characters of text"):
        load_dataset("text", data_dir="/dev/zero")


@pytest.mark.parametrize("context", [0, -3])
def test_impossible_contexts(context: int) -> None:
    with pytest.raises(DataError, match=f"context must be at least 1, got {context}"):
        load_dataset("text", context=context)


def test_too_many_windows() -> None:
    with pytest.raises(DataError, match="cannot take 1000000 training samples, there are 1 to"):
        load_dataset("text", train_samples=1_000_000)
