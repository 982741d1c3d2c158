"""What a row asked, as it is shown."""

import pytest

from stoker.errors import InvalidRequestError
from stoker.job.prompt_preview import PromptText

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
URL = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("template", "fields", "text"),
    [
        (None, {"prompt": "hello", "mark": 1}, "hello"),
        (None, {"messages": CHAT}, "system: be brief\n\nuser: hello"),
        (
            None,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, "!"]}]},
            "user: hi!",
        ),
        (
            None,
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
            'assistant: [{"name": "f"}]',
        ),
        (None, {"text": "a line"}, "a line"),
        (None, {"file": "a.txt", "text": "a file"}, "a file"),
        (None, {"text": "hello", "mark": 1}, '{"text": "hello", "mark": 1}'),
        (None, {"prompt_token_ids": [1, 2]}, '{"prompt_token_ids": [1, 2]}'),
        (None, {"line": "é"}, '{"line": "é"}'),
        (None, {"custom_id": "a", "url": URL, "body": {"messages": CHAT[1:]}}, "user: hello"),
        (None, {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x"}}, "x"),
        (None, {"custom_id": "a", "response": {"body": {}}, "error": None}, '{"custom_id": "a"}'),
        ("Say {{ word }}!", {"word": "yes", "prompt": "no"}, "Say yes!"),
        ("Say {{ word }}!", {"wort": "yes"}, '{"wort": "yes"}'),
    ],
)
def test_prompts(template, fields, text):
    assert PromptText(template)(fields) == text


def test_a_template_that_is_none():
    with pytest.raises(InvalidRequestError, match="the template is no Jinja"):
        PromptText("{{")
