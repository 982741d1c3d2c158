"""Jobs end to end over the formats, prompts, samples and parts that they take."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stoker import SamplingParams
from stoker.cli.inputs import FORMATS as cli_formats  # noqa: N811
from stoker.cli.main import main
from stoker.errors import InvalidRequestError
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.job.prompts import PromptSettings
from stoker.job.sources import FORMATS, Shard

PARAMS = SamplingParams(temperature=1, max_tokens=6, ignore_eos=True)
CSV = "word,mark\n" + "".join(f"hello {at},{at}\n" for at in range(20))


def run(llm, tmp_path, name, data, **changes):
    source, target = tmp_path / name, tmp_path / "out.jsonl"
    if isinstance(data, pa.Table):
        pq.write_table(data, source)
    else:
        source.write_text(data)
    settings = JobSettings(source, target, **{"params": PARAMS, "restart": True, **changes})
    report = prepare_job(settings)
    run_job(llm, settings, report, lambda report: None)
    lines = target.read_text("utf-8").splitlines()
    assert report.rows == report.total_rows == len(lines)
    return {row["result"]["row"]: row for row in map(json.loads, lines)}


def answers(rows):
    return {number: row["result"]["text"] for number, row in rows.items()}


WORDS = PromptSettings("Say {{ word }}")


def test_formats_and_templates_give_the_same_answers(llm, tmp_path):
    rows = run(llm, tmp_path, "a.csv", CSV, prompts=WORDS)
    assert rows[3]["mark"] == "2"
    table = pa.table({"word": [f"hello {at}" for at in range(20)]})
    assert answers(run(llm, tmp_path, "a.parquet", table, prompts=WORDS)) == answers(rows)
    lines = "".join(f"Say hello {at}\n" for at in range(20))
    assert answers(run(llm, tmp_path, "a.txt", lines)) == answers(rows)
    lines = "".join(json.dumps({"prompt": f"Say hello {at}"}) + "\n" for at in range(20))
    assert answers(run(llm, tmp_path, "a.jsonl", lines)) == answers(rows)


def test_parts_have_the_answers_of_the_whole(llm, tmp_path):
    whole = run(llm, tmp_path, "a.csv", CSV, prompts=WORDS)
    shards = [
        run(llm, tmp_path, "a.csv", CSV, prompts=WORDS, shard=Shard(index, 3))
        for index in (1, 2, 3)
    ]
    assert sum(map(len, shards)) == 20
    assert {number: row for shard in shards for number, row in shard.items()} == whole
    sample = run(llm, tmp_path, "a.csv", CSV, prompts=WORDS, sample=7)
    assert len(sample) == 7
    assert all(whole[number] == row for number, row in sample.items())
    assert sample == run(llm, tmp_path, "a.csv", CSV, prompts=WORDS, sample=7)


def test_system_and_examples_reach_the_model(llm, tmp_path):
    plain = run(llm, tmp_path, "a.txt", "hello\n")[1]["result"]
    more = PromptSettings(system="Be brief.", examples=(("hello", "world"),))
    longer = run(llm, tmp_path, "a.txt", "hello\n", prompts=more)[1]["result"]
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "world"},
        {"role": "user", "content": "hello"},
    ]
    same = run(llm, tmp_path, "b.jsonl", json.dumps({"messages": chat}))[1]["result"]
    assert longer["prompt_tokens"] == same["prompt_tokens"] > plain["prompt_tokens"]
    assert longer["text"] == same["text"]


def test_several_samples(llm, tmp_path):
    one = run(llm, tmp_path, "a.txt", "hello\nthere\n")
    three = SamplingParams(n=3, temperature=1, max_tokens=6, ignore_eos=True)
    rows = run(llm, tmp_path, "a.txt", "hello\nthere\n", params=three)
    for number, row in rows.items():
        result = row["result"]
        assert "text" not in result
        assert len(result["samples"]) == 3
        assert result["samples"][0]["text"] == one[number]["result"]["text"]
        assert len({sample["text"] for sample in result["samples"]}) > 1
        assert result["output_tokens"] == 18
        assert result["status"] == "length"


def test_rows_with_parameters_of_their_own(llm, tmp_path):
    given = [{"max_tokens": 2}, {"seed": 5}, {"seed": 5}, {"n": 2}, {"max_tokens": -1}, {"topp": 1}]
    given.append({"allowed_token_ids": [99999]})
    lines = [json.dumps({"prompt": "hello", "sampling": one}) for one in given]
    rows = [
        row["result"] for _, row in sorted(run(llm, tmp_path, "a.jsonl", "\n".join(lines)).items())
    ]
    assert rows[0]["output_tokens"] == 2
    assert rows[1]["text"] == rows[2]["text"]
    assert len(rows[3]["samples"]) == 2
    assert [row["status"] for row in rows[4:]] == ["bad_row"] * 3
    assert "a.jsonl, line 5: sampling: max_tokens must be at least 1, not -1" in rows[4]["error"]
    assert "unknown sampling parameter 'topp' in sampling; did you mean 'top_p'" in rows[5]["error"]


def test_a_file_of_openai_requests(llm, tmp_path):
    def request(name, url, **body):
        body = {"model": "gpt-x", "max_tokens": 4, **body}
        return {"custom_id": name, "method": "POST", "url": url, "body": body}

    chat = [{"role": "user", "content": "hello"}]
    requests = [
        request("a", "/v1/chat/completions", messages=chat, n=2, logprobs=True, top_logprobs=1),
        request("b", "/v1/completions", prompt="hello", logprobs=2),
        request("c", "/v1/chat/completions", messages=chat, frobnicate=1),
        request("d", "/v1/completions", prompt=[1] * 600),
    ]
    text = "\n".join(map(json.dumps, requests))
    rows = run(llm, tmp_path, "batch.jsonl", text)
    assert rows == run(llm, tmp_path, "batch.jsonl", text)
    assert [rows[at]["custom_id"] for at in (1, 2, 3, 4)] == ["a", "b", "c", "d"]
    codes = [rows[at]["response"]["status_code"] for at in (1, 2, 3, 4)]
    assert codes == [200, 200, 400, 400]
    body = rows[1]["response"]["body"]
    assert len(body["choices"]) == 2
    assert body["usage"]["completion_tokens"] == 8
    assert len(body["choices"][0]["logprobs"]["content"]) == 4
    plain = run(
        llm, tmp_path, "a.jsonl", '{}\n{"prompt": "hello", "sampling": {"max_tokens": 4}}', raw=True
    )
    assert rows[2]["response"]["body"]["choices"][0]["text"] == plain[2]["result"]["text"]
    assert "unknown parameter 'frobnicate'" in rows[3]["response"]["body"]["error"]["message"]
    assert rows[4]["result"]["status"] == "too_long"


def test_mistakes_are_found_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,mark\nhello,1\nthere,2\n")
    (tmp_path / "folder").mkdir()

    def said(*options, source="a.csv", code=1):
        command = ["run", str(tmp_path / source), "-o", str(tmp_path / "out"), "-m", "./no-model"]
        assert main([*command, *options]) == code
        return capsys.readouterr().err

    assert "refers to the column 'txt', which is not there" in said("--prompt", "{{ txt }}")
    assert "the columns are text, mark" in said("--prompt", "{{ other }}")
    assert "--prompt, line 1: the template is no Jinja" in said("--prompt", "{{ text")
    assert "two prompts" in said("--prompt", "x", "--prompt-file", "y")
    assert "--sampling: max_tokens must be at least 1" in said("--sampling", '{"max_tokens": -1}')
    assert "max_tokens must be at least 1, not -1" in said("--max-tokens", "-1")
    assert "did you mean 'stop'" in said("--sampling", '{"stopp": "x"}')
    assert "at temperature 0 would give the same answer 3" in said("--num-samples", "3")
    assert "--shard must be I/N" in said("--shard", "3")
    assert "--sample must be at least 1" in said("--sample", "0")
    assert "--system needs a model with a chat template" in said("--system", "x", "--raw")
    assert "folder is a folder without text files" in said(source="folder")
    assert "cannot read" in said("--examples", "none.csv")
    assert not (tmp_path / "out").exists()


def test_unknown_models_with_near_names(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("hello\n")
    command = ["run", str(tmp_path / "a.txt"), "-o", str(tmp_path / "out"), "-m", "stoker-tny"]
    assert main(command) == 1
    assert "did you mean 'stoker-tiny'?" in capsys.readouterr().err


def test_a_system_message_needs_a_chat_template(llm, tmp_path, monkeypatch):
    monkeypatch.setattr(type(llm.text), "has_chat_template", False)
    with pytest.raises(InvalidRequestError, match="--system needs a model with a chat template"):
        run(llm, tmp_path, "a.txt", "hello\n", prompts=PromptSettings(system="x"))


def test_replicas_take_the_same_prompts(text_model, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(CSV)
    command = ["run", tmp_path / "a.csv", "-o", tmp_path / "out", "-m", text_model, "--threads", 1]
    command += ["--prompt", "Say {{ word }}", "--max-tokens", 3, "--replicas", 2, "--sample", 9]
    command += ["--system", "Be {{ mark }}", "--sampling", '{"ignore_eos": true}']
    assert main(list(map(str, command))) == 0
    two = sorted((tmp_path / "out").read_text().splitlines())
    command[command.index("--replicas") + 1] = 1
    assert main([*map(str, command), "--restart"]) == 0
    one = sorted((tmp_path / "out").read_text().splitlines())
    assert len(one) == 9
    assert one == two
    capsys.readouterr()


def test_an_answer_s_form_in_a_batch_file(llm, tmp_path):
    """`response_format` constrains the answer; what can't be compiled is that request's error."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    forms = [schema, {"not": {}}, None]
    lines = []
    for number, form in enumerate(forms):
        body = {"messages": [{"role": "user", "content": "well?"}], "max_tokens": 40}
        if form is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": form}}
        request = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions"}
        lines.append(json.dumps({**request, "body": body}) + "\n")
    rows = run(llm, tmp_path, "batch.jsonl", "".join(lines), params=SamplingParams(max_tokens=8))
    assert rows[1]["result"]["complete"] is True
    (choice,) = rows[1]["response"]["body"]["choices"]
    assert isinstance(json.loads(choice["message"]["content"])["ok"], bool)
    assert rows[2]["response"]["status_code"] == 400
    assert "not" in rows[2]["response"]["body"]["error"]["message"]
    assert rows[3]["response"]["status_code"] == 200


def test_the_command_line_knows_the_formats():
    assert cli_formats == ("auto", *FORMATS)
