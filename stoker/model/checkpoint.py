"""A model as it is stored: where it is found, its config, and its tensors one at a time.

Files are memory-mapped and shards are opened one after the other, so loading needs no second
copy of the weights. Knows nothing of what the tensors mean (loader.py).
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stoker.errors import ModelError
from stoker.model.folder_check import PATTERNS, require_files
from stoker.model.json_files import read_json

log = logging.getLogger(__name__)

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"


def resolve_folder(model: str, revision: str | None = None, token: str | None = None) -> Path:
    """The local folder of `model`: a path, the name of a shipped model, or a Hugging Face id.

    Args:
        model: "stoker-tiny", "path/to/folder" or "owner/name".
        revision: branch, tag or commit on the hub.
        token: access token for the hub; the one stored by huggingface_hub if None.

    Raises:
        ModelError: there is no such folder, and the hub has no such model or can't be reached.
    """
    folder = Path(model).expanduser()
    if os.path.isdir(folder):  # False for names that no folder can have, too
        require_files(folder, "copy the folder again (cp -rL copies what links point to)")
        return folder
    if os.path.isfile(folder):
        gguf = "; GGUF files are not read" if folder.suffix == ".gguf" else ""
        raise ModelError(
            f"{model!r} is a file; give the folder with config.json and safetensors weights{gguf}"
        )
    shipped = Path(__file__).parent.parent / "shipped"
    if (shipped / model / "config.json").is_file():
        return shipped / model
    parts = model.split("/")
    if folder.is_absolute() or model.startswith(".") or len(parts) != 2 or not all(parts):
        raise _no_folder(model, shipped)
    from huggingface_hub.errors import HFValidationError

    try:
        return _download(model, revision, token)
    except HFValidationError:  # no name that the hub could have, such as one with blanks
        raise _no_folder(model, shipped) from None


def _no_folder(model: str, shipped: Path) -> ModelError:
    names = sorted(path.parent.name for path in shipped.glob("*/config.json"))
    near = difflib.get_close_matches(model, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ModelError(
        f"there is no folder {model!r}; {hint}give a model folder, a Hugging Face id such as "
        f"owner/name, or a shipped model: {', '.join(names)}"
    )


def _download(model: str, revision: str | None, token: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(
            huggingface_hub.snapshot_download(
                model, revision=revision, token=token, allow_patterns=[*PATTERNS]
            )
        )
    except (LocalEntryNotFoundError, OSError) as problem:
        if isinstance(problem, HfHubHTTPError):
            raise ModelError(f"the hub refused {model!r}: {problem}") from problem
        raise ModelError(
            f"{model!r} is no local folder, is not in the Hugging Face cache, and the hub cannot "
            "be reached; go online once, or pass the path of a folder that holds the model"
        ) from problem
    again = f"go online and fetch it again: hf download {model}"
    require_files(path, again)
    for wanted in ("config.json", "*.safetensors"):
        if not any(path.glob(wanted)):
            raise ModelError(
                f"{path}, where {model!r} is cached, holds no {wanted}; if the hub has it, {again}"
            )
    return path


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of the model: model.safetensors, or the shards.

    A single file goes before an index that does not name it or names files that are missing, as
    in transformers; such an index was left behind by shards. Shards without an index are taken by
    their names, model-00001-of-00002.safetensors.

    Raises:
        ModelError: there are none, or the index is damaged or names a file that is missing.
    """
    single = folder / SINGLE
    if single.is_file():
        return _with_single(folder, single)
    if (folder / INDEX).is_file():
        files = _indexed(folder)
        for file in files:
            if not os.path.isfile(file):
                raise ModelError(
                    f"weight_map in {folder / INDEX} names {file.name[:80]}, which is missing"
                )
        return files
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        if others:
            raise ModelError(
                f"{folder} has neither {SINGLE} nor {INDEX}; rename {others[0]} to {SINGLE} if it "
                "holds the whole model"
            )
        raise ModelError(
            f"{folder} holds no safetensors weights; convert the checkpoint with "
            "transformers' save_pretrained"
        )
    return shards


def _with_single(folder: Path, single: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [single]
    try:
        files = _indexed(folder)
    except ModelError as problem:
        log.info("only %s is loaded: %s", single, problem)
        return [single]
    if single in files and all(map(os.path.isfile, files)):
        return files
    log.info("only %s is loaded: %s beside it names other files", single, INDEX)
    return [single]


def _indexed(folder: Path) -> list[Path]:
    """The files that the index names, which may be missing."""
    path = folder / INDEX
    placed = read_json(folder, INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelError(f"{path} has no weight_map; download it again")
    for tensor, name in placed.items():
        if not isinstance(name, str) or Path(name).name != name or not name.strip("."):
            raise ModelError(
                f"weight_map in {path} must name a file of the folder for each tensor; for "
                f"{tensor!r} it has {name!r}"
            )
    return [folder / name for name in sorted(set(placed.values()))]


class CheckpointSource(Protocol):
    """A stored model: what the loader and the tokenizer read, whatever kind of file it is in."""

    @property
    def path(self) -> Path:
        """The folder or file, for messages; in a folder lie the tokenizer's files."""

    def config(self) -> dict[str, Any]:
        """The fields of config.json, or what stands for them.

        Raises:
            ModelError: there are none, or this is no model.
        """

    def generation_config(self) -> dict[str, Any]:
        """The fields of generation_config.json; {} if there is none."""

    def tensors(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Each tensor's name and content: memory-mapped on a CPU, else on the device.

        The host never holds more than the pages of one tensor that are being copied, and the
        device one tensor beside what the caller keeps.

        Raises:
            ModelError: a file is missing, truncated or otherwise damaged, by name.
        """

    def file_of(self, tensor: str) -> Path:
        """The file that holds a tensor which `tensors` gave, for messages."""


@dataclass(frozen=True)
class SafetensorsFolder:
    """A folder as Hugging Face models are published: config.json beside safetensors files."""

    path: Path

    def config(self) -> dict[str, Any]:
        if not (self.path / "config.json").is_file():
            self._refuse_adapter()
        return read_json(self.path, "config.json", required=True)

    def generation_config(self) -> dict[str, Any]:
        return read_json(self.path, "generation_config.json")

    def tensors(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """See `CheckpointSource.tensors`; goes shard by shard."""
        from safetensors import SafetensorError, safe_open

        for file in tensor_files(self.path):
            try:
                with safe_open(file, framework="pt", device=str(device)) as shard:
                    for name in shard.keys():  # noqa: SIM118  # not a mapping
                        yield name, shard.get_tensor(name)
            except (SafetensorError, OSError) as problem:
                raise ModelError(
                    f"{file} is truncated or damaged ({problem}); copy or download it again"
                ) from None

    def file_of(self, tensor: str) -> Path:
        """See `CheckpointSource.file_of`; reads the headers again."""
        from safetensors import safe_open

        for file in tensor_files(self.path):
            with safe_open(file, framework="pt") as shard:
                if tensor in shard.keys():  # noqa: SIM118  # not a mapping
                    return file
        return self.path

    def _refuse_adapter(self) -> None:
        adapter = read_json(self.path, "adapter_config.json")
        if adapter:
            base = adapter.get("base_model_name_or_path")
            raise ModelError(
                f"{self.path} holds an adapter and not a model (adapter_config.json, "
                f"base_model_name_or_path: {base!r}); merge it into its base model with peft's "
                "merge_and_unload, save that, and pass the folder"
            )
