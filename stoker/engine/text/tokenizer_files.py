"""Reads a tokenizer of transformers, or finds out which file and which field of it is at fault.

The libraries raise whatever they like on damaged files. What can be read when a field is left out
is that field's fault.
"""

from __future__ import annotations

import codecs
import functools
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.errors import ModelError
from stoker.model.json_files import read_json

SERIALISED = "tokenizer.json"
CONFIG = "config.json"
SECONDS = 20  # the search takes no longer; to read a large tokenizer takes one or two
SENTENCEPIECE = "tokenizer.model"
SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    CONFIG,
    "chat_template.json",
    "processor_config.json",
)
VOCABULARIES = (SENTENCEPIECE, "vocab.json", "merges.txt", "vocab.txt", "spiece.model")


def read_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer of a folder, tried on a few letters.

    Raises whatever the libraries do where its files are damaged; see `is_failure`.
    """
    from transformers import AutoTokenizer

    # code of the folder's own is refused; transformers would ask for it on the terminal
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:
        # transformers checks all of config.json, of which a tokenizer needs two fields
        config = _bare_config(folder)
        if config is None:
            raise
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    try:
        ids = tokenizer.encode("a b")
        known = bool(tokenizer.encode("a b", add_special_tokens=False))
    except Exception:
        ids, known = [], False
    if not known:
        _check_own_texts(tokenizer)
    for skip in (True, False):
        tokenizer.decode(ids, skip_special_tokens=skip)
    eos = tokenizer.eos_token_id
    if not all(type(token) is int for token in [*ids, *([] if eos is None else [eos])]):
        raise ValueError(f"token ids must be whole numbers, not {[*ids, eos]}")
    return tokenizer


def _check_own_texts(tokenizer: Any) -> None:
    """Raise ValueError for a tokenizer that makes nothing of its own texts.

    One for proteins, say, rightly makes nothing of other letters, or fails. Raises what it raises
    for its own ones.
    """
    added = tokenizer.added_tokens_decoder.keys()
    own = sorted(set(tokenizer.get_vocab().values()) - added)[:100]
    if not own:
        raise ValueError("it has special tokens only; the file of its vocabulary is missing")
    if not any(
        tokenizer.encode(tokenizer.decode([token]), add_special_tokens=False) for token in own
    ):
        raise ValueError("it makes no tokens of any text; see post_processor in tokenizer.json")


def _bare_config(folder: Path) -> Any:
    """A transformers config of the model's type, its other fields left at their defaults.

    None if config.json names no type that transformers knows.
    """
    from transformers import AutoConfig

    fields = read_json(folder, "config.json")
    try:
        config = AutoConfig.for_model(fields.get("model_type"))
    except Exception:
        return None
    config.tokenizer_class = fields.get("tokenizer_class")
    return config


def is_failure(problem: BaseException) -> bool:
    """Whether an exception is a library's own: also a panic of Rust, which is no Exception."""
    return isinstance(problem, Exception) or type(problem).__name__ == "PanicException"


def explain(folder: Path, problem: BaseException) -> str:
    """The message for a tokenizer that can't be read, with the file and field at fault."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what the attempts warn of is told at the end
    try:
        return _explain(folder, _first_line(problem))
    finally:
        logging.set_verbosity(verbosity)


def _explain(folder: Path, said: str) -> str:
    if not (folder / SERIALISED).is_file() and (folder / SENTENCEPIECE).is_file():
        lacking = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
        if lacking:
            return (
                f"{folder} has {SENTENCEPIECE} and no {SERIALISED}; to read it, install what "
                "transformers needs: pip install sentencepiece protobuf (tiktoken for models of "
                "that kind)"
            )
    try:
        files = {name: read_json(folder, name) for name in (SERIALISED, *SETTINGS)}
    except ModelError as fault:  # names the file
        return f"the tokenizer can't be read: {fault}"
    for path in (folder / name for name in files if files[name] and name != CONFIG):
        if path.read_bytes().startswith(codecs.BOM_UTF8):
            return (
                f"the tokenizer can't be read: {path} begins with a byte order mark; save it as "
                "UTF-8 without one"
            )
    until = time.monotonic() + SECONDS
    serialised = files[SERIALISED]
    if serialised and (fault_said := _refused(serialised)):
        field = _culprit(serialised, lambda fields: not _refused(fields), until)
        return _message(folder / SERIALISED, field, serialised, fault_said)
    for name in SETTINGS:
        reads = functools.partial(_reads, folder, name)
        field = _culprit(files[name], reads, until)
        if field is not None or (files[name] and time.monotonic() < until and reads({})):
            return _message(folder / name, field, files[name], said)
    present = [name for name in (SERIALISED, *VOCABULARIES) if (folder / name).is_file()]
    return f"the tokenizer in {folder} ({', '.join(present)}) can't be read: {said}"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


def _message(path: Path, field: str | None, fields: dict[str, Any], said: str) -> str:
    if field is None:
        return f"the tokenizer can't be read: {path}: {said}"
    value = json.dumps(fields[field])
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    return f"the tokenizer can't be read because of {field} in {path}, which is {shown}: {said}"


def _culprit(
    fields: dict[str, Any], reads: Callable[[dict[str, Any]], bool], until: float
) -> str | None:
    """The first field without which a file can be read, if it is found in time."""
    for field in fields:
        if time.monotonic() > until:
            return None
        if reads({name: value for name, value in fields.items() if name != field}):
            return field
    return None


def _refused(serialised: dict[str, Any]) -> str:
    """Why the tokenizers library refuses a tokenizer.json; "" if it does not."""
    from tokenizers import Tokenizer

    # what a tokenizer.json may leave empty
    optional = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    whole = {"version": "1.0", "added_tokens": [], **dict.fromkeys(optional), **serialised}
    try:
        Tokenizer.from_str(json.dumps(whole))
    except BaseException as problem:
        if not is_failure(problem):
            raise
        return _first_line(problem)
    return ""


def _reads(folder: Path, name: str, fields: dict[str, Any]) -> bool:
    """Whether the tokenizer can be read with `fields` in the file `name`."""
    with tempfile.TemporaryDirectory() as place:
        for path in folder.iterdir():
            if path.name != name and path.suffix in (".json", ".model", ".txt", ".jinja"):
                (Path(place) / path.name).symlink_to(path.resolve())
        (Path(place) / name).write_text(json.dumps(fields))
        try:
            read_tokenizer(Path(place))
        except BaseException as problem:
            if not is_failure(problem):
                raise
            return False
    return True


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    said = lines[0] if lines else ""
    name = type(problem).__name__
    return f"{name}: {said}" if name in ("KeyError", "PanicException") or not said else said
