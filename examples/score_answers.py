"""Score given answers by their log-probability: the model chooses, and writes nothing.

python examples/score_answers.py
"""

from stoker import LLM, SamplingParams

QUESTIONS = {
    "Convert to an ISO date: 3rd of May, 1987": ["1987-03-05", "1987-05-03", "1978-05-03"],
    "Sort ascending: 41, 7, 19": ["41, 7, 19", "41, 19, 7", "7, 19, 41"],
    "What comes next: 12, 15, 18, 21": ["22", "24", "27"],
    "Say this again: check supply bar": ["check supply bar", "bar supply check", "check bar"],
}


def main() -> None:
    with LLM("stoker-tiny") as llm:
        chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
        # what the chat template makes of a question, as token ids
        prompts = [one.prompt_token_ids for one in llm.chat(chats, SamplingParams(max_tokens=1))]
        pairs = [
            (question, answer, prompt, llm.encode_prompt(answer).ids)
            for (question, answers), prompt in zip(QUESTIONS.items(), prompts, strict=True)
            for answer in answers
        ]
        scored = llm.generate(
            [{"prompt_token_ids": prompt + ids} for _, _, prompt, ids in pairs],
            SamplingParams(max_tokens=1, prompt_logprobs=0),
        )
    scores: dict[str, dict[str, float]] = {}
    for (question, answer, _, ids), output in zip(pairs, scored, strict=True):
        last = output.prompt_logprobs[-len(ids) :]  # the log-probabilities of the answer's tokens
        total = sum(at[token].logprob for at, token in zip(last, ids, strict=True))
        scores.setdefault(question, {})[answer] = total
    for question, answers in scores.items():
        print(question)
        for answer, score in sorted(answers.items(), key=lambda item: -item[1]):
            print(f"  {score:8.2f}  {answer}")


if __name__ == "__main__":
    main()
