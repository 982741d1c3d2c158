"""Reads the JSON files of a model's folder. Imports no torch: the tokenizer has such files too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from stoker.errors import ModelError


def read_json(folder: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    """The fields of a JSON file in the folder; {} if it is absent and not required.

    Raises:
        ModelError: it is required and absent, can't be read, or holds no JSON object.
    """
    path = folder / name
    if not os.path.isfile(path):  # False for names that no file can have, too
        if required:
            raise ModelError(f"{folder} has no {name}; is this a Hugging Face model folder?")
        return {}
    fields = parse_json(path)
    if not isinstance(fields, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(fields).__name__}")
    return fields


def parse_json(path: Path) -> Any:
    """What a JSON file holds; a byte order mark before it is skipped.

    Raises:
        ModelError: it can't be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise ModelError(f"cannot read {path}: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise ModelError(f"{path} is not UTF-8 (at byte {problem.start})") from None
    except RecursionError:
        raise ModelError(f"{path} is not valid JSON: nested too deeply") from None
    except ValueError as problem:
        raise ModelError(f"{path} is not valid JSON: {problem}") from None
