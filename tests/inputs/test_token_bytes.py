"""The bytes of tokens, joined, are the text: byte-level BPE, and tokenizers with blanks as ▁ and byte fallback."""

import random

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.tokenizer import Tokenizer

WORDS = ["▁", "▁o", "▁ow", "▁owl", "ow", "owl", "wl", "▁▁"]
TEXTS = ["owl é", " owl  owl", "größer 狐 🦊 end", "é", "\u2028é\n", "  a", "owl<|end|> owl"]


def llama_like(path, decoder) -> Tokenizer:
    """A tokenizer of SentencePiece's kind: letters, a few words, and a token for each byte."""
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = ["<unk>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *WORDS]
    ids = {token: i for i, token in enumerate(vocabulary)}
    merges = [("▁", "▁"), ("▁", "o"), ("▁o", "w"), ("▁ow", "l"), ("o", "w"), ("ow", "l"), ("w", "l")]
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if decoder == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<|end|>", "<unk>"])
    tokenizer.save(str(path / "tokenizer.json"))
    return Tokenizer(path)


@pytest.fixture(params=["byte level", "strip", "metaspace"])
def tokenizer(request, tmp_path) -> Tokenizer:
    return Tokenizer("nvlm_jax/assets/tiny") if request.param == "byte level" else llama_like(tmp_path, request.param)


def joined(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    content, begun = b"", False
    for token in ids:
        content += tokenizer.token_bytes.get(token, first=not begun)
        begun = begun or tokenizer.token_bytes.is_text(token)
    return content


@pytest.mark.parametrize("text", TEXTS)
def test_joined_they_are_the_decoded_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert joined(tokenizer, ids) == tokenizer.decode(ids).encode()
    end = tokenizer.added_tokens.get("<|end|>", tokenizer.added_tokens.get("<|im_end|>"))
    assert joined(tokenizer, [end, *ids, end]) == tokenizer.decode([end, *ids, end]).encode()


def test_a_character_over_several_tokens_and_a_blank():
    tiny = Tokenizer("nvlm_jax/assets/tiny")
    assert [tiny.token_bytes.get(token) for token in tiny.encode("狐")] == [b"\xe7", b"\x8b", b"\x90"]


def test_fallback_bytes_and_blanks_of_a_llama_like_tokenizer(tmp_path):
    tokenizer = llama_like(tmp_path, "strip")
    ids = tokenizer.encode("owl é owl")
    parts = [tokenizer.token_bytes.get(token, first=place == 0) for place, token in enumerate(ids)]
    assert parts == [b"owl", b" ", b"\xc3", b"\xa9", b" owl"]


@pytest.mark.parametrize("step", [1, 2, 50])
def test_the_answer_text_is_what_the_tokenizer_decodes(tokenizer, step):
    draw = random.Random(0)
    for _ in range(20):
        ids = tokenizer.encode(" ".join(draw.choices(TEXTS, k=4)))
        out = AnswerText(tokenizer)
        pieces = [out.add(ids[i : i + step], last=i + step >= len(ids)) for i in range(0, len(ids), step)]
        assert "".join(pieces) == out.text == tokenizer.decode(ids)
