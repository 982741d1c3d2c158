"""Model folders that a copy, a clone or a download has left incomplete, and names that are none."""

import shutil

import pytest

from stoker import LLM
from stoker.errors import ModelError
from stoker.model.checkpoint import resolve_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.fixture
def folder(text_model, tmp_path):
    return shutil.copytree(text_model, tmp_path / "two words é")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_git_lfs_pointers(folder, name):
    (folder / name).write_text(POINTER)
    with pytest.raises(ModelError, match=f"{name} is a Git LFS pointer .* git lfs pull"):
        LLM(folder)


def test_links_that_lead_nowhere(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/abc")
    with pytest.raises(ModelError, match=r"safetensors is a link to ../../blobs/abc, .*cp -rL"):
        LLM(folder)


def test_a_file_in_place_of_a_folder(folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"config.json' is a file; give the folder"):
        LLM(folder / "config.json")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/x.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)  # where the name could be one of the hub's
    with pytest.raises(ModelError, match=r"'models/x.gguf' is a file.*GGUF files are not read"):
        LLM("models/x.gguf")


@pytest.mark.parametrize("name", ["my models/llama", "owner/name?", "a--b/c", "x/" + "y" * 300])
def test_names_that_the_hub_cannot_have(name):
    with pytest.raises(ModelError, match="there is no folder"):
        resolve_folder(name)


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    """A function that puts files of the model, in a cache as the hub's, under owner/name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(*names):
        top = tmp_path / "hub/models--owner--name"
        shutil.rmtree(top, ignore_errors=True)
        snapshot = top / "snapshots/abc"
        for made in (snapshot, top / "blobs", top / "refs"):
            made.mkdir(parents=True)
        (top / "refs/main").write_text("abc")
        for name in names:
            shutil.copy(folder / name, top / "blobs")
            (snapshot / name).symlink_to(f"../../blobs/{name}")
        return top

    return put


def test_incomplete_copies_in_the_hubs_cache(cache):
    whole = ["config.json", "model.safetensors", "tokenizer.json"]
    cache(*whole)
    assert resolve_folder("owner/name").name == "abc"
    for missing, wanted in (("config.json", "config.json"), ("model.safetensors", "safetensors")):
        cache(*(name for name in whole if name != missing))
        with pytest.raises(ModelError, match=f"holds no .*{wanted}; .* hf download owner/name"):
            resolve_folder("owner/name")
    (cache(*whole) / "blobs/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"link to .* not there; .* hf download owner/name"):
        resolve_folder("owner/name")
