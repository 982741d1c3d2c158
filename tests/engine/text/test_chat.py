"""Chats through chat templates: what transformers renders, wherever that is what was meant."""

import json

import pytest
from chat_templates import FAMILIES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stoker.engine.text.chat_options import ChatOptions
from stoker.engine.text.tokenizer import TextCodec
from stoker.errors import InvalidRequestError, ModelError

SPECIAL = ["<s>", "</s>"]


def save(folder, template, bos=True):
    """A tokenizer of bytes, which adds a BOS to plain text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 256)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return TextCodec(folder)


@pytest.fixture
def codec(tmp_path):
    """A function from a chat template to a codec that has it."""
    return lambda template, **how: save(tmp_path / "model", template, **how)


def oracle(codec, chat, **how):
    """What transformers renders."""
    tokenizer = AutoTokenizer.from_pretrained(codec._folder)
    return tokenizer.apply_chat_template(
        chat, tokenize=False, **{"add_generation_prompt": True, **how}
    )


def rendered(codec, chat, **how):
    return codec.render_chat(chat, ChatOptions(**how))


def wrong(codec, chat, **how):
    with pytest.raises(InvalidRequestError) as stop:
        rendered(codec, chat, **how)
    return str(stop.value)


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def called(arguments, content=None, **more):
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call12345", "type": "function", "function": function}
    message = {"role": "assistant", "tool_calls": [call], **more}
    return message if content is None else {**message, "content": content}


HELLO = [said("user", "hello  world ")]
TURNS = [*HELLO, said("assistant", "<think>\nhm\n</think>\n\nwhat?"), said("user", "'é' & <b>")]
CHATS = {
    "one": HELLO,
    "turns": TURNS,
    "system": [said("system", "be brief"), *TURNS],
    "extra keys": [said("user", "hello", name="ann", mark=3)],
    "reasoning": [
        *HELLO,
        {"thinking": "hm"} | said("assistant", "yes", reasoning_content="hm"),  # in 5.0 as later
    ],
}
RESULT = said("tool", "20 degrees", name="get_weather", tool_call_id="call12345")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather <now>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
OBJECT = {"city": "Zürich", "days": 2, "metric": True}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("parts")])
def test_chats_are_rendered_as_in_transformers(codec, family, chat):
    """Or refused where transformers raises, with what the template said."""
    made = codec(FAMILIES[family])
    try:
        expected, refused = oracle(made, chat), None
    except Exception as problem:
        expected, refused = None, str(problem)
    if refused is not None:
        assert refused in wrong(made, chat)
        return
    assert rendered(made, chat) == expected
    ids = made.tokenizer(expected, add_special_tokens=False)["input_ids"]
    assert made.encode_chat(chat).ids == ids


# -- content as parts ------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [["hello"], ["hello ", " world"], ["", "ünï"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_parts(codec, family, texts):
    """A template that takes parts gets them, another their joined text."""
    made = codec(FAMILIES[family])
    takes = family in ("turns", "parts only", "parts of users", "xml arguments")
    content = parts(*texts) if takes else "".join(texts)
    chat = [said("user", parts(*texts))]
    assert rendered(made, chat) == oracle(made, [said("user", content)])
    assert rendered(made, [said("user", list(texts))]) == rendered(made, chat)
    more = [*chat, said("assistant", parts("yes")), said("user", parts("why?"))]
    answer = parts("yes") if takes and family != "parts of users" else "yes"
    last = parts("why?") if takes else "why?"
    if family == "xml arguments":  # which takes them from users alone
        answer = "yes"
    assert rendered(made, more) == oracle(
        made, [said("user", content), said("assistant", answer), said("user", last)]
    )


@pytest.mark.parametrize("family", ["parts only", "parts of users"])
def test_texts_for_templates_that_take_parts_alone(codec, family):
    made = codec(FAMILIES[family])
    chat = [said("user", "hello"), said("assistant", "yes"), said("user", "why?")]
    answer = "yes" if family == "parts of users" else parts("yes")
    expected = [said("user", parts("hello")), said("assistant", answer)]
    assert rendered(made, chat) == oracle(made, [*expected, said("user", parts("why?"))])


def test_other_names_of_text_parts(codec):
    made = codec(FAMILIES["chatml"])
    mixed = [
        {"type": "input_text", "text": "a"},
        {"type": "output_text", "text": "b", "annotations": []},
        {"type": "refusal", "refusal": "c"},
        {"text": "d", "type": None, "image_url": None},  # as a table has it
        "e",
    ]
    assert rendered(made, [said("user", mixed)]) == oracle(made, [said("user", "abcde")])


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (said("user", [{"type": "image_url", "image_url": {"url": "x"}}]),
         "messages[1].content[0] is a part of the type 'image_url'; only text can be served"),
        (said("user", [*parts("a"), {"type": "input_audio"}]), "messages[1].content[1] is a part"),
        (said("user", [{"type": "image"}]), "'image'; only text"),
        (said("user", [{"type": ["text"], "text": "a"}]), "['text']; only text"),
        (said("user", [{"url": "x"}]), "a part of the type None"),
        (said("user", [3]), 'messages[1].content[0] must be an object such as {"type": "text"'),
        (said("user", [{"type": "text"}]), "messages[1].content[0].text must be text, not None"),
        (said("user", 3), "messages[1].content must be text or a list of text parts, not 3"),
        (said("user", {"a": 1}), "messages[1].content must be text or a list"),
        (said("tool", 20), "not 20; write it as JSON text"),
        (said("user", None), "messages[1] (role 'user') has no content"),
        ({"role": "assistant"}, "messages[1] (role 'assistant') has no content and no tool_calls"),
        (said("assistant", None, tool_calls=[]), "has no content and no tool_calls"),
        ({"content": "a"}, "messages[1] has no role, such as 'user'; it has content"),
        (said(3, "a"), "messages[1].role must be a text such as 'user', not 3"),
        ("hello", 'messages[1] must be an object such as {"role": "user"'),
        (said("user", "a", tool_calls=[{"function": {"name": "f"}}]),
         "messages[1].tool_calls: only an assistant calls tools, not 'user'"),
        (called({}) | {"tool_calls": "f"}, "messages[1].tool_calls must be a list of calls"),
        (called({}) | {"tool_calls": ["f"]}, "messages[1].tool_calls[0] must be like"),
        (said("user", [{"type": {"a": 1}}]), "a part of the type {'a': 1}"),
        (said("user", 10**5000), "messages[1].content must be text or a list of text parts, not a"),
        (called({"n": 10**5000}), "tool_calls[0].function.arguments cannot be written as JSON"),
        (called([1]), "messages[1].tool_calls[0].function.arguments must be an object or its JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_message_is_named(codec, message, says):
    assert says in wrong(codec(FAMILIES["chatml"]), [*HELLO, message])


def test_what_is_no_chat(codec):
    made = codec(FAMILIES["chatml"])
    for chat, says in [
        ([], "messages: the chat is empty"),
        ("hello", "messages must be a list of messages, not 'hello'"),
        (said("user", "a"), "messages must be a list of messages"),
        (3, "messages must be a list of messages, not 3"),
    ]:
        assert says in wrong(made, chat)


# -- tools -----------------------------------------------------------------------------------

# What each family's template takes arguments as, and a message without content as.
TAKES = {
    "headers": ("object", "absent"),
    "thinking": ("either", "absent"),
    "joined arguments": ("text", "none"),
    "xml arguments": ("object", "empty"),
    "dump": ("object", "absent"),
}


def direct(codec, chat):
    """What the template makes of the chat as it stands, where transformers leaves nulls out."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = codec.tokenizer
    return render_jinja_template(
        conversations=[chat],
        chat_template=tokenizer.chat_template,
        add_generation_prompt=True,
        **tokenizer.special_tokens_map,
    )[0][0]


@pytest.mark.parametrize("absent", [{}, {"content": None}, {"content": ""}], ids=str)
@pytest.mark.parametrize("text", [False, True], ids=["object", "text"])
@pytest.mark.parametrize("family", TAKES)
def test_tool_calls(codec, family, text, absent):
    """Arguments in either form and content in any, each as the template needs it."""
    made = codec(FAMILIES[family])
    arguments, empty = TAKES[family]
    as_text = json.dumps(OBJECT, ensure_ascii=False)
    given = as_text if text else OBJECT
    wanted = {"text": as_text, "object": OBJECT, "either": given}[arguments]
    expected = called(wanted)
    if empty == "none":
        expected["content"] = None
    elif empty == "empty" or absent.get("content") == "":
        expected["content"] = ""
    found = rendered(made, [*HELLO, called(given, **absent), RESULT])
    assert found == direct(made, [*HELLO, expected, RESULT])
    assert found.count("get_weather") >= 1
    assert "{'city'" not in found
    assert '\\"city\\"' not in found


def test_calls_in_other_forms(codec):
    made = codec(FAMILIES["thinking"])
    expected = rendered(made, [*HELLO, called(OBJECT), RESULT])
    flat = {"role": "assistant", "tool_calls": [{"name": "get_weather", "arguments": OBJECT}]}
    assert rendered(made, [*HELLO, flat, RESULT]) == expected
    old = {"role": "assistant", "content": None}
    old["function_call"] = {"name": "get_weather", "arguments": OBJECT}
    assert rendered(made, [*HELLO, old, RESULT]) == expected
    nulls = called(OBJECT)
    nulls["tool_calls"][0] |= {"name": None, "custom": None}
    nulls |= {"refusal": None, "audio": None, "function_call": None, "content": None}
    assert rendered(made, [*HELLO, nulls, RESULT]) == expected
    for nothing in ("", " ", None):
        assert '"arguments": {}}' in rendered(made, [*HELLO, called(nothing), RESULT])

    class Dumped:
        def model_dump(self):
            return called(OBJECT)

    assert rendered(made, [*HELLO, Dumped(), RESULT]) == expected


def test_arguments_that_are_no_json(codec):
    broken = [*HELLO, called('{"city": "Zür'), RESULT]
    made = codec(FAMILIES["thinking"])
    assert rendered(made, broken) == oracle(made, broken)
    message = wrong(codec(FAMILIES["headers"]), broken)
    assert message == (
        "messages[1].tool_calls[0].function.arguments: the chat template takes them as an object, "
        """which '{"city": "Zür' is not"""
    )


def test_what_the_template_leaves_out_is_refused(codec):
    made = codec(FAMILIES["chatml"])
    assert wrong(made, [*HELLO, called(OBJECT), RESULT]) == (
        "the chat template leaves out messages[1].tool_calls[0]"
    )
    made = codec(FAMILIES["channels"])
    assert wrong(made, [*HELLO, RESULT]) == (
        "the chat template leaves out messages[1], which has the role 'tool'"
    )


def test_a_call_is_missed_although_the_tools_have_its_words(codec):
    """The template lists tools and writes content alone, so a call that is no content is lost."""
    made = codec("{{ tools | tojson }}" + FAMILIES["chatml"])
    calls = [*HELLO, called({"city": "Oslo"}, content="let me see"), RESULT]
    assert "get_weather" in oracle(made, calls, tools=[TOOL])
    assert wrong(made, calls, tools=[TOOL]) == (
        "the chat template leaves out messages[1].tool_calls[0]"
    )
    made = codec(FAMILIES["thinking"])
    assert rendered(made, calls, tools=[TOOL]) == oracle(made, calls, tools=[TOOL])


def test_tools_for_the_template(codec):
    for family in ("headers", "thinking", "dump"):
        made = codec(FAMILIES[family])
        assert rendered(made, HELLO, tools=[TOOL]) == oracle(made, HELLO, tools=[TOOL])
        assert rendered(made, HELLO, tools=[]) == oracle(made, HELLO)
    assert wrong(codec(FAMILIES["chatml"]), HELLO, tools=[TOOL]) == (
        "tools: the model's chat template does not read them; it reads messages and nothing else"
    )
    made = codec(FAMILIES["thinking"])
    assert "tools must be a list of functions' schemas, not 'x'" in wrong(made, HELLO, tools="x")
    assert "tools[1] must be like" in wrong(made, HELLO, tools=[TOOL, 3])


def test_python_functions_as_tools(codec):
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    made = codec(FAMILIES["thinking"])
    assert rendered(made, HELLO, tools=[add]) == oracle(made, HELLO, tools=[add])
    assert "tools[0]: " in wrong(made, HELLO, tools=[lambda x: x])


# -- options ---------------------------------------------------------------------------------


def test_variables_of_the_template(codec):
    made = codec(FAMILIES["thinking"])
    for value in (True, False):
        assert rendered(made, HELLO, template_kwargs={"enable_thinking": value}) == oracle(
            made, HELLO, enable_thinking=value
        )
    off = rendered(made, HELLO, template_kwargs={"enable_thinking": False})
    assert off.endswith("</think>\n\n")
    made = codec(FAMILIES["headers"])
    assert rendered(made, HELLO, template_kwargs={"date_string": "1999"}) == oracle(
        made, HELLO, date_string="1999"
    )
    made = codec(FAMILIES["brackets"])
    assert rendered(made, HELLO, template_kwargs={"bos_token": "!"}).startswith("![INST]")


def test_variables_that_the_template_does_not_read(codec):
    made = codec(FAMILIES["thinking"])
    message = wrong(made, HELLO, template_kwargs={"enable_thinkng": False})
    assert message.startswith(
        "chat_template_kwargs: the model's chat template does not read 'enable_thinkng'; did you "
        "mean 'enable_thinking'? known: enable_thinking"
    )
    assert "give it beside them" in wrong(made, HELLO, template_kwargs={"tools": [TOOL]})
    assert "does not read 'enable_thinking'" in wrong(
        codec(FAMILIES["marked"]), HELLO, template_kwargs={"enable_thinking": False}
    )


@pytest.mark.parametrize("family", ["chatml", "headers", "turns", "xml arguments"])
def test_where_the_prompt_ends(codec, family):
    made = codec(FAMILIES[family])
    begun = [*HELLO, said("assistant", "I think that")]
    assert rendered(made, begun, add_generation_prompt=False) == oracle(
        made, begun, add_generation_prompt=False
    )
    open_end = oracle(made, begun, add_generation_prompt=False, continue_final_message=True)
    assert open_end.endswith("I think that")
    assert rendered(made, begun, continue_final_message=True) == open_end
    in_parts = [*HELLO, said("assistant", parts("I think that"))]
    assert rendered(made, in_parts, continue_final_message=True) == open_end
    assert "leave one of them out" in wrong(
        made, begun, continue_final_message=True, add_generation_prompt=True
    )


# -- roles and reasoning ---------------------------------------------------------------------


def test_the_developer_s_message(codec):
    """Under its own name where the template has it, else as the system's, and never lost."""
    chat = [said("developer", "be brief"), *HELLO]
    system = [said("system", "be brief"), *HELLO]
    for family, expected in [
        ("channels", chat),
        ("chatml", chat),
        ("thinking", system),
        ("brackets", system),
    ]:
        made = codec(FAMILIES[family])
        assert rendered(made, chat) == oracle(made, expected)
        assert "be brief" in rendered(made, chat)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_by_any_of_its_names(codec, name):
    for family in ("thinking", "channels"):
        made = codec(FAMILIES[family])
        found = rendered(made, [*HELLO, said("assistant", "yes", **{name: "because"})])
        both = said("assistant", "yes", reasoning_content="because", thinking="because")
        assert "because" in found
        assert found == oracle(made, [*HELLO, both])


# -- errors of templates ---------------------------------------------------------------------


def test_the_message_that_a_template_refuses_is_named(codec):
    made = codec(FAMILIES["brackets"])
    chat = [*TURNS, said("user", "again"), *TURNS]
    assert wrong(made, chat) == (
        "the chat template refused messages[3] (role 'user'): roles must alternate "
        "user/assistant/user/assistant/..."
    )
    made = codec(FAMILIES["turns"])
    assert wrong(made, [said("system", "x"), *HELLO]) == (
        "the chat template refused messages[0] (role 'system'): System role not supported"
    )
    two = called(OBJECT)
    two["tool_calls"] *= 2
    assert "refused messages[1] (role 'assistant'): one call at a time" in wrong(
        codec(FAMILIES["headers"]), [*HELLO, two, RESULT]
    )


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m.content }}", "line 1"),
        ("a\n{% frobnicate %}", "line 2: Encountered unknown tag 'frobnicate'"),
        ("{{ messages | nosuchfilter }}", "No filter named 'nosuchfilter'"),
    ],
)
def test_a_template_that_is_none(codec, template, says):
    with pytest.raises(ModelError, match="the model's chat template is no Jinja") as stop:
        rendered(codec(template), HELLO)
    assert says in str(stop.value)


# -- where templates lie ---------------------------------------------------------------------


def test_named_templates(codec):
    """The one for tools with tools, else the default, as transformers has it."""
    made = codec({"default": FAMILIES["chatml"], "tool_use": FAMILIES["thinking"]})
    folder = made._folder
    assert (folder / "additional_chat_templates" / "tool_use.jinja").is_file()
    assert rendered(made, HELLO) == oracle(codec(FAMILIES["chatml"]), HELLO)
    made = codec({"default": FAMILIES["chatml"], "tool_use": FAMILIES["thinking"]})
    assert rendered(made, HELLO, tools=[TOOL]) == oracle(made, HELLO, tools=[TOOL])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for file in folder.glob("**/*.jinja"):
        file.unlink()
    config["chat_template"] = [
        {"name": "default", "template": FAMILIES["chatml"]},
        {"name": "tool_use", "template": FAMILIES["thinking"]},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    listed = TextCodec(folder)
    assert rendered(listed, HELLO) == oracle(listed, HELLO) == rendered(made, HELLO)
    assert rendered(listed, HELLO, tools=[TOOL]) == rendered(made, HELLO, tools=[TOOL])
    config["chat_template"][0]["name"] = "rag"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert wrong(TextCodec(folder), HELLO) == (
        "the model has chat templates named rag, tool_use, and none named default; choose one by "
        "chat_template"
    )


def test_a_template_that_the_caller_brings(codec):
    """By its text, also for a model without one, or by the name that the model has for it."""
    made = codec(None)
    assert rendered(made, HELLO, chat_template=FAMILIES["turns"]) == oracle(
        made, HELLO, chat_template=FAMILIES["turns"]
    )
    made = codec({"default": FAMILIES["chatml"], "rag": FAMILIES["parts only"]})
    assert rendered(made, HELLO, chat_template="rag") == oracle(
        made, [said("user", parts(HELLO[0]["content"]))], chat_template="rag"
    )
    assert rendered(made, HELLO) == oracle(made, HELLO)
    message = wrong(made, HELLO, chat_template="chat_template.jinja")
    assert message == (
        "chat_template must be the text of a template, or the name of one that the model has "
        "(default, rag), not 'chat_template.jinja'; read the file if it is one"
    )


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_template_that_is_kept_for_a_processor(codec, name):
    made = codec(None)
    assert not made.has_chat_template
    assert "the model has no chat template" in wrong(made, HELLO)
    path = made._folder / name
    path.write_text(json.dumps({"chat_template": FAMILIES["headers"]}))
    again = TextCodec(made._folder)
    assert again.has_chat_template
    assert rendered(again, HELLO) == made.tokenizer.apply_chat_template(
        HELLO, chat_template=FAMILIES["headers"], tokenize=False, add_generation_prompt=True
    )
    path.write_text("{")
    with pytest.raises(ModelError, match=f"{name} holds no chat template"):
        TextCodec(made._folder).tokenizer  # noqa: B018
    path.write_text('{"chat_template": 3}')
    with pytest.raises(ModelError, match="chat_template must be text, not 3"):
        TextCodec(made._folder).tokenizer  # noqa: B018
    path.write_text("{}")
    assert not TextCodec(made._folder).has_chat_template


# -- BOS -------------------------------------------------------------------------------------


def test_a_template_s_bos_is_the_only_one(codec):
    made = codec(FAMILIES["brackets"])
    ids = made.encode_chat(HELLO).ids
    assert ids.count(256) == 1
    assert ids[0] == 256


@pytest.mark.parametrize("bos", [True, False])
def test_a_text_that_brings_its_own_bos(codec, bos):
    """The tokenizer adds none to it; as many as the text has are there."""
    made = codec(FAMILIES["brackets"], bos=bos)
    added = [256] if bos else []
    plain = made.tokenizer.encode("hi", add_special_tokens=False)
    texts = {
        "hi": [*added, *plain],
        "<s>hi": [256, *plain],
        "<s><s>hi": [256, 256, *plain],
        "<s>": [256],
        "h<s>i": [*added, plain[0], 256, plain[1]],
        "": added,
    }
    for text, ids in texts.items():
        assert made.encode(text) == ids
    assert made.encode_many(list(texts), special=True) == list(texts.values())
    rendered_text = made.render_chat(HELLO)
    assert made.encode(rendered_text) == made.encode_chat(HELLO).ids
