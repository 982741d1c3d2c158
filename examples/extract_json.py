"""Extract fields as JSON that follows a schema: names, types and values are never others.

python examples/extract_json.py
"""

import csv
import json
from pathlib import Path

from stoker import LLM, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {
        "time": {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}:[0-9]{2}$"},
        "user": {"type": "string", "maxLength": 20},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "ms": {"type": "integer", "minimum": 0},
    },
    "required": ["time", "user", "status", "ms"],
    "additionalProperties": False,
}


def main() -> None:
    with Path(__file__).with_name("logs.csv").open(newline="") as file:
        lines = [row["line"] for row in csv.DictReader(file)]
    question = f"Extract {', '.join(SCHEMA['required'])} as JSON.\n"
    chats = [[{"role": "user", "content": question + line}] for line in lines]
    params = SamplingParams(temperature=0, max_tokens=100, json_schema=SCHEMA)
    with LLM("stoker-tiny") as llm:
        for output in llm.chat(chats, params):
            answer = output.outputs[0]
            # an answer that the token limit cut is the beginning of valid JSON, and no JSON yet
            print(json.dumps(json.loads(answer.text)) if answer.complete else "null")


if __name__ == "__main__":
    main()
