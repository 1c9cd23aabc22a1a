"""The real Qwen2 vocabulary as a `tokenizers.Tokenizer`, built from the file that the package `dashscope` ships."""

from __future__ import annotations

import base64
import importlib.util
import pathlib

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build() -> tokenizers.Tokenizer:
    """About two seconds."""
    package = importlib.util.find_spec("dashscope").submodule_search_locations[0]
    lines = (pathlib.Path(package) / "resources" / "qwen.tiktoken").read_text().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    letter = _byte_letters()
    spelled = {token: "".join(letter[b] for b in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.get):  # any two entries that make up an entry merge, lower ranks first
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [(spelled[a], spelled[b]) for a, b in cuts if a in ranks and b in ranks]
    tokenizer = tokenizers.Tokenizer(models.BPE({spelled[token]: rank for token, rank in ranks.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
