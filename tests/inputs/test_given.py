"""Ids and tiles that were made elsewhere: the same example as the conversation's, or an error that says why not."""

import dataclasses
import functools
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, InputConfig, ModelConfig, VisionConfig
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.given import example_from_tokens

TOKENIZER = "nvlm_jax/assets/tiny"
TILE = 16
TILES = {1: (1, 1), 3: (2, 1), 7: (2, 3), 5: (4, 1)}  # with thumbnail: grid
ARRAYS = ("tokens", "tile_index", "tile_start", "image_slots", "tag_tile", "tile_tags")


@functools.cache
def make_builder(arch: str, **inputs) -> ExampleBuilder:
    cross = None if arch == "d" else CrossAttentionConfig(tile_tags="joined+positions" if arch == "h" else "")
    vision = VisionConfig(image_size=TILE, patch_size=4)
    model = ModelConfig(arch=arch, vision=vision, decoder=DecoderConfig(vocab_size=512), cross_attention=cross)
    return ExampleBuilder(dataclasses.replace(InputConfig(tokenizer=TOKENIZER), **inputs), model)


def picture(cols: int, rows: int) -> Image.Image:
    return Image.fromarray(np.full((rows * TILE, cols * TILE, 3), 10 * cols + rows, np.uint8))


def talk(*contents: str) -> list[Message]:
    roles = itertools.cycle(("user", "assistant"))
    return [Message(role, content) for role, content in zip(roles, contents, strict=False)]


def again(builder: ExampleBuilder, example, grids=None):
    return example_from_tokens(
        example.tokens, example.tiles, builder.model, builder.inputs, builder.tokenizer, None, grids
    )


def assert_same(got, want) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


QUESTIONS = (
    talk("<image>\nwhat is this?"),
    talk("<image>\nrow 1 of <tile_2>?"),
    talk("before <tile_1>, <image> and <tile_1> behind"),
    talk("<image>\nwhere?", "in <tile_1>.", "and in <tile_2>?"),
    talk("<image>\nwhat does <Image> mean? é 猫", "nothing, </Image>", "<tile_2> or <tile_global_thumbnail>?"),
    talk("no picture, but <tile_1>"),
    [Message("system", "look at <tile_1>"), *talk("<image> what?")],
)
SETTINGS = (
    {},
    {"question_focus": True},
    {"question_tags": False},
    {"thumbnail": False},
    {"tile_tags": "none"},
    {"joined_as_released_hf": True},
    {"system": "", "thumbnail_tag": "<tile_global>"},
)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(s) or "default")
def test_every_field_is_the_conversations(arch, settings):
    builder = make_builder(arch, **settings)
    for messages, grid in itertools.product(QUESTIONS, TILES.values()):
        count = sum(m.content.count("<image>") for m in messages if m.role == "user")
        example = builder.prompt(messages, [picture(*grid)] * count)
        assert_same(again(builder, example), example)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
@pytest.mark.parametrize("style", ["grid", "box"])
def test_tags_that_tell_how_tiles_lie(arch, style):
    """D's and X's ids hold them; H's hold the thumbnail's alone, and six tiles lie in four ways."""
    builder = make_builder(arch, tile_tags=style)
    tag = builder.images.names((2, 3))[3]
    example = builder.prompt(talk(f"<image>\nrow 2 of {tag}?"), [picture(2, 3)])
    assert np.count_nonzero(example.tag_tile == 4) > (1 if arch == "h" else 2)
    if arch == "h":
        with pytest.raises(ValueError, match=r"do not tell how 1 images have 7 tiles.*\[\(1, 6\)\] or .*give grids"):
            again(builder, example)
        assert_same(again(builder, example, [(2, 3)]), example)
        assert not np.array_equal(again(builder, example, [(3, 2)]).tile_tags, example.tile_tags)
    else:
        assert_same(again(builder, example), example)
        with pytest.raises(ValueError, match=r"grids: \(3, 2\) is not what the ids hold: \(2, 3\) would fit"):
            again(builder, example, [(3, 2)])


@pytest.mark.parametrize("settings", [{}, {"question_focus": True}])
def test_two_images(settings):
    """Which tiles are whose: X's and D's tags tell, H's ids do not, and X's do not without tags."""
    messages = talk("one <image> of <tile_1>, two <image>\nrow 2 of <tile_3>?")
    pictures, grids = [picture(2, 1), picture(2, 3)], [(2, 1), (2, 3)]
    for arch in "dx":
        builder = make_builder(arch, **settings)
        example = builder.prompt(messages, pictures)
        assert len(set(example.tile_start.tolist())) == 2 and 6 in example.tag_tile
        assert_same(again(builder, example), example)
    for builder in (make_builder("h", **settings), make_builder("x", tile_tags="none")):
        example = builder.prompt(messages, pictures)
        with pytest.raises(ValueError, match="do not tell how 2 images have 10 tiles"):
            again(builder, example)
        assert_same(again(builder, example, grids), example)
        with pytest.raises(ValueError, match="2 grids of 6 tiles with their thumbnails; 2 images stand"):
            again(builder, example, [(2, 1), (2, 1)])


def test_a_template_without_marks_between_question_and_answer():
    builder = make_builder("x", template="plain")
    for messages in (talk("<image> row 1 of <tile_2>?"), talk("<image> what?", "CAT", "and <tile_2>?")):
        example = builder.prompt(messages, [picture(2, 3)])
        assert_same(again(builder, example), example)
    doubtful = builder.prompt(talk("<image> what?", "it is in <tile_2>", "sure?"), [picture(2, 3)])
    with pytest.raises(ValueError, match=r"<tile_2> stands in text that may be .* template .plain. do not tell"):
        again(builder, doubtful)
    untagged = make_builder("x", template="plain", question_tags=False)
    example = untagged.prompt(talk("<image> what?", "it is in <tile_2>", "sure?"), [picture(2, 3)])
    assert_same(again(untagged, example), example)


def test_ids_of_no_image():
    builder = make_builder("x")
    tokens = builder.tokenizer.encode("what is this?")
    tiles = np.zeros((3, TILE, TILE, 3), np.uint8)
    with pytest.raises(ValueError, match="0 images stand in the ids, and none of their sizes makes up the 3 tiles"):
        example_from_tokens(tokens, tiles, builder.model, builder.inputs, builder.tokenizer)
    with pytest.raises(ValueError, match=r"nothing says which ids the tags of NVLM-H's tiles have"):
        example_from_tokens(np.array([9] * 4), tiles, make_builder("h").model, builder.inputs, None, 9)
    short = make_builder("h").prompt(talk("<image> what?"), [picture(2, 3)])
    extra = np.append(short.tokens, short.tokens[short.image_slots >= 0])
    with pytest.raises(ValueError, match=r"the image token .* stands 8 times; expected 4, 4 for each tile"):
        example_from_tokens(extra, short.tiles, make_builder("h").model, builder.inputs, builder.tokenizer)


def test_an_answer_that_is_only_history_names_no_tile():
    builder = make_builder("x")
    question, answer = talk("<image> what?", "it is in <tile_2>")
    last = talk("sure?", "yes")
    heard = Sample("s", (question, dataclasses.replace(answer, trained=False), *last), (encoded(2, 3),))
    trained = Sample("s", (question, answer, *last), (encoded(2, 3),))
    examples = [builder.build(sample) for sample in (heard, trained)]
    assert_same(*examples)
    assert examples[0].loss_weights.sum() < examples[1].loss_weights.sum()


def encoded(cols: int, rows: int) -> bytes:
    out = io.BytesIO()
    picture(cols, rows).save(out, "PNG")
    return out.getvalue()
