"""Trains the byte-level BPE tokenizer and turns text and chats into token ids.

Letters, single digits and everything between them are split first, so that a word has the
same token wherever it stands. Does not train a model.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from skills import SKILLS, make_case
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from words import WORDS

END_OF_TEXT, USER, ASSISTANT, SYSTEM, END = SPECIAL = (
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
PIECES = r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"


def chat_prompt(prompt: str) -> str:
    """The text before the answer, as the chat template writes it."""
    return f"{USER}{prompt}{END}{ASSISTANT}"


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE whose ids start with the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def skill_texts(count: int) -> list[str]:
    """Prompts and answers of every skill, and the skills' words often enough to be tokens."""
    rng = random.Random(0)
    texts = [" ".join(WORDS)] * 2000
    for skill in SKILLS:
        for _ in range(count):
            case = make_case(skill, rng, (3, 8), held_out=False)
            texts.append(f"{case.prompt}\n{case.answer}")
    return texts


def main() -> None:
    """Train on the corpus, or take a tokenizer; write tokenizer.json, train.npy, held_out.npy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=3072)
    parser.add_argument("--given", type=Path, help="use this tokenizer.json, train none")
    args = parser.parse_args()
    texts = {
        name: (args.data / f"{name}.txt").read_text(encoding="utf-8").split("\0")
        for name in ("train", "held_out")
    }
    if args.given:
        tokenizer = Tokenizer.from_file(str(args.given))
    else:
        tokenizer = train_tokenizer(texts["train"] + skill_texts(3000), args.vocab)
    tokenizer.save(str(args.data / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    for name, documents in texts.items():
        ids: list[int] = []
        for encoding in tokenizer.encode_batch(documents):
            ids += [*encoding.ids, end]
        np.save(args.data / f"{name}.npy", np.array(ids, dtype=np.uint16))
        print(name, len(ids), "tokens")
    whole = sum(len(tokenizer.encode(word).ids) == 1 for word in WORDS)
    print(f"{whole} of {len(WORDS)} skill words are single tokens")


if __name__ == "__main__":
    main()
