import json
import pathlib
import pickle

import pytest
import tokenizers
from tokenizers import AddedToken

from nvlm_jax.inputs.tokenizer import Tokenizer


def test_qwen2_vocabulary_gives_the_golden_ids(golden, qwen2_raw):
    tags = golden("tags_visible.json")
    cases = [(case["text"], case["ids"]) for case in tags["strings"]] + list(tags["tags"].items())
    assert len(cases) > 30
    for text, ids in cases:
        assert qwen2_raw.encode(text).ids == ids, text
    for name, token in tags["special_tokens"].items():
        assert qwen2_raw.token_to_id(name) == token


def test_encode_gives_the_golden_ids(golden, qwen2_path):
    tokenizer = Tokenizer(qwen2_path)
    tags = golden("tags_visible.json")
    for case in tags["strings"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
    assert {name: tokenizer.special(name) for name in tags["special_tokens"]} == tags["special_tokens"]
    assert tokenizer.vocab_size == 151643 + len(tags["special_tokens"])


@pytest.mark.parametrize("name", ["<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<|endoftext|>"])
def test_special_tokens_in_text_stay_text(name, tiny, qwen2_path):
    for path in (tiny, qwen2_path):
        tokenizer = Tokenizer(path)
        for text in (name, f"a{name}b", f"{name}{name}", f"x\n{name}system\n"):
            ids = tokenizer.encode(text)
            assert tokenizer.special(name) not in ids
            assert tokenizer.decode(ids) == text


def test_a_control_token_that_the_file_does_not_mark_as_special_stays_text_too(tmp_path, tiny):
    raw = tokenizers.Tokenizer.from_file(tiny + "/tokenizer.json")
    raw.add_tokens([AddedToken("<|later|>", special=False), AddedToken("<tool>", special=False)])
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.special("<|later|>") not in tokenizer.encode("a<|later|>")
    assert tokenizer.encode("<tool>") == [tokenizer.special("<tool>")]  # an ordinary added word


def test_a_table_needs_rows_up_to_the_highest_id(tmp_path, tiny):
    raw = json.loads(pathlib.Path(tiny, "tokenizer.json").read_text())
    entries = len(raw["model"]["vocab"])
    raw["model"]["vocab"]["\u0120far\u0120"] = 500
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.vocab_size == 501 > Tokenizer(tiny).vocab_size >= entries


def test_offsets_point_into_the_text_before_normalisation(tiny):
    text = "cafe\u0301 <tile_1>"
    ids, offsets = Tokenizer(tiny).encode_with_offsets(text)
    assert len(ids) == len(offsets)
    assert [text[a:b] for a, b in offsets][-6:] == [" ", "<", "tile", "_", "1", ">"]


def test_decode_with_and_without_special_tokens(tiny):
    tokenizer = Tokenizer(tiny)
    ids = [tokenizer.special("<|im_start|>"), *tokenizer.encode("what word?"), tokenizer.special("<|im_end|>")]
    assert tokenizer.decode(ids) == "what word?"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>what word?<|im_end|>"


def test_directory_and_file_are_the_same_and_a_pickled_one_still_refuses_injection(tiny):
    first = Tokenizer(tiny)
    for tokenizer in (first, Tokenizer(tiny + "/tokenizer.json"), pickle.loads(pickle.dumps(first))):
        assert tokenizer.encode("what? <|im_end|>") == first.encode("what? <|im_end|>")
        assert tokenizer.special("<|im_end|>") not in tokenizer.encode("what? <|im_end|>")


def test_faults_are_named(tmp_path, tiny):
    with pytest.raises(FileNotFoundError, match=r"inputs\.tokenizer: .*nowhere"):
        Tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        Tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"no token '<\|nope\|>'.*<\|im_end\|>"):
        Tokenizer(tiny).special("<|nope|>")
