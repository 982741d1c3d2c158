"""Log-probabilities of batch files: nothing is lost, whatever the tokens are."""

import random

from stoker.job.batch_logprobs import chat_logprobs, completion_logprobs


def entry(*tokens, ids=range(9)):
    """The first token was drawn; all are given as they are in results, the likeliest first."""
    found = []
    for at, (one, token) in enumerate(zip(tokens, ids, strict=False)):
        data = one if isinstance(one, bytes) else one.encode()
        text = data.decode("utf-8", "replace")
        item = {"id": token, "token": text, "logprob": -1.0 - at, "rank": at + 1}
        found.append(item if text.encode() == data else {**item, "bytes": list(data)})
    return found


END = {"id": 2, "token": "</s>", "logprob": -0.5, "rank": 1, "bytes": []}


def test_a_part_of_a_character_has_its_own_bytes():
    entries = [entry(b" \xf0\x9f", b"\xf0"), entry(b"\x98\x80"), entry("b"), [END]]
    content = chat_logprobs(entries, 2)["content"]
    assert [one["token"] for one in content] == [" \\xf0\\x9f", "\\x98\\x80", "b", "</s>"]
    assert bytes(byte for one in content for byte in one["bytes"]).decode() == " 😀b"
    assert [one["bytes"] for one in content[0]["top_logprobs"]] == [[32, 240, 159], [240]]
    assert content[3]["bytes"] == []  # it adds nothing to the answer


def test_alternatives_with_one_text_are_all_kept():
    listed = entry(b"\x98", b"\x99", "a", "a", "", "", ids=[7, 8, 9, 10, 11, 12])
    columns = completion_logprobs([listed], 6)
    assert columns["tokens"] == ["bytes:\\x98"]
    assert columns["top_logprobs"] == [
        {
            "bytes:\\x98": -1.0,
            "bytes:\\x99": -2.0,
            "a": -3.0,
            "token_id:10": -4.0,
            "": -5.0,
            "token_id:12": -6.0,
        }
    ]
    assert len(chat_logprobs([listed], 6)["content"][0]["top_logprobs"]) == 6


def test_offsets_are_characters_of_the_text():
    rng = random.Random(0)
    whole = ["a", " it", "é", "日本", "😀", b"\xff"]
    for _ in range(500):
        data = b"".join(
            one if isinstance(one, bytes) else one.encode() for one in rng.choices(whole, k=6)
        )
        cuts = sorted(rng.sample(range(1, len(data)), rng.randint(0, 4)))
        tokens = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        offsets = completion_logprobs([entry(one) for one in tokens], 0)["text_offset"]
        # the characters that end with the bytes before the token, if no character lies across
        text, at = data.decode("utf-8", "replace"), 0
        for token, offset in zip(tokens, offsets, strict=True):
            before, after = data[:at].decode("utf-8", "replace"), data[at:]
            inside = before + after.decode("utf-8", "replace") != text
            assert offset == len(before) - inside
            at += len(token)
