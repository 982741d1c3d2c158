"""The text of an answer is one and the same streamed, with a stop string and plain."""

import random

import pytest
from tokenizers_of_kinds import CORPUS, KINDS, make_codec

from stoker.engine.text.detokenizer import Detokenizer
from stoker.engine.text.token_bytes import TokenBytes

NEVER = ("\0never\0",)


@pytest.fixture(scope="module", params=list(KINDS))
def codec(request, tmp_path_factory):
    made = make_codec(request.param, tmp_path_factory.mktemp("codec"))
    _, cleaned, by_bytes = KINDS[request.param]
    if not cleaned or hasattr(made.tokenizer, "clean_up_tokenization"):
        assert isinstance(made.token_texts, TokenBytes) == by_bytes
    made.exact = by_bytes and not cleaned  # a token never changes the text before it
    return made


def random_ids(codec, rng):
    """Tokens of texts, cut anywhere, and any tokens at all, unknown ones among them."""
    ids = []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            text = rng.choice(CORPUS)
            begin = rng.randrange(len(text))
            part = codec.encode_plain(text[begin : begin + rng.randint(1, 20)])
            ids += part[: rng.randint(1, len(part))] if part else []
        else:
            size = len(codec.tokenizer) + 3
            ids += [rng.randrange(size) for _ in range(rng.randint(1, 10))]
    return ids


def stream(codec, ids, stop=(), min_tokens=0):
    """The deltas of an answer, the whole text, and how many tokens it took."""
    detokenizer, deltas, count = Detokenizer(codec.token_texts.stream(), stop, min_tokens), [], 0
    for token in ids:
        detokenizer.push(token)
        deltas.append(detokenizer.take())
        count += 1
        if detokenizer.stopped:
            break
    text = detokenizer.finish()
    return [*deltas, detokenizer.take()], text, count


def test_streamed_stopped_and_plain_texts_are_the_same(codec):
    rng = random.Random(0)
    for _ in range(400):
        ids = random_ids(codec, rng)
        plain = codec.decode(ids)
        for stop in ((), NEVER):
            deltas, text, count = stream(codec, ids, stop)
            assert text == plain, ids
            assert "".join(deltas) == plain, ids
            assert count == len(ids)


def test_texts_with_special_tokens_are_the_same_streamed(codec):
    rng = random.Random(4)
    for _ in range(200):
        ids = [*random_ids(codec, rng), 2, *random_ids(codec, rng)]
        plain = codec.decode(ids, skip_special_tokens=False)
        detokenizer = Detokenizer(codec.token_texts.stream(special=True))
        for token in ids:
            detokenizer.push(token)
        assert detokenizer.finish() == plain, ids
        known = codec.tokenizer.decode(ids, skip_special_tokens=False)
        assert "</s>" in known
        assert "\ufffd" in known or plain == known


def test_texts_without_broken_characters_are_transformers(codec):
    rng, seen = random.Random(1), 0
    for _ in range(400):
        ids = random_ids(codec, rng)
        known = codec.tokenizer.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in known:
            seen += 1
            assert codec.decode(ids) == known
            if isinstance(codec.token_texts, TokenBytes):
                assert codec.token_texts.decode(ids) == known
    assert seen > 50


def test_a_stop_string_is_found_at_its_first_place(codec):
    rng, stopped = random.Random(2), 0
    for _ in range(600):
        ids = random_ids(codec, rng)
        plain = codec.decode(ids)
        at = rng.randrange(len(plain) + 1)
        stop = tuple(
            one for one in (plain[at : at + rng.randint(1, 5)], rng.choice("e \ufffd日")) if one
        )
        # the shortest beginning whose text holds one, with no half character at its end
        first = next(
            (
                count
                for count in range(1, len(ids) + 1)
                if any(one in settled(codec, ids[:count]) for one in stop)
            ),
            None,
        )
        deltas, text, count = stream(codec, ids, stop)
        assert "".join(deltas) == text
        if first is None:
            assert (text, count) == (plain, len(ids))
            continue
        whole = settled(codec, ids[:first])
        assert (text, count) == (whole[: min(at for at in map(whole.find, stop) if at >= 0)], first)
        stopped += 1
    assert stopped > 100


# every multi-byte character without its last byte, or its last two or three
BEGINNINGS = {
    chr(code).encode()[:size]
    for code in range(0x80, 0x110000, 0x40)
    if not 0xD800 <= code < 0xE000
    for size in range(1, len(chr(code).encode()))
}


def settled(codec, ids):
    """The text of the tokens without an incomplete character at its end."""
    text = codec.decode(ids)
    if not codec.exact:
        return text.rstrip("\ufffd")
    data = b"".join(codec.token_texts.added(token) for token in ids)
    return text[:-1] if any(data[-size:] in BEGINNINGS for size in (1, 2, 3)) else text


def test_stop_strings_in_the_text_of_the_first_tokens_do_not_count(codec):
    if not codec.exact:
        pytest.skip("the text of the first tokens may change later")
    rng, stopped = random.Random(3), 0
    for _ in range(400):
        ids, least = random_ids(codec, rng), rng.randint(1, 4)
        plain = codec.decode(ids)
        at = rng.randrange(len(plain) + 1)
        stop = plain[at : at + rng.randint(1, 3)]
        if not stop:
            continue
        place = settled(codec, ids).find(stop, len(settled(codec, ids[:least])))
        _, text, count = stream(codec, ids, (stop,), least)
        assert text == (plain if place < 0 else plain[:place])
        assert place < 0 or count > least
        stopped += place >= 0
    assert stopped > 100
