"""Writes a file of held-out tasks over all skills, one JSON object a line.

Each row has `prompt` (the text of the user's turn), `expected` and `skill`. Does not run a
model.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from skills import SKILLS, Case, evaluation_cases


def tasks(count: int, seed: int) -> list[Case]:
    """`count` held-out cases, as even over the skills as it goes, shuffled."""
    cases: list[Case] = []
    for index, skill in enumerate(SKILLS):
        share = count // len(SKILLS) + (index < count % len(SKILLS))
        cases += evaluation_cases(skill, share, seed)
    random.Random(seed).shuffle(cases)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with args.out.open("w", encoding="utf-8") as file:
        for case in tasks(args.count, args.seed):
            row = {"prompt": case.prompt, "expected": case.answer, "skill": case.skill}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
