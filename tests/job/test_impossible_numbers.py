"""Numbers in rows that no tensor can hold: each row has its own outcome, and the others run."""

import json

import pytest

from stoker import SamplingParams
from stoker.job.job import JobSettings, prepare_job, run_job


@pytest.fixture
def run(llm, tmp_path):
    def run(rows):
        source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        params = SamplingParams(temperature=0, max_tokens=3)
        settings = JobSettings(source, target, params, ordered=True, raw=True)
        run_job(llm, settings, prepare_job(settings), lambda report: None)
        return [json.loads(line)["result"] for line in target.read_text("utf-8").splitlines()]

    return run


@pytest.mark.parametrize("size", [2**31, 2**63, 10**30])
def test_sampling(run, size):
    drawn = {"temperature": 1, "seed": size}
    found = run(
        {"prompt": "hello", "sampling": given}
        for given in (
            {**drawn, "top_k": size},
            {**drawn, "top_k": 0},
            {**drawn, "max_tokens": size},
            {"temperature": 1, "seed": -size},
            {"logit_bias": {str(size): 1}},
            {"allowed_token_ids": [size]},
            {"bad_words": [[size]]},
            {"stop_token_ids": [size], "min_tokens": 1},
            {"logprobs": size},
        )
    )
    good = {"done", "length"}
    assert [one["status"] in good for one in found] == [True] * 4 + [False] * 5
    assert found[0]["text"] == found[1]["text"]  # no filter
    for one in found[4:]:
        assert one["status"] == "bad_row"
        assert str(size) in one["error"]


def test_token_ids(run):
    sizes = [-1, 10**6, 2**31, 2**61, 2**62 + 5, 2**63, 10**30]
    *bad, good = run({"prompt_token_ids": [5, size]} for size in (*sizes, 6))
    assert good["status"] in ("done", "length")
    for size, one in zip(sizes, bad, strict=True):
        assert one["status"] == "bad_row"
        assert f"token id {size} is out of range" in one["error"]
