"""The proofs about the composed model: gates, packing, visibility, memory, sizes."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs.nvlm import get_config, model_config
from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, InputConfig, ModelConfig, VisionConfig
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.models.attention import CausalMask, TileMask
from nvlm_jax.models.build import abstract_model, build_model, parameter_counts
from nvlm_jax.training.loss import token_nll
from tests import tiny

TOKENIZER = "nvlm_jax/assets/tiny"
TILE, ROOM, TILES = 32, 512, 20


def small(arch: str, **changes) -> ModelConfig:
    return ModelConfig(
        arch=arch,
        vision=VisionConfig(image_size=TILE, patch_size=8, width=24, layers=2, heads=3, head_dim=8, ff=48),
        decoder=DecoderConfig(512, 32, 4, 4, 2, 8, 64, rope_theta=1e4),
        projector_width=0 if arch == "x" else 40,
        cross_attention=None if arch == "d" else CrossAttentionConfig(2, tag_embeddings=6 if arch == "h" else 0),
        dtype="float32",
        frozen_dtype="float32",
        **({"remat": "none"} | changes),
    )


def picture(width: int, height: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def samples() -> list[Sample]:
    """Text only; one tile; 6 + 1 tiles; two images; text only again."""

    def talk(*contents: str) -> tuple[Message, ...]:
        roles = ("user", "assistant")
        return tuple(Message(roles[i % 2], content, "text") for i, content in enumerate(contents))

    square, wide, tall = picture(30, 30, 1), picture(3 * TILE, 2 * TILE, 2), picture(TILE, 3 * TILE, 3)
    return [
        Sample("text", talk("spell FOX backwards.", "XOF")),
        Sample("one", talk("<image>\nword at [k]?", "CAT", "and [m]?", "42"), (square,)),
        Sample("six", talk("<image>\nrow 1 column 2 of <tile_4>?", "F"), (wide,)),
        Sample("two", talk("first <image> then <image> row 2 of <tile_2>?", "DOG"), (square, tall)),
        Sample("more", talk("repeat 77.", "77")),
    ]


def build_batch(config: ModelConfig, rows: list[list[Sample]], **inputs):
    builder = ExampleBuilder(InputConfig(tokenizer=TOKENIZER, **inputs), config, ("text",))
    examples = [[builder.build(sample) for sample in row] for row in rows]
    return pack_batch(examples, ROOM, TILES, TILE, config.tokens_per_tile)


def open_gates(model, value: float = 0.7):
    if model.cross_attention is not None:
        gates = model.cross_attention.layers
        gates.attention_gate[...] = jnp.full_like(gates.attention_gate[...], value)
        gates.mlp_gate[...] = jnp.full_like(gates.mlp_gate[...], value)
    return model


def all_logits(model, batch) -> np.ndarray:
    graphdef, params = nnx.split(model)
    run = jax.jit(lambda params, batch: (m := nnx.merge(graphdef, params)).logits(m.hidden(batch)))
    return np.asarray(run(params, batch))


@pytest.mark.parametrize("arch", ["x", "h"])
def test_shut_gates_leave_the_text_backbone_bit_for_bit(arch):
    model = build_model(small(arch))
    batch = build_batch(model.config, [samples()])
    fresh = all_logits(model, batch)
    cross, model.cross_attention = model.cross_attention, None
    backbone = all_logits(model, batch)
    np.testing.assert_array_equal(fresh, backbone)
    model.cross_attention = cross
    assert np.abs(all_logits(open_gates(model), batch) - backbone).max() > 1e-3  # the comparison can fail


@pytest.mark.parametrize("arch", ["x", "h"])
def test_a_gated_layer_at_another_place_is_one_of_every_layer_with_the_others_shut(arch):
    config = tiny.make_model_config(arch)
    each = tiny.make_model(config)  # a gated layer before both decoder layers
    gated = each.cross_attention.layers
    for gate in (gated.attention_gate, gated.mlp_gate):
        gate[...] = gate[...].at[0].set(0.0)
    cross = dataclasses.replace(config.cross_attention, every=2, place=1)
    one = tiny.make_model(dataclasses.replace(config, cross_attention=cross))
    second = jax.tree.map(lambda a: a[1:], nnx.state(gated))
    nnx.update(one.cross_attention.layers, second)
    nnx.update(one, nnx.state(each, lambda path, _: path[:2] != ("cross_attention", "layers")))
    batch = tiny.make_batch(config, 2, seed=3)
    expected = all_logits(each, batch)
    np.testing.assert_allclose(all_logits(one, batch), expected, atol=2e-5)
    one.cross_attention.place = 0
    assert np.abs(all_logits(one, batch) - expected).max() > 1e-3  # the comparison can fail


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_a_packed_sample_has_the_logits_it_has_alone(arch):
    """To 1e-5: the same numbers in another order of summation; measured differences are below 1e-6."""
    model = open_gates(build_model(small(arch)))
    together = build_batch(model.config, [samples()])
    packed = all_logits(model, together)[0]
    for number, sample in enumerate(samples(), start=1):
        alone = build_batch(model.config, [[sample]])
        length = int((alone.segment_ids == 1).sum())
        place = together.segment_ids[0] == number
        np.testing.assert_array_equal(together.tokens[0][place], alone.tokens[0][:length])
        np.testing.assert_allclose(packed[place], all_logits(model, alone)[0][:length], atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_pixels_of_one_sample_reach_no_other_sample(arch):
    model = open_gates(build_model(small(arch)))
    batch = build_batch(model.config, [samples()])
    before = all_logits(model, batch)[0]
    tiles = np.where((batch.tile_segment_ids == 3)[..., None, None, None], 255 - batch.tiles, batch.tiles)
    after = all_logits(model, batch._replace(tiles=tiles))[0]
    own = batch.segment_ids[0] == 3
    np.testing.assert_array_equal(before[~own], after[~own])
    assert np.abs(before[own] - after[own]).max() > 1e-4


def first_cross_attention(model, batch) -> np.ndarray:
    index = jnp.broadcast_to(jnp.arange(ROOM), batch.tokens.shape)
    memory = model.memory(batch, model.image_tokens(jnp.asarray(batch.tiles)), index)
    graphdef, params = nnx.split(model.cross_attention.layers)
    layer = nnx.merge(graphdef, jax.tree.map(lambda p: p[0], params))
    x = model.decoder.embed(batch.tokens)
    return np.asarray(layer.attention(x, *layer.keys_values(memory.media), memory.visible))


def test_a_tag_token_reads_its_own_tile_alone():
    model = build_model(small("x"))
    batch = jax.tree.map(jnp.asarray, build_batch(model.config, [samples()]))
    before = first_cross_attention(model, batch)
    for j in np.flatnonzero(np.asarray(batch.tile_segment_ids[0])):
        after = first_cross_attention(model, batch._replace(tiles=batch.tiles.at[0, j].set(255 - batch.tiles[0, j])))
        others = (np.asarray(batch.tag_tile) > 0) & (np.asarray(batch.tag_tile) != j + 1)
        named = np.asarray(batch.tag_tile) == j + 1
        np.testing.assert_array_equal(before[others], after[others])
        assert named.any() and np.abs(before[named] - after[named]).max() > 1e-5


@pytest.mark.parametrize("arch", ["x", "h"])
def test_a_token_that_sees_no_tile_gets_exactly_zero(arch):
    model = build_model(small(arch))
    batch = jax.tree.map(jnp.asarray, build_batch(model.config, [samples()]))
    out = first_cross_attention(model, batch)[0]
    index = np.arange(ROOM)
    starts = np.asarray(batch.tile_start[0])
    for segment in range(1, 6):
        own = np.asarray(batch.segment_ids[0]) == segment
        read = np.asarray(batch.tile_segment_ids[0]) == segment
        if arch == "h":
            read &= np.asarray(batch.tile_index[0]) <= 6
        first = starts[read].min() if read.any() else ROOM
        # In H the thumbnail's tag stands in the decoder; the tile it names is not read, so it sees nothing.
        tag = np.asarray(batch.tag_tile[0])
        sees = (index >= first) & ((tag == 0) | read[np.maximum(tag - 1, 0)])
        assert (out[own & ~sees] == 0).all()
        assert (np.abs(out[own & sees]).max(axis=-1) > 0).all()


def test_a_loss_has_no_gradient_by_an_image_that_comes_later():
    config = small("x")
    model = open_gates(build_model(config))
    batch = jax.tree.map(jnp.asarray, build_batch(config, [[samples()[3]]]))
    later = np.flatnonzero(np.asarray(batch.tile_start[0]) == np.asarray(batch.tile_start[0]).max())
    before_it = (np.arange(ROOM) < int(batch.tile_start[0, later[0]]))[None]

    def loss(image_tokens):
        index = jnp.broadcast_to(jnp.arange(ROOM), batch.tokens.shape)
        mask = CausalMask(batch.segment_ids, index, batch.segment_ids, index)
        memory = model.memory(batch, image_tokens, index)
        x = model.embed(batch.tokens, image_tokens, batch.image_slots)
        hidden, _ = model.decoder(x, batch.positions, mask, model.cross_attention, memory)
        nll = token_nll(model.logits_by_chunks(), hidden, batch.targets, jnp.asarray(before_it), 128)
        return (nll * before_it).sum()

    gradient = np.asarray(jax.grad(loss)(model.image_tokens(batch.tiles)))[0]
    assert (gradient[later] == 0).all()
    assert np.abs(np.delete(gradient, later, axis=0)).max() > 0


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_row_without_any_tile(arch):
    model = open_gates(build_model(small(arch)))
    text = [samples()[0], samples()[4]]
    with_room = build_batch(model.config, [text])
    none = jax.tree.map(lambda a: a[:, :0], (with_room.tiles, with_room.tile_segment_ids, with_room.tile_index))
    bare = with_room._replace(
        tiles=none[0], tile_segment_ids=none[1], tile_index=none[2], tile_start=with_room.tile_start[:, :0]
    )
    used = with_room.segment_ids > 0
    np.testing.assert_array_equal(all_logits(model, with_room)[used], all_logits(model, bare)[used])


def array_shapes(jaxpr) -> set[tuple[int, ...]]:
    shapes = set()
    for eqn in jaxpr.eqns:
        shapes |= {tuple(v.aval.shape) for v in eqn.outvars}
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    shapes |= array_shapes(inner)
    return shapes


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_no_mask_and_no_logits_of_full_size_exist(arch):
    """A step of a long row, forward and backward: no [S, S] or [S, T*N] array and no [B, S, V] of logits."""
    s, t, v = 4096, 600, 704
    config = dataclasses.replace(small(arch), loss_chunk=256)
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, vocab_size=v))
    graphdef, params = nnx.split(abstract_model(config))

    def of(shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    batch = build_batch(config, [samples()])
    batch = type(batch)(
        *(of((1, s), jnp.asarray(field).dtype) for field in batch[:6]),
        of((1, t, TILE, TILE, 3), jnp.uint8),
        *(of((1, t)) for _ in range(3)),
        *(of((1, s)) for _ in range(2)),
    )

    def loss(params, batch):
        model, wanted = nnx.merge(graphdef, params), batch.loss_weights > 0
        nll = token_nll(model.logits_by_chunks(), model.hidden(batch), batch.targets, wanted, config.loss_chunk)
        return (nll * batch.loss_weights).sum()

    shapes = array_shapes(jax.make_jaxpr(jax.grad(loss))(params, batch).jaxpr)
    assert (1, s, config.decoder.width) in shapes
    for shape in shapes:
        keys = {t * config.tokens_per_tile, t * (config.tokens_per_tile + 1)}  # H has its tag embeddings too
        assert not (s in shape and keys & set(shape)), shape
        assert shape.count(s) < 2, shape
        assert not (s in shape and v in shape and len(shape) == 3), shape


def test_visibility_by_hand():
    """Two samples in a row; 1: image of two tiles at place 1, tags at 2 and 3; 2: image of one tile at place 6."""
    mask = TileMask(
        q_segment=jnp.array([[1, 1, 1, 1, 1, 2, 2, 2, 0]]),
        q_index=jnp.arange(9)[None],
        tag_tile=jnp.array([[0, 0, 1, 2, 0, 0, 0, 0, 0]]),
        tile_segment=jnp.array([[1, 1, 2, 0]]),
        tile_start=jnp.array([[1, 1, 6, 0]]),
    )
    expected = ["....", "oo..", "o...", ".o..", "oo..", "....", "..o.", "..o.", "...."]
    assert ["".join("o" if v else "." for v in row) for row in np.asarray(mask.tiles()[0])] == expected


def test_parameter_counts_of_the_released_sizes():
    """Vision, projector and Qwen2 parts of nvidia/NVLM-D-72B without its dummy heads (the checkpoint's tensors)."""
    counts = parameter_counts(abstract_model(model_config("d", "72b")))
    assert counts == {"vision": 5_536_496_000, "projector": 620_717_056, "decoder": 72_706_203_648}
    assert sum(counts.values()) == 78_863_416_704


@pytest.mark.parametrize("size", ["tiny", "1b", "34b", "72b"])
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_parameter_counts_in_closed_form(arch, size):
    config = model_config(arch, size)
    counts = parameter_counts(abstract_model(config))
    d, v = config.decoder, config.vision
    kv, inner, shuffled = d.kv_heads * d.head_dim, d.heads * d.head_dim, v.width * 4
    wide = config.projector_width
    assert counts["projector"] == 2 * shuffled + (shuffled * wide + wide * d.width if wide else shuffled * d.width)
    attention = 2 * d.width * inner + 2 * d.width * kv
    layer = attention + (inner + 2 * kv) * d.qkv_bias + 3 * d.width * d.ff + 2 * d.width
    heads = 1 if d.tied_embeddings else 2
    assert counts["decoder"] == d.layers * layer + heads * d.vocab_size * d.width + d.width
    if arch == "d":
        assert "cross_attention" not in counts and wide > 0
    else:
        gated = attention + 3 * d.width * d.ff + 2 * d.width + 2  # two norms and two scalar gates
        layers = d.layers // config.cross_attention.every
        assert counts["cross_attention"] == layers * gated
        assert size not in ("34b", "72b") or layers == 10  # paper, section 4.3
    assert (arch == "x") == (wide == 0)


def test_every_named_config_differs_only_where_it_says():
    d, x = (get_config(f"arch={arch},size=72b,stage=sft").to_dict() for arch in "dx")
    assert d["model"]["decoder"] == x["model"]["decoder"] and d["model"]["vision"] == x["model"]["vision"]
    assert x["optimizer"]["min_learning_rate"] == 1e-7 and d["optimizer"]["clip_norm"] == 10.0
