"""What a sentence-transformers folder says of its embeddings: pooling and normalisation.

Such a folder is a Hugging Face model with `modules.json` beside it, which lists the stages
after the backbone. Reads files only; called when an engine is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import ModelError
from stoker.model.json_files import parse_json, read_json

KINDS = ("Transformer", "Pooling", "Normalize")
MODES = {  # field of 1_Pooling/config.json, or its later pooling_mode -> our name
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
}


@dataclass(frozen=True)
class EmbeddingDefaults:
    """How to embed when the caller does not say.

    Attributes:
        pooling: "last", "mean" or "cls".
        normalize: scale to length 1.
        problem: why the folder's own way can't be followed; "" if it can. The caller must
            choose a pooling then.
    """

    pooling: str = "last"
    normalize: bool = True
    problem: str = ""


def embedding_defaults(folder: Path) -> EmbeddingDefaults:
    """The defaults of a model folder: those of its `modules.json`, else last token, normalised.

    Raises:
        ModelError: modules.json is no list of modules.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return EmbeddingDefaults()
    try:
        modules: Any = parse_json(path)
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    except (TypeError, KeyError):
        kinds = []
    if not kinds or not isinstance(modules, list):
        raise ModelError(f"{path} must hold a list of modules, each with a type")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        return EmbeddingDefaults(
            problem=f"modules.json asks for {', '.join(unknown)}, which is not supported"
        )
    pooling = "last"
    if "Pooling" in kinds:
        where = str(modules[kinds.index("Pooling")].get("path") or "1_Pooling")
        fields = read_json(folder, f"{where}/config.json", required=True)
        chosen = [
            name for name, on in fields.items() if name.startswith("pooling_mode_") and on is True
        ]
        if isinstance(fields.get("pooling_mode"), str):
            chosen = [fields["pooling_mode"]]
        if len(chosen) != 1 or chosen[0] not in MODES:
            asked = ", ".join(chosen) or "nothing"
            return EmbeddingDefaults(
                problem=f"{where}/config.json asks for {asked}; supported is one of "
                f"{', '.join(MODES)}"
            )
        pooling = MODES[chosen[0]]
    return EmbeddingDefaults(pooling, "Normalize" in kinds)
