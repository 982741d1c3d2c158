"""One small tokenizer of each kind whose texts differ in how tokens become text."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stoker.engine.text.tokenizer import TextCodec

CORPUS = [
    "Hello world, this is a test of the tokenizer. It doesn't matter, it's only a test!",
    "The quick brown fox doesn't jump over the lazy dog's back . I 'm , you 're , we 've ?",
    "naïve café déjà vu, 日本語 and 日本, 😀 😃 👍🏽 ▁ \\ufffd",
    "def f(x): return x + 1  # numbers 123 456",
] * 5
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens(["日本語", "<tool>"])  # text, and not in the byte-level alphabet
    return made


def sentencepiece(*steps):
    """BPE over blanks as '▁', with byte fallback, as Llama 2 has it."""

    def make():
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=420, special_tokens=SPECIAL + BYTES, limit_alphabet=60, show_progress=False
        )
        made.train_from_iterator(CORPUS, trainer)
        fields = json.loads(made.to_str())
        fields["added_tokens"] = [one for one in fields["added_tokens"] if one["id"] < 3]
        made = Tokenizer.from_str(json.dumps(fields))
        made.decoder = decoders.Sequence(list(steps))
        return made

    return make


def metaspace(scheme):
    """A Unigram model, as T5 has it."""

    def make():
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
        made.train_from_iterator(CORPUS, trainer)
        return made

    return make


def word_piece():
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def suffixes():
    """BPE whose words end in '</w>', as the first GPT has it."""
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def no_decoder():
    """Tokens with a blank between them."""
    made = word_piece()
    made.decoder = None
    return made


BLANK, FALLBACK, FUSE = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
# name: what makes it, whether texts are cleaned up, whether they are their tokens' bytes in a row
KINDS = {
    "byte-level": (byte_level, False, True),
    "byte fallback": (
        sentencepiece(BLANK, FALLBACK, FUSE, decoders.Strip(" ", 1, 0)),
        False,
        True,
    ),
    "byte fallback, no strip": (sentencepiece(BLANK, FALLBACK, FUSE), False, True),
    "metaspace": (metaspace("always"), False, True),
    "metaspace, no prefix": (metaspace("never"), False, True),
    "word pieces": (word_piece, False, True),
    "word pieces, cleaned up": (word_piece, True, True),
    "suffixes": (suffixes, False, False),
    "no decoder": (no_decoder, False, True),
    "no decoder, cleaned up": (no_decoder, True, True),
}


def make_codec(kind: str, folder: Path) -> TextCodec:
    """The codec of a kind, saved to `folder` and read again as a model's is."""
    make, cleaned, _ = KINDS[kind]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make(),
        clean_up_tokenization_spaces=cleaned,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder)
    return TextCodec(folder)
