import gzip
import hashlib
from pathlib import Path

import pytest

from surmin.data import DataError, download
from surmin.data.download import download_gzip
from tests.data.loopback import Loopback

CONTENT = bytes(range(256)) * 100
CHECKSUM = hashlib.md5(CONTENT).hexdigest()


def test_a_good_file_arrives(tmp_path: Path, loopback: Loopback) -> None:
    loopback.files["file.gz"] = gzip.compress(CONTENT)
    folder = tmp_path / "made" / "on the way"
    download_gzip("file.gz", CHECKSUM, [loopback.url], folder)
    assert [path.name for path in folder.iterdir()] == ["file.gz"]
    assert gzip.decompress((folder / "file.gz").read_bytes()) == CONTENT


def test_a_wrong_sum_leaves_nothing(tmp_path: Path, loopback: Loopback) -> None:
    loopback.files["file.gz"] = gzip.compress(CONTENT[:-1])
    with pytest.raises(DataError, match=f"MD5 of the uncompressed bytes is .*, expected {CHECKSUM}"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_connection_that_ends_early_leaves_nothing(tmp_path: Path, loopback: Loopback) -> None:
    loopback.files["file.gz"] = gzip.compress(CONTENT)
    loopback.missing_bytes = 10
    with pytest.raises(DataError, match="the connection ended after"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_truncated_gzip_leaves_nothing(tmp_path: Path, loopback: Loopback) -> None:
    loopback.files["file.gz"] = gzip.compress(CONTENT)[:-10]
    with pytest.raises(DataError, match="end-of-stream"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_expands_without_end_is_given_up(
    tmp_path: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    loopback.files["file.gz"] = gzip.compress(bytes(100_000))
    with pytest.raises(DataError, match="more than 1,000 bytes uncompressed"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_existing_file_survives_a_failure(tmp_path: Path, loopback: Loopback) -> None:
    (tmp_path / "file.gz").write_bytes(b"mine")
    with pytest.raises(DataError, match="404"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == b"mine"


def test_the_next_mirror_is_tried(tmp_path: Path, loopback: Loopback) -> None:
    loopback.files["file.gz"] = gzip.compress(CONTENT)
    download_gzip("file.gz", CHECKSUM, ["http://127.0.0.1:9/", loopback.url], tmp_path)
    assert (tmp_path / "file.gz").exists()


def test_every_mirror_is_named_when_all_fail(tmp_path: Path, loopback: Loopback) -> None:
    mirrors = ["http://127.0.0.1:9/", loopback.url]
    with pytest.raises(DataError, match=r"cannot download file.gz .*127.0.0.1:9/: .*; .*404.*data_dir") as caught:
        download_gzip("file.gz", CHECKSUM, mirrors, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_endless_file_is_cut_off(tmp_path: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    loopback.files["file.gz"] = bytes(2000)
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path, loopback: Loopback) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="taken: cannot be written"):
        download_gzip("file.gz", CHECKSUM, [loopback.url], tmp_path / "taken")
    assert loopback.requests == []
