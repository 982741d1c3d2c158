"""A model as it is stored: where it is found, its config, and its tensors one at a time.

Files are memory-mapped and shards are opened one after the other, so loading needs no second
copy of the weights. Knows nothing of what the tensors mean (loader.py).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stoker.errors import ModelError


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
    if folder.is_dir():
        return folder
    shipped = Path(__file__).parent.parent / "shipped"
    if (shipped / model / "config.json").is_file():
        return shipped / model
    parts = model.split("/")
    if folder.is_absolute() or model.startswith(".") or len(parts) != 2 or not all(parts):
        names = sorted(path.parent.name for path in shipped.glob("*/config.json"))
        near = difflib.get_close_matches(model, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(
            f"there is no folder {model!r}; {hint}give a model folder, a Hugging Face id such as "
            f"owner/name, or a shipped model: {', '.join(names)}"
        )
    return _download(model, revision, token)


def _download(model: str, revision: str | None, token: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        path = huggingface_hub.snapshot_download(
            model, revision=revision, token=token, allow_patterns=patterns
        )
    except (LocalEntryNotFoundError, OSError) as problem:
        if isinstance(problem, HfHubHTTPError):
            raise ModelError(f"the hub refused {model!r}: {problem}") from problem
        raise ModelError(
            f"{model!r} is no local folder, is not in the Hugging Face cache, and the hub cannot "
            "be reached; go online once, or pass the path of a folder that holds the model"
        ) from problem
    return Path(path)


def read_json(folder: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    """The fields of a JSON file in the folder; {} if it is absent and not required."""
    path = folder / name
    if not path.is_file():
        if required:
            raise ModelError(f"{folder} has no {name}; is this a Hugging Face model folder?")
        return {}
    try:
        fields = json.loads(path.read_text())
    except ValueError as problem:
        raise ModelError(f"{path} is not valid JSON: {problem}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return fields


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of the model: those its index names, or model.safetensors."""
    index = read_json(folder, "model.safetensors.index.json")
    if index and not isinstance(index.get("weight_map"), dict):
        raise ModelError(
            f"{folder / 'model.safetensors.index.json'} has no weight_map; download it again"
        )
    if index:
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        raise ModelError(
            f"{folder} holds no safetensors weights; convert the checkpoint with "
            "transformers' save_pretrained"
        )
    for file in files:
        if not file.is_file():
            raise ModelError(f"the weight index names {file.name}, which is missing from {folder}")
    return files


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
            except SafetensorError as problem:
                raise ModelError(
                    f"{file} is truncated or damaged ({problem}); copy or download it again"
                ) from None

    def _refuse_adapter(self) -> None:
        adapter = read_json(self.path, "adapter_config.json")
        if adapter:
            base = adapter.get("base_model_name_or_path")
            raise ModelError(
                f"{self.path} holds an adapter and not a model (adapter_config.json, "
                f"base_model_name_or_path: {base!r}); merge it into its base model with peft's "
                "merge_and_unload, save that, and pass the folder"
            )
