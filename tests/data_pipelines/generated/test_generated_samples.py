"""Questions, answers and sample variants of the generated data."""

import io
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data_pipelines.generated import glyphs
from data_pipelines.generated.samples import VARIANTS, GeneratedSource, generate

KINDS = {"word": "content", "number": "content", "bar": "content", "count": "content", "cell": "place", "line": "place"}
LISTS = {"elements", "rows"}


def lines(tiles):
    """(tile, row, the line's four symbols) of every line that does not belong to a bar chart."""
    for tile, symbols in enumerate(tiles):
        if "#" not in symbols:
            for row in range(4):
                yield tile, row, symbols[4 * row : 4 * row + 4]


def bars(tiles):
    """Label -> value of the bars, from the tiles alone."""
    return {t[12 + c]: t[c : c + 2] for t in tiles if "#" in t for c in (0, 2)}


def answer_from(tiles, question):
    """The answer, read off the described tiles without the generator's own records."""
    at = {line[0]: line[1:] for _, _, line in lines(tiles) if line[0].islower()}
    if match := re.fullmatch(r"(word|number) at \[([a-z])\]\?", question):
        assert at[match[2]].isdigit() == (match[1] == "number")
        return match[2] + at[match[2]]
    if match := re.fullmatch(r"value of bar \[([a-z])\]\?", question):
        return match[1] + bars(tiles)[match[1]]
    if match := re.fullmatch(r"how many (word|number|bar)s\?", question):
        if match[1] == "bar":
            return str(len(bars(tiles)))
        return str(sum(text.isdigit() == (match[1] == "number") for text in at.values()))
    if match := re.fullmatch(r"what is at \[([a-z,]+)\]\?", question):
        return ",".join(label + (at | bars(tiles))[label] for label in match[1].split(","))
    if match := re.fullmatch(r"read <tile_(\d|global_thumbnail)>\.", question):
        return tiles[0 if match[1] == "global_thumbnail" else int(match[1]) - 1]
    place = r"(?:<tile_(\d)>|(<tile_global_thumbnail>)|tile (\d))\?"
    match = re.fullmatch(r"rows? (\d+)(?: column (\d))? of " + place, question)
    rows, column, tag, thumbnail, number = match.groups()
    assert not thumbnail or len(tiles) == 1
    assert not tag or len(tiles) > 1
    symbols = tiles[int(tag or number or 1) - 1]
    shown = ",".join(symbols[4 * int(row) - 4 : 4 * int(row)] for row in rows)
    return f"{shown}:{shown[int(column) - 1]}" if column else shown


def turns(sample):
    """(question without the image placeholder, answer, group) of each pair of messages."""
    for user, assistant in zip(sample.messages[::2], sample.messages[1::2], strict=True):
        assert (user.role, assistant.role, user.group) == ("user", "assistant", "")
        yield user.content.removeprefix("<image>\n"), assistant.content, assistant.group


def page_tiles(sample):
    symbols = sample.meta["described"][0]
    assert (symbols[-1] == "~" * 16) == (len(symbols) > 1)
    return symbols[:-1] if len(symbols) > 1 else symbols


@pytest.mark.parametrize("reference", ["tag", "number"])
@pytest.mark.parametrize("split", glyphs.SPLITS)
def test_answers_are_right(split, reference):
    for index in range(300):
        sample = generate("described", split, 5, index, reference=reference)
        tiles = page_tiles(sample)
        asked = list(turns(sample))
        assert len({question for question, _, _ in asked}) == len(asked) == 8
        assert [(a, g) for _, a, g in asked] == list(zip(sample.meta["answers"], sample.meta["types"], strict=True))
        assert [KINDS[g] for _, _, g in asked] == sample.meta["kinds"]
        for question, answer, _ in asked:
            assert answer_from(tiles, question) == answer, (index, question)
            assert ("<" in question) == (reference == "tag" and " of " in question and "value" not in question)


def test_place_questions_ask_for_lines_of_words_and_numbers_and_cells_with_a_glyph():
    bare = cells = 0
    for index in range(400):
        for question, answer, group in turns(generate("described", "train", 6, index)):
            if group == "line":
                assert re.fullmatch("[a-z]([A-Z]{3}|[0-9]{3})", answer), question
            if group == "cell":
                assert re.fullmatch("[A-Za-z0-9.#]{4}:[A-Z0-9.#]", answer), question
                cells, bare = cells + 1, bare + (answer[-1] in ".#")
    assert 0 < bare < 0.1 * cells


def test_shares_of_kinds_and_types():
    types, kinds, counts = Counter(), Counter(), Counter()
    for index in range(600):
        meta = generate("described", "train", 0, index).meta
        types.update(meta["types"])
        kinds.update(meta["kinds"])
        counts.update(answer for kind, answer in zip(meta["types"], meta["answers"], strict=True) if kind == "count")
    total = sum(types.values())
    assert 0.56 < kinds["content"] / total < 0.64
    assert 0.03 < types["count"] / total <= 0.08
    assert set(types) == set(KINDS) and all(types[name] / total > 0.1 for name in types if name != "count")
    assert max(counts.values()) < 0.35 * sum(counts.values()) and len(counts) >= 8


def test_transcriptions_are_what_the_tiles_show():
    for index in range(60):
        sample = generate("qa", "train", 1, index, questions=3, reads=2)
        tiles = page_tiles(generate("described", "train", 1, index))
        asked = list(turns(sample))
        assert [group for _, _, group in asked].count("read") == min(2, len(tiles))
        for question, answer, _ in asked:
            assert answer_from(tiles, question) == answer


def test_lists_ask_for_several_things_at_once_and_are_right():
    groups, firsts = Counter(), set()
    for index in range(200):
        sample = generate("described", "train", 1, index, questions=2, reads=1, lists=3)
        asked = list(turns(sample))
        assert sorted(group in LISTS for _, _, group in asked) == [False] * 3 + [True] * 3
        firsts.add(asked[0][2] in LISTS)
        for question, answer, group in asked:
            groups[group] += 1
            assert answer_from(page_tiles(sample), question) == answer, question
            assert group not in LISTS or "," in answer
    assert min(groups[name] for name in LISTS) > 200 and firsts == {True, False}


def test_scrambled_texts_are_new_but_never_held_out():
    held_out = {*glyphs.words("test"), *glyphs.numbers("test")}
    known = {*glyphs.words("train"), *glyphs.numbers("train")}
    shares = []
    for index in range(100):
        plain, scrambled = (page_tiles(generate("described", "train", 1, index, scramble=s)) for s in (0.0, 0.5))
        assert [t for t in plain if "#" in t] == [t for t in scrambled if "#" in t]
        texts = [text[1:] for _, _, text in lines(scrambled) if text[0].islower()]
        assert len(texts) == sum(text[0].islower() for _, _, text in lines(plain)) and not held_out & set(texts)
        shares += [text not in known for text in texts]
    assert 0.4 < np.mean(shares) < 0.6
    with pytest.raises(ValueError, match="scramble is for the variant 'described', not 'qa'"):
        generate("qa", "train", 0, 0, scramble=0.5)


def text_answer(question):
    """The answer to a text-only question, from its wording alone."""
    if match := re.fullmatch(r"(.*)\. what is at \[([a-z])\]\?", question):
        return match[2] + dict(re.findall(r"([a-z])(\w+)", match[1]))[match[2]]
    if match := re.fullmatch(r"which is larger, (\d+) or (\d+)\?", question):
        return str(max(map(int, match.groups())))
    if match := re.fullmatch(r"spell ([A-Z]+) backwards\.", question):
        return match[1][::-1]
    if match := re.fullmatch(r"what is the (first|last) letter of ([A-Z]+)\?", question):
        return match[2][0 if match[1] == "first" else -1]
    return re.fullmatch(r"repeat (.*)\.", question)[1]


def test_text_only_answers_are_right_and_splits_share_no_words():
    shown = {}
    for split in glyphs.SPLITS:
        texts = []
        for index in range(400):
            sample = generate("text", split, 0, index, questions=6)
            assert not sample.images and len(sample.messages) == 12 and set(sample.meta["types"]) == {"text"}
            for question, answer, group in turns(sample):
                assert text_answer(question) == answer and group == "text"
                texts += [question, answer]
        shown[split] = set(re.findall(r"(?<![A-Z0-9])(?:[A-Z]{3}|[0-9]{2,3})(?![A-Z0-9])", " ".join(texts)))
    assert len(shown["test"]) > 300 and not shown["train"] & shown["test"]


def test_variants_of_one_index_show_the_same_page():
    qa, described, dense = (generate(variant, "test", 2, 7) for variant in ("qa", "described", "dense"))
    assert qa.messages == described.messages and qa.images == dense.images and not described.images
    assert qa.meta["grid"] == dense.meta["grid"] and not dense.messages
    assert ["".join(cell[0] for cell in tile) for tile in dense.meta["dense"][0]] == described.meta["described"][0]
    assert qa.messages[0].content.startswith("<image>\n")
    assert sum("<image>" in message.content for message in qa.messages) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_meta_survives_json_and_ids_are_unique(variant):
    samples = [
        generate(variant, split, seed, index) for split in ("train", "test") for seed in (0, 1) for index in (0, 1)
    ]
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert json.loads(json.dumps(sample.meta)) == sample.meta
        for data in sample.images:
            assert Image.open(io.BytesIO(data)).format == "PNG"


def test_one_tile_pages_name_the_thumbnail():
    tags = re.findall(
        "<tile[^>]*>",
        " ".join(q for i in range(50) for q, _, _ in turns(generate("described", "train", 0, i, grids=[(1, 1)]))),
    )
    assert set(tags) == {"<tile_global_thumbnail>"}


SCRIPT = """
import hashlib, sys
from data_pipelines.generated.samples import VARIANTS, generate
print([hashlib.sha256(repr(generate(v, s, 3, 11)).encode()).hexdigest() for v in VARIANTS for s in ("train", "test")])
assert "jax" not in sys.modules
"""


def test_another_process_generates_the_same_bytes_without_jax():
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0]) > 100
    assert generate("qa", "train", 3, 11) == generate("qa", "train", 3, 11) != generate("qa", "train", 3, 12)


def test_source_gives_samples_by_index():
    source = GeneratedSource("described", "train", 4, 10, grids=((1, 2),), questions=2)
    assert len(source) == 10
    assert source[np.int64(3)] == generate("described", "train", 4, 3, grids=((1, 2),), questions=2)
    assert "described" in repr(source)
    with pytest.raises(IndexError, match="sample 10 of 10"):
        source[10]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="variant must be one of qa, described"):
        generate("quiz", "train", 0, 0)
    with pytest.raises(ValueError, match="split must be one of train, test, not 'val'"):
        GeneratedSource("qa", "val", 0, 10)
    with pytest.raises(ValueError, match=r"grids must be some of .* not \(\(7, 1\),\)"):
        generate("qa", "train", 0, 0, grids=((7, 1),))
    with pytest.raises(ValueError, match="reference must be 'tag' or 'number', not 'name'"):
        generate("described", "train", 0, 0, reference="name")
