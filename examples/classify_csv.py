"""Classify the rows of a CSV file: every answer is one of the labels, whatever the model is like.

python examples/classify_csv.py
"""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

from stoker import LLM, SamplingParams

LABELS = ["DEBUG", "INFO", "WARNING", "ERROR"]


def main() -> None:
    with Path(__file__).with_name("logs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chats = [
        [{"role": "user", "content": f"Extract level as JSON.\n{row['line']}"}] for row in rows
    ]
    # stoker-tiny answers this question with JSON; another model may take the bare labels
    choices = {json.dumps({"level": label}): label for label in LABELS}
    params = SamplingParams(temperature=0, max_tokens=32, choice=list(choices))
    with LLM("stoker-tiny") as llm:
        answers = [output.outputs[0].text for output in llm.chat(chats, params)]
    labelled = csv.writer(sys.stdout, lineterminator="\n")
    labelled.writerow(["id", "level"])
    labelled.writerows(
        (row["id"], choices[answer]) for row, answer in zip(rows, answers, strict=True)
    )
    counts = Counter(choices[answer] for answer in answers)
    print(", ".join(f"{counts[label]} {label}" for label in LABELS), file=sys.stderr)


if __name__ == "__main__":
    main()
