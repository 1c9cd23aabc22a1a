"""The tiny tokenizer, as built and as shipped."""

import json
import string

import pytest
from tokenizers import Tokenizer

from data_pipelines.generated import tokenizer as module
from data_pipelines.generated.samples import generate

PAGE_SYMBOLS = string.ascii_letters + string.digits + ".#~"
TAGS = [f"<tile_{k}>" for k in range(1, 7)] + ["<tile_global_thumbnail>"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(module.ASSET / "tokenizer.json"))


def ids(tokenizer, text):
    return tokenizer.encode(text).ids


def test_the_shipped_file_is_what_the_code_builds(tmp_path):
    for name in ("first", "second"):
        module.save(tmp_path / name)
        assert (tmp_path / name / "tokenizer.json").read_bytes() == (module.ASSET / "tokenizer.json").read_bytes()
        directories = (tmp_path / name, module.ASSET)
        built, shipped = (json.loads((d / "tokenizer_config.json").read_text()) for d in directories)
        assert built == {key: shipped[key] for key in built}  # the tiny LLM's chat template and length are added to it


def test_size_and_special_tokens(tokenizer):
    size = tokenizer.get_vocab_size()
    assert size <= module.MAX_VOCABULARY < 512
    assert [tokenizer.token_to_id(token) for token in module.SPECIAL_TOKENS] == list(range(size - 6, size))
    for token in module.SPECIAL_TOKENS:
        assert len(ids(tokenizer, f"a{token}b")) == 3
    config = json.loads((module.ASSET / "tokenizer_config.json").read_text())
    assert (config["pad_token"], config["eos_token"]) == ("<|endoftext|>", "<|im_end|>")


def test_page_symbols_are_single_tokens_that_never_merge(tokenizer):
    for first in PAGE_SYMBOLS:
        assert ids(tokenizer, first) == [tokenizer.token_to_id(first)]
        # Two lower-case letters may be part of a word, but no description has two labels side by side.
        for second in PAGE_SYMBOLS if not first.islower() else set(PAGE_SYMBOLS) - set(string.ascii_lowercase):
            assert len(ids(tokenizer, first + second)) == 2, first + second


def test_described_tiles_are_one_token_a_cell(tokenizer):
    for index in range(50):
        for tile in generate("described", "train", 0, index).meta["described"][0]:
            assert ids(tokenizer, tile) == [tokenizer.token_to_id(symbol) for symbol in tile]


@pytest.mark.parametrize(
    "text", ["><", ">?", ">.", ">\n", "/>", "[k", "k]", "];", "]?", "].", " [", " <", "; ", " k", " F", " 3"]
)
def test_these_do_not_merge(tokenizer, text):
    assert len(ids(tokenizer, text)) == 2


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_has_the_same_ids_everywhere(tokenizer, tag):
    alone = ids(tokenizer, tag)
    space = ids(tokenizer, " ")
    assert len(alone) == (5 if "global" not in tag else 7)
    assert ids(tokenizer, f"row 2 column 3 of {tag}?") == [
        *ids(tokenizer, "row 2 column 3 of"),
        *space,
        *alone,
        *ids(tokenizer, "?"),
    ]
    for before, after in (("<Image>", "<|vision_pad|>"), ("\n", "\n"), ("a", "a"), (tag, tag)):
        assert ids(tokenizer, before + tag + after) == ids(tokenizer, before) + alone + ids(tokenizer, after)


def test_questions_and_chat_are_few_tokens(tokenizer):
    lengths = {
        "system": 1,
        "user": 1,
        "assistant": 1,
        "Follow the user's instruction and answer questions.": 10,
        "<Image>": 4,
        "word at [k]?": 7,
        "value of bar [t]?": 8,
        "how many numbers?": 4,
        "what is at [k,m]?": 10,
        "row 2 column 3 of <tile_4>?": 14,
        "row 2 of tile 4?": 8,
        "FOX": 3,
        "372": 3,
    }
    assert {text: len(ids(tokenizer, text)) for text in lengths} == lengths


@pytest.mark.parametrize("variant", ["described", "text", "qa"])
def test_every_text_round_trips_and_its_words_are_single_tokens(tokenizer, variant):
    for index in range(30):
        for message in generate(variant, "test", 0, index).messages:
            text = message.content.removeprefix("<image>\n")
            encoded = tokenizer.encode(text)
            assert tokenizer.decode(encoded.ids) == text
            words = [word.strip(string.punctuation) for word in text.split()]
            for word in words:
                if word.islower() and word.isalpha() and len(word) > 1:
                    assert {"Ġ" + word, word} & set(encoded.tokens), (word, encoded.tokens)


def test_text_is_normalised_to_nfc(tokenizer):
    assert ids(tokenizer, "e\u0301") == ids(tokenizer, "\u00e9")
