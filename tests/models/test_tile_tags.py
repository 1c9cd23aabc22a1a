"""How NVLM-H's tiles bear their tags: each way against a plain statement of it, and what binds a tag to its tile."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import CROSS_TAGS, CrossAttentionConfig, InputConfig, RunConfig, run_faults
from nvlm_jax.inputs.batch import THUMBNAIL, Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.models.attention import TileKeys, attend
from nvlm_jax.models.build import build_model
from tests.models.test_nvlm import ROOM, TILE, TILES, TOKENIZER, open_gates, picture, samples, small

WAYS = CROSS_TAGS[1:]
BINDING = ("added", "positions", "joined+positions")


@functools.cache
def make_model(how: str, table: int = 0):
    config = dataclasses.replace(small("h"), cross_attention=CrossAttentionConfig(2, 0.7, 0.7, table, tile_tags=how))
    model = build_model(config, seed=5)
    # As large as image tokens, so that nothing depends on how small fresh embeddings are.
    model.decoder.embedding[...] = jax.random.normal(jax.random.key(1), model.decoder.embedding.shape)
    return open_gates(model)


@functools.cache
def forward(model):
    graphdef, params = nnx.split(model)
    run = jax.jit(lambda params, batch: (m := nnx.merge(graphdef, params)).logits(m.hidden(batch)))
    return lambda batch: np.asarray(run(params, batch))


def all_logits(model, batch) -> np.ndarray:
    return forward(model)(batch)


def make_batch(model, rows, **inputs):
    builder = ExampleBuilder(InputConfig(tokenizer=TOKENIZER, **inputs), model.config, ("text",))
    examples = [[builder.build(sample) for sample in row] for row in rows]
    return pack_batch(examples, ROOM, TILES, TILE, model.config.tokens_per_tile, builder.tag_tokens)


def page(cols: int = 3, rows: int = 2) -> Sample:
    messages = (Message("user", "<image>\nwhat is it?"), Message("assistant", "CAT"))
    return Sample("page", messages, (picture(cols * TILE, rows * TILE, 2),))


def swapped(batch, one: int = 0, other: int = 3):
    tiles = batch.tiles.copy()
    tiles[0, [one, other]] = tiles[0, [other, one]]
    return batch._replace(tiles=tiles)


@pytest.mark.parametrize("how", ["", "joined", "table", *BINDING])
def test_swapping_two_tiles_pixels_moves_logits_where_the_tag_is_bound(how):
    """What merely stands beside a tile's keys is bound to no tile: attention reads a set."""
    model = make_model("", table=6) if how == "table" else make_model(how)
    batch = make_batch(model, [[page()]])
    used = batch.segment_ids > 0
    moved = np.abs(all_logits(model, batch) - all_logits(model, swapped(batch)))[used].max()
    assert moved > 1e-2 if how in BINDING else moved < 1e-4


def stated(model, batch, how: str) -> np.ndarray:
    """The ungated attention of the first gated layer in NumPy, one token and one tile after the other."""
    decoder, cross = model.config.decoder, model.cross_attention
    h, group = decoder.head_dim, decoder.heads // decoder.kv_heads
    linear = (getattr(cross.layers, name) for name in ("q", "k", "v", "out"))
    q, k, v, out = (np.asarray(layer.kernel[...][0], np.float64) for layer in linear)
    norm = np.asarray(cross.layers.norm1.scale[...][0], np.float64)
    table = np.asarray(model.decoder.embedding[...], np.float64)
    image = np.asarray(model.image_tokens(jnp.asarray(batch.tiles)), np.float64)[0]

    def rotated(x: np.ndarray, place: int) -> np.ndarray:
        half = h // 2
        angle = place * decoder.rope_theta ** (-np.arange(half) / half)
        a, b = x[:half], x[half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])

    def keys_of(tile: int) -> tuple[list[np.ndarray], int]:
        tag = [table[i] for i in batch.tile_tags[0, tile] if i >= 0]
        place = int(batch.tile_index[0, tile]) if tag and "positions" in how else 0
        if "joined" in how:
            return [*tag, *image[tile]], place
        if how == "added" and tag:
            mean = np.mean(tag, axis=0)
            return [token + mean / np.sqrt(np.mean(mean**2)) for token in image[tile]], place
        return [*image[tile]], place

    result = np.zeros((ROOM, decoder.width))
    for s in np.flatnonzero(batch.segment_ids[0]):
        keys, values = [], []
        for tile in np.flatnonzero(batch.tile_segment_ids[0] == batch.segment_ids[0, s]):
            only = batch.tag_tile[0, s]
            if batch.tile_index[0, tile] == THUMBNAIL or batch.tile_start[0, tile] > s or only not in (0, tile + 1):
                continue
            media, place = keys_of(tile)
            keys += [[rotated(head, place) for head in (m @ k).reshape(-1, h)] for m in media]
            values += [(m @ v).reshape(-1, h) for m in media]
        if not keys:
            continue
        x = table[batch.tokens[0, s]]
        query = (x / np.sqrt(np.mean(x**2) + decoder.norm_eps) * norm) @ q
        heads = []
        for number, part in enumerate(query.reshape(-1, h)):
            scores = np.array([key[number // group] @ part / np.sqrt(h) for key in keys])
            weights = np.exp(scores - scores.max())
            heads.append(np.average([value[number // group] for value in values], axis=0, weights=weights))
        result[s] = np.concatenate(heads) @ out
    return result


@pytest.mark.parametrize("style", ["1d", "grid", "none"])
@pytest.mark.parametrize("how", WAYS)
def test_each_way_against_a_plain_statement(how, style):
    model = make_model(how)
    batch = make_batch(model, [samples()], tile_tags=style)
    index = jnp.broadcast_to(jnp.arange(ROOM), batch.tokens.shape)
    memory = model.memory(batch, model.image_tokens(jnp.asarray(batch.tiles)), index)
    graphdef, params = nnx.split(model.cross_attention.layers)
    layer = nnx.merge(graphdef, jax.tree.map(lambda p: p[0], params))
    x, keys_values = model.decoder.embed(batch.tokens), layer.keys_values(memory.media, memory.turns)
    got = np.asarray(layer.attention(x, *keys_values, memory.visible, real=memory.real))[0]
    want = stated(model, batch, how)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-4)
    mask = TileKeys(memory.visible, memory.media.shape[2], memory.mask, memory.real)
    q = jax.random.normal(jax.random.key(2), (1, ROOM, model.config.decoder.heads, model.config.decoder.head_dim))
    dense = attend(q, *keys_values, mask, "dense")
    for way in ("blockwise", "mosaic"):  # the mask in blocks of whole tiles, and in integers a key
        np.testing.assert_allclose(attend(q, *keys_values, mask, way), dense, atol=1e-5)


@pytest.mark.parametrize("how", WAYS)
def test_the_style_of_tags_reaches_the_tiles(how):
    """`none` is no tag at all, to the last bit but for the order of sums; texts differ where texts are read."""
    model, bare = make_model(how), make_model("")
    sample = page()
    logits = {s: all_logits(model, make_batch(model, [[sample]], tile_tags=s)) for s in ("none", "1d", "grid", "box")}
    untagged = all_logits(bare, make_batch(bare, [[sample]], tile_tags="none"))
    np.testing.assert_allclose(logits["none"], untagged, atol=1e-5)
    assert np.abs(logits["1d"] - logits["none"]).max() > 1e-2
    for style in ("grid", "box"):
        moved = np.abs(logits[style] - logits["1d"]).max()
        assert moved < 1e-5 if how == "positions" else moved > 1e-3


@pytest.mark.parametrize("how", WAYS)
def test_any_number_of_tiles_has_tags(how):
    model = make_model(how)
    batch = make_batch(model, [[page(4, 3)]], max_tiles=12)
    assert batch.tile_index[0, :13].tolist() == [*range(1, 13), THUMBNAIL]
    if "positions" in how or how == "added":
        moved = all_logits(model, batch) - all_logits(model, swapped(batch, 6, 11))
        assert np.abs(moved).max() > 1e-2  # the seventh and the twelfth are told apart


@pytest.mark.parametrize("how", WAYS)
def test_a_packed_sample_has_the_logits_it_has_alone(how):
    model = make_model(how)
    together = make_batch(model, [samples()])
    packed = all_logits(model, together)[0]
    for number, sample in enumerate(samples(), start=1):
        alone = make_batch(model, [[sample]])
        length = int((alone.segment_ids == 1).sum())
        place = together.segment_ids[0] == number
        np.testing.assert_allclose(packed[place], all_logits(model, alone)[0][:length], atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", WAYS)
def test_the_decoders_embeddings_learn_from_the_tiles_tags(how):
    model = make_model(how)
    batch = make_batch(model, [[page()]])
    [digit] = set(batch.tile_tags[0, 3].tolist()) - set(batch.tile_tags[0, 1].tolist())  # the 4 of <tile_4>
    assert digit not in batch.tokens

    graphdef, table, rest = nnx.split(model, lambda path, _: path == ("decoder", "embedding"), ...)

    def loss(table):
        return jnp.square(nnx.merge(graphdef, table, rest).hidden(batch)).mean()

    gradient = np.asarray(jax.jit(jax.grad(loss))(table).decoder.embedding.get_value())
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient[digit]).max() > 0) == (how != "positions")


def test_a_table_of_tags_stays_as_it_was():
    """A config from before `tile_tags`: the table's row joins each tile's keys, and nothing else is read."""
    model = make_model("", table=6)
    batch = make_batch(model, [[page()]])
    assert batch.tile_tags.shape == (1, TILES, 0)
    image = model.image_tokens(jnp.asarray(batch.tiles))
    memory = model.memory(batch, image, jnp.arange(ROOM)[None])
    rows = np.asarray(model.cross_attention.tags[...])
    np.testing.assert_array_equal(memory.media[0, :6, 0], rows)
    np.testing.assert_array_equal(memory.media[0, :, 1:], image[0])
    assert memory.real is None and memory.turns is None
    assert not hasattr(make_model("added").cross_attention.tags, "shape")


@pytest.mark.parametrize(
    ("arch", "cross", "inputs", "message"),
    [
        ("h", {"tag_embeddings": 6}, {"max_tiles": 12}, "inputs.max_tiles: 12 tiles an image, .* a table of 6 tags"),
        ("h", {"tag_embeddings": 6, "tile_tags": "added"}, {}, "tag_embeddings: a table of 6 beside tile_tags 'added'"),
        ("h", {"tile_tags": "add"}, {}, "tile_tags: 'add' is none of '', 'joined', 'added'"),
        ("x", {"tile_tags": "added"}, {}, "tile_tags: 'added' is NVLM-H's; arch x has tags in its text"),
    ],
)
def test_what_cannot_be(arch, cross, inputs, message):
    config = dataclasses.replace(small(arch), cross_attention=CrossAttentionConfig(2, **cross))
    [fault] = run_faults(RunConfig(model=config, inputs=InputConfig(**inputs)))
    assert re.search(message, fault)
