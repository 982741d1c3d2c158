"""Find the rows nearest to a row by their embeddings.

python examples/nearest_rows.py
"""

import json
from itertools import islice
from pathlib import Path

import numpy as np

from stoker import LLM

ROWS = 100


def main() -> None:
    with Path(__file__).with_name("tasks.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, ROWS)]
    with LLM("stoker-tiny") as llm:
        outputs = llm.embed([row["prompt"] for row in rows], pooling="mean")
    vectors = np.array([output.outputs.embedding for output in outputs])  # of length 1
    closeness = vectors @ vectors.T
    np.fill_diagonal(closeness, -1)
    nearest = closeness.argmax(axis=1)
    for row, other in islice(enumerate(nearest), 5):
        print(f"{closeness[row, other]:.2f}  {rows[row]['prompt'][:40]!r}")
        print(f"      {rows[other]['prompt'][:40]!r}")
    alike = sum(rows[row]["skill"] == rows[other]["skill"] for row, other in enumerate(nearest))
    print(f"{alike} of {ROWS} rows are nearest to one of the same skill")


if __name__ == "__main__":
    main()
