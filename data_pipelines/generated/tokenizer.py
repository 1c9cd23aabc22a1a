"""The tokenizer of the tiny models: byte-level BPE with Qwen2's way of splitting, under 512 ids.

It is trained on the lower-case words of the generated templates and on nothing else, so that the words of a question
are one token each, while capitals, digits, single letters and page symbols never merge: a word on a page is as many
tokens as cells. No punctuation is in the training text either: `><` and `>?` stay two tokens, so a tile tag has the
same ids alone, after a space and before a full stop.

    python -m data_pipelines.generated.tokenizer      writes nvlm_jax/assets/tiny/ anew
"""

from __future__ import annotations

import json
import pathlib
import re

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_pipelines.generated import questions

ASSET = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny"
MAX_VOCABULARY = 500
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_pad|>", "<|vision_end|>")
# Qwen2's: contractions, words with the one character before them, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SYSTEM = "follow the user's instruction and answer questions."
# Words that follow no space where they occur: roles, parts of tags, the tails of `Follow` and `Image`.
BARE_WORDS = ("system", "user", "assistant", "tile", "global", "thumbnail", "ollow", "mage", "'s")


def training_words() -> list[str]:
    """Every word of the templates as it is met in a text: with the space before it, or without where none is."""
    templates = [
        *questions.ASK_CONTENT.values(),
        *(questions.ASK_COUNT.format(kind) for kind in ("word", "number", "bar")),
        questions.ASK_CELL,
        questions.ASK_LINE,
        questions.ASK_ELEMENTS,
        questions.ASK_ROWS,
        questions.ASK_READ,
        questions.TEXT_ENTRY,
        *questions.ASK_TEXT.values(),
        SYSTEM,
        "of tile {}",
    ]
    words = {word for text in templates for word in re.findall("[a-z]{2,}", text)}
    first = {match.group() for text in templates if (match := re.match("[a-z]{2,}", text))}
    return sorted({" " + word for word in words} | first | set(BARE_WORDS))


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer; the result is the same on every call."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY - len(SPECIAL_TOKENS),
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_words(), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def save(directory: pathlib.Path = ASSET) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "additional_special_tokens": list(SPECIAL_TOKENS),
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    save()
