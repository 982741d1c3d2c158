"""What sits on top of a backbone: a language-model head, a classification head, or nothing.

Every language model of `FAMILIES` is served in three forms: as it stands there (XForCausalLM),
with a linear `score` over labels (XForSequenceClassification), and bare (XModel). The last two
follow from the first, so no family lists them. Called by the loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stoker.errors import ModelError, short, suggest
from stoker.model.families import FAMILIES, Family, architecture, spec_from_config
from stoker.model.families.fields import Fields
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import From

Config = Mapping[str, Any]

CAUSAL = ("ForCausalLM", "LMHeadModel")  # how families name their language models
MOST_LABELS = 1_000_000
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class Head:
    """The kind of head, and what its values mean.

    Attributes:
        tasks: what the model can do: some of "generate", "embed", "classify".
        labels: names of the labels of a classification head.
        problem: one of `PROBLEMS`, for a classification head. As in transformers, one label
            without a problem type is a regression.
        pad: padding id of a classifier; trailing ones are no part of a prompt.
    """

    tasks: tuple[str, ...] = ("generate", "embed")
    labels: tuple[str, ...] = ()
    problem: str = ""
    pad: int | None = None

    def without_padding(self, ids: list[int]) -> list[int]:
        """`ids` up to the last one that is not padding, whose state the head looks at."""
        end = len(ids)
        while end > 1 and ids[end - 1] == self.pad:
            end -= 1
        return ids[:end]


def resolve(config: Config) -> tuple[ModelSpec, Family, Head]:
    """The spec, family and head of a Hugging Face config.

    Raises:
        ModelError: as `spec_from_config`, or the head's fields make no sense, or attention
            is not causal.
    """
    for field, value in (("is_causal", False), ("use_bidirectional_attention", True)):
        if config.get(field) is value:
            raise ModelError(
                f"{field} is {str(value).lower()} in config.json: attention in both directions "
                "is not supported"
            )
    name = architecture(config)
    config = {**config, "architectures": [name]}
    for ending in ("ForSequenceClassification", "Model"):
        base = causal_form(name, ending)
        if base is None:
            continue
        spec, family = spec_from_config({**config, "architectures": [base]})
        names = {
            ours: theirs
            for ours, theirs in family.names.items()
            if not ours.startswith(("head.", "head_map."))
        }
        if ending == "Model":
            head = Head(tasks=("embed",))
        else:
            head = _classifier(config)
            names["head.weight"] = From(("score.weight",))
        spec = replace(
            spec,
            tied_head=False,
            labels=len(head.labels),
            head_bias=False,
            head_map=None,
            logit_scale=1.0,
            logit_softcap=None,
        )
        return spec, replace(family, names=names), head
    return (*spec_from_config(config), Head())


def causal_form(name: str, ending: str) -> str | None:
    """The language model that the architecture `name` is another form of, if it is one."""
    if name in FAMILIES or not name.endswith(ending):
        return None
    stems = [name.removesuffix(ending) + causal for causal in CAUSAL]
    return next((stem for stem in stems if stem in FAMILIES), None)


def _classifier(config: Config) -> Head:
    named = config.get("id2label")
    if named is not None and not isinstance(named, Mapping):
        raise ModelError(f"id2label in config.json must be an object, not {short(named)}")
    # transformers saves neither field where there are two labels, its default
    fields = Fields(config, config["architectures"][0])
    count = len(named) if named else fields.size("num_labels", 2, most=MOST_LABELS)
    labels = tuple(str((named or {}).get(str(at), f"LABEL_{at}")) for at in range(count))
    problem = config.get("problem_type")
    if problem is not None and problem not in PROBLEMS:
        raise ModelError(
            f"problem_type {short(problem)} in config.json is not known; "
            f"{suggest(str(problem), [*PROBLEMS])}"
        )
    if count == 1 and problem != "multi_label_classification":
        problem = "regression"
    pad = config.get("pad_token_id")
    if pad is not None and type(pad) is not int:
        raise ModelError(f"pad_token_id in config.json must be a token id, not {short(pad)}")
    return Head(
        tasks=("embed", "classify"),
        labels=labels,
        problem=problem or "single_label_classification",
        pad=pad,
    )
