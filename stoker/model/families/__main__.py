"""Writes docs/models.md from the table: `python -m stoker.model.families > docs/models.md`."""

from __future__ import annotations

from stoker.model.families import FAMILIES

HEAD = """\
# Models

This page is written by `python -m stoker.model.families > docs/models.md`; a test keeps it up to
date.

An architecture is the name in the `architectures` field of a model's config.json. Each one here is
compared with transformers in float32 on a CPU: the same greedy tokens, and logits within 1e-4, on
random tiny models, with prompts cut into chunks, preempted, cached and past their windows
(`tests/model/test_families.py`).

| architecture | models | what it takes |
| --- | --- | --- |
"""

TAIL = """
## Rotary embeddings

| type | what it does |
| --- | --- |
| default | frequencies of the base |
| linear | positions divided by a factor |
| llama3 | low frequencies divided by a factor, as Llama 3.1 |
| yarn | a ramp from low to high frequencies; `max_context` up to factor times the original |
| dynamic | a base that grows with the context; `max_context` up to factor times the original |
| longrope | a factor for each frequency; one set up to the original context, another beyond |

A key is rotated once, when it is cached, and prompts share cached keys. So the frequencies of
`dynamic` and `longrope` can't follow a sequence as it grows. They are those for a sequence of
`max_context` tokens, for all sequences. With `max_context` no greater than the original context,
results are those of transformers for any prompt. With a greater one, and that is the default, they
are those of transformers for sequences of `max_context` tokens (`dynamic`) or past the original
context (`longrope`), and short prompts are rotated alike.

## What is refused

- Quantised checkpoints, whatever the method; the message names it. float32, bfloat16 and float16
  are loaded.
- Adapters (a folder with adapter_config.json and no config.json): merge them into their base model
  first.
- Mixtures of experts, state spaces, encoders, models of images or sound.
- A field with a value that nothing here implements, by name: Gemma with attention in
  both directions, GPT-2 with cross-attention.
"""


def page() -> str:
    """The text of docs/models.md."""
    rows = (f"| {name} | {family.models} | {family.about} |\n" for name, family in FAMILIES.items())
    return HEAD + "".join(rows) + TAIL


if __name__ == "__main__":
    print(page(), end="")
