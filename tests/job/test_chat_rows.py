"""Chats in jobs: parts, tools, and what the chat template is given, by row and by command."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_templates import PARTS_ONLY, THINKING
from transformers import AutoTokenizer

from stoker import LLM, SamplingParams
from stoker.cli.main import main
from stoker.errors import InvalidRequestError, ModelError
from stoker.job.job import JobSettings
from stoker.job.prefetch import Encoder
from stoker.job.prompts import PromptBuilder, PromptSettings
from stoker.job.rerun import prompt_text
from stoker.job.rows import Row
from stoker.job.sources import open_source

GREEDY = SamplingParams(temperature=0, max_tokens=3)
HELLO = [{"role": "user", "content": "hello"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
CALL = {"function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}, "id": None}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
CALLED = [
    *HELLO,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "20 degrees"},
]


def with_template(text_model, folder, template):
    shutil.copytree(text_model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def folder(text_model, tmp_path_factory):
    return with_template(text_model, tmp_path_factory.mktemp("thinks") / "model", THINKING)


@pytest.fixture(scope="module")
def llm(folder):
    with LLM(str(folder), max_running=3) as one:
        yield one


@pytest.fixture(scope="module")
def oracle(folder):
    """What transformers renders."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    how = {"tokenize": False, "add_generation_prompt": True}
    return lambda chat, **more: tokenizer.apply_chat_template(chat, **{**how, **more})


def prepared(llm, source, **prompts):
    """The prompt or the error of each row."""
    settings = JobSettings(Path("i"), Path("o"), GREEDY, prompts=PromptSettings(**prompts))
    rows = list(open_source(source).rows())
    ready = Encoder(llm, settings).encode(rows)
    assert all((one.error is None) == bool(one.ids) for one in ready)
    return [one.text if one.error is None else (one.status, one.error) for one in ready]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def batch(**body):
    body = {"model": "m", **body}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.fixture(params=["rows", "batch"])
def made(request):
    """A function from a chat and its options to a row: one with columns, or a request."""
    return (lambda **all: all) if request.param == "rows" else batch


def test_chats_of_all_kinds(llm, oracle, made, tmp_path):
    off = {"enable_thinking": False}
    begun = [*HELLO, {"role": "assistant", "content": "I"}]
    rows = [
        made(messages=PARTS),
        made(messages=CALLED, tools=TOOLS),
        made(messages=CALLED, tools=json.dumps(TOOLS)),
        made(messages=HELLO, tools=[], chat_template_kwargs=None),
        made(messages=HELLO, chat_template_kwargs=off),
        made(messages=HELLO, chat_template_kwargs=json.dumps(off)),
        made(messages=HELLO, add_generation_prompt=False),
        made(messages=begun, continue_final_message=True),
    ]
    assert prepared(llm, lines(tmp_path / "a.jsonl", rows)) == [
        oracle(HELLO),
        oracle(CALLED, tools=TOOLS),
        oracle(CALLED, tools=TOOLS),
        oracle(HELLO),
        oracle(HELLO, **off),
        oracle(HELLO, **off),
        oracle(HELLO, add_generation_prompt=False),
        oracle(begun, add_generation_prompt=False, continue_final_message=True),
    ]


def test_a_chat_that_fails_is_a_bad_row_that_names_message_and_field(llm, oracle, made, tmp_path):
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    rows = [
        made(messages=HELLO),
        made(messages=image),
        made(messages=[*HELLO, {"role": "assistant"}]),
        made(messages=[*HELLO, "hello"]),
        made(messages=[]),
        made(messages=HELLO, tools="x"),
        made(messages=HELLO, tools={"a": 1}),
        made(messages=HELLO, tools=[3]),
        made(messages=HELLO, chat_template_kwargs={"enable_thinkng": True}),
        made(messages=HELLO, chat_template_kwargs=[1]),
        made(messages=HELLO, continue_final_message="yes"),
        made(messages=HELLO),
    ]
    first, *bad, last = prepared(llm, lines(tmp_path / "a.jsonl", rows))
    assert first == last == oracle(HELLO)
    says = [
        "messages[0].content[0] is a part of the type 'image_url'; only text can be served",
        "messages[1] (role 'assistant') has no content and no tool_calls",
        "messages[1] must be an object",
        "messages: the chat is empty",
        "tools must be a list or its JSON text",
        "tools must be a list of functions' schemas",
        "tools[0] must be like",
        "did you mean 'enable_thinking'?",
        'chat_template_kwargs must be an object such as {"enable_thinking": false}',
        "continue_final_message must be true or false, not 'yes'",
    ]
    for line, ((status, error), part) in enumerate(zip(bad, says, strict=True), 2):
        assert status == "bad_row"
        assert error.startswith(f"a.jsonl, line {line}: ")
        assert part in error


def test_a_table_fills_messages_with_nulls(llm, oracle, tmp_path):
    table = pa.Table.from_pylist(
        [{"messages": CALLED, "tools": None}, {"messages": HELLO, "tools": json.dumps(TOOLS)}]
    )
    assert set(table.to_pylist()[0]["messages"][0]) == {"role", "content", "tool_calls"}
    pq.write_table(table, tmp_path / "a.parquet")
    assert prepared(llm, tmp_path / "a.parquet") == [oracle(CALLED), oracle(HELLO, tools=TOOLS)]


def test_a_data_column_is_no_option(llm, oracle, tmp_path):
    """Beside a prompt of its own, or under a template, `tools` is what the user's table has."""
    source = lines(tmp_path / "a.jsonl", [{"prompt": "hello", "tools": "hammer"}])
    assert prepared(llm, source) == [oracle(HELLO)]
    hammer = [{"role": "user", "content": "a hammer"}]
    assert prepared(llm, source, template="a {{ tools }}") == [oracle(hammer)]


def test_variables_for_all_rows(llm, oracle, tmp_path):
    """A row's own count before the command's."""
    off, on = {"enable_thinking": False}, {"enable_thinking": True}
    rows = [{"prompt": "hello"}, {"messages": HELLO}, batch(messages=HELLO)]
    rows += [{"messages": HELLO, "chat_template_kwargs": on}]
    found = prepared(llm, lines(tmp_path / "a.jsonl", rows), chat_template_kwargs=off)
    assert found == [oracle(HELLO, **off)] * 3 + [oracle(HELLO, **on)]
    system = [{"role": "system", "content": "S"}, *HELLO]
    found = prepared(llm, tmp_path / "a.jsonl", chat_template_kwargs=off, system="S")
    assert found[:2] == [oracle(system, **off)] * 2


def test_variables_that_can_not_be_are_refused_before_the_first_row(llm):
    def encoder(raw=False, **kwargs):
        prompts = PromptSettings(chat_template_kwargs=kwargs)
        return Encoder(llm, JobSettings(Path("i"), Path("o"), GREEDY, raw=raw, prompts=prompts))

    with pytest.raises(InvalidRequestError, match="does not read 'think'"):
        encoder(think=False)
    with pytest.raises(InvalidRequestError, match="--chat-template-kwargs needs a model with a"):
        encoder(raw=True, enable_thinking=False)
    encoder(enable_thinking=False)


def test_a_chat_template_that_is_none_ends_the_job(text_model, tmp_path):
    folder = with_template(text_model, tmp_path / "model", "{% for m in messages %}")
    settings = JobSettings(tmp_path / "i", tmp_path / "o", GREEDY)
    with LLM(str(folder)) as broken:
        with pytest.raises(ModelError, match="the model's chat template is no Jinja: line 1"):
            Encoder(broken, settings)
        Encoder(broken, JobSettings(tmp_path / "i", tmp_path / "o", GREEDY, raw=True))


def test_prompts_reach_a_template_that_takes_parts_alone(text_model, tmp_path):
    folder = with_template(text_model, tmp_path / "model", PARTS_ONLY)
    source = lines(tmp_path / "a.jsonl", [{"prompt": "hello"}, {"messages": HELLO}])
    with LLM(str(folder)) as one:
        assert prepared(one, source) == ["USER: hello ASSISTANT:"] * 2


def test_jobs_know_their_variables(tmp_path):
    """Jobs with other variables do not mix; one without is what it was before there were any."""
    source = lines(tmp_path / "a.jsonl", [{"prompt": "hello"}])

    def settings(**kwargs):
        prompts = PromptSettings(chat_template_kwargs=kwargs)
        return JobSettings(source, tmp_path / "out.jsonl", GREEDY, prompts=prompts)

    assert settings().described()["prompts"] == {"template": None, "system": None, "examples": []}
    assert settings(a=False).described()["prompts"]["chat_template_kwargs"] == {"a": False}


def test_the_command_line(folder, oracle, tmp_path, capsys):
    source = lines(tmp_path / "a.jsonl", [{"prompt": "hello"}])
    run = ["run", str(source), "-o", str(tmp_path / "o.jsonl"), "-m", str(folder), "-q"]
    run += ["--max-tokens", "2", "--no-report", "--chat-template-kwargs"]
    assert main([*run, '{"enable_thinking": false}']) == 0
    (row,) = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(oracle(HELLO, enable_thinking=False), add_special_tokens=False)
    assert row["result"]["prompt_tokens"] == len(ids)
    assert main([*run, '{"enable_thinking": true}']) == 1
    assert "prompts.chat_template_kwargs.enable_thinking was false" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "o.jsonl"), "--again", "1"]) == 0
    assert "answers   the same" in capsys.readouterr().out
    generate = ["generate", "hello", "-m", str(folder), "--max-tokens", "2"]
    generate += ["--chat-template-kwargs"]
    assert main([*generate, '{"enable_thinking": false}']) == 0
    capsys.readouterr()
    for given, says in [
        ("{x", "--chat-template-kwargs must be a JSON object such as"),
        ("[1]", "--chat-template-kwargs must be an object such as"),
        ('{"think": 1}', "the model's chat template does not read 'think'"),
    ]:
        for command in ([*run, "--restart"], generate):
            at = command.index("--chat-template-kwargs") + 1
            assert main([*command[:at], given, *command[at:]]) == 1
            assert says in capsys.readouterr().err
    assert main([*generate, '{"enable_thinking": false}', "--raw"]) == 1
    assert "needs a model with a chat template, and no --raw" in capsys.readouterr().err


def test_the_text_that_a_row_run_again_shows(tmp_path):
    settings = JobSettings(
        tmp_path, tmp_path / "o", GREEDY, prompts=PromptSettings(chat_template_kwargs={"a": 1})
    )
    assert prompt_text(settings, Row(1, {"messages": PARTS})) == "hello"


def test_examples_and_system_go_before_a_chat_with_tools():
    builder = PromptBuilder(PromptSettings(system="S", examples=(("1", "one"),)), GREEDY, True)
    asked = builder.ask(Row(1, {"messages": CALLED, "tools": TOOLS}))
    assert [one["role"] for one in asked.value] == [
        "system", "user", "assistant", "user", "assistant", "tool",
    ]  # fmt: skip
    assert asked.chat.tools == TOOLS
