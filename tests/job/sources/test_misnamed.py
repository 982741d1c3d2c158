"""Files that are not what their names promise, and folders whose texts are not their data."""

import pyarrow as pa
import pytest

from stoker.errors import JobError
from stoker.job.sources import open_source


def refused(path, *words):
    with pytest.raises(JobError) as stop:
        list(open_source(path).rows())
    for word in words:
        assert word in str(stop.value), stop.value


def test_names_that_promise_another_content(tmp_path):
    page = tmp_path / "data.parquet"
    page.write_text("<!DOCTYPE html>\n<title>404</title>\n")
    refused(page, "is no Parquet file, whatever its name", "<!DOCTYPE html>", "--format")
    assert len(list(open_source(page, "text").rows())) == 2
    (tmp_path / "data.arrow").write_text("x")
    refused(tmp_path / "data.arrow", "is no Arrow file")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.txt"])
def test_git_lfs_pointers(tmp_path, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    refused(tmp_path / name, "is a Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize("name", ["data/train.parquet", "train.jsonl", "en/test.csv.gz"])
def test_a_repository_of_data_is_not_its_readme(tmp_path, name):
    (tmp_path / "README.md").write_text("# my data")
    (tmp_path / "LICENSE.txt").write_text("free")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    refused(tmp_path, "README.md", str(path), "--format text")
    assert len(list(open_source(tmp_path, "text").rows())) == 2
    (tmp_path / "letter.txt").write_text("Dear")  # a folder of texts, whatever else it holds
    assert len(list(open_source(tmp_path).rows())) == 3


ROW = b'{"prompt": "x"}\n'
ONE = pa.Codec("zstd").compress(ROW).to_pybytes()
SKIPPED = b"\x5f\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"any"


@pytest.mark.parametrize(
    ("frames", "count"),
    [([ONE, ONE], 2), ([SKIPPED, ONE], 1), ([SKIPPED, ONE, SKIPPED, ONE, SKIPPED], 2)],
)
def test_zstd_of_several_frames(tmp_path, frames, count):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(frames))
    assert [row.fields for row in open_source(path).rows()] == [{"prompt": "x"}] * count
