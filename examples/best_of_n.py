"""Draw several answers to each question and keep one that passes a check.

python examples/best_of_n.py
"""

import random

from stoker import LLM, SamplingParams

SAMPLES = 8
QUESTIONS = 30


def sorts(numbers: list[int], answer: str) -> bool:
    """Whether the answer has these numbers in rising order."""
    return answer.split() == [str(number) for number in sorted(numbers)]


def main() -> None:
    draw = random.Random(0)
    lists = [draw.sample(range(1000), 8) for _ in range(QUESTIONS)]
    chats = [
        [{"role": "user", "content": f"Sort ascending: {' '.join(map(str, numbers))}"}]
        for numbers in lists
    ]
    several = SamplingParams(n=SAMPLES, temperature=0.7, max_tokens=64, seed=0)
    with LLM("stoker-tiny") as llm:
        greedy = llm.chat(chats, SamplingParams(temperature=0, max_tokens=64))
        drawn = llm.chat(chats, several)  # a question's answers share its prompt in the cache
    alone = sum(
        sorts(numbers, one.outputs[0].text) for numbers, one in zip(lists, greedy, strict=True)
    )
    best = sum(
        any(sorts(numbers, answer.text) for answer in one.outputs)
        for numbers, one in zip(lists, drawn, strict=True)
    )
    print(f"greedy      {alone} of {QUESTIONS} right")
    print(f"best of {SAMPLES:<3} {best} of {QUESTIONS} right")


if __name__ == "__main__":
    main()
