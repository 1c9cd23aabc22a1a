"""Cached, batched decoding against the full forward pass, and what a request may ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, ModelConfig, VisionConfig
from nvlm_jax.generation.engine import Generator, Sampling, bucket_of
from nvlm_jax.inputs.batch import THUMBNAIL, Example
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.models.build import build_model

ROWS, VOCAB, END = 64, 50, 7  # the model's rows, the tokenizer's ids, the end token
TILE, PER_TILE = 16, 4
NEW = 12


def make_model(arch: str):
    config = ModelConfig(
        arch=arch,
        vision=VisionConfig(image_size=TILE, patch_size=4, width=16, layers=2, heads=2, head_dim=8, ff=32),
        decoder=DecoderConfig(ROWS, 24, 4, 4, 2, 8, 48, rope_theta=1e4),
        projector_width=0 if arch == "x" else 32,
        cross_attention=None if arch == "d" else CrossAttentionConfig(2, tag_embeddings=6 if arch == "h" else 0),
        dtype="float32",
        frozen_dtype="float32",
        remat="none",
    )
    model = build_model(config, seed=3)
    if arch != "d":
        gates = model.cross_attention.layers
        gates.attention_gate[...] = jnp.full_like(gates.attention_gate[...], 1.5)
        gates.mlp_gate[...] = jnp.full_like(gates.mlp_gate[...], 0.8)
    # Wide embeddings and head, so that neighbouring logits are far apart and answers are not one token repeated.
    model.decoder.embedding[...] = jax.random.normal(jax.random.key(1), model.decoder.embedding.shape)
    model.decoder.head.kernel[...] = jax.random.normal(jax.random.key(2), model.decoder.head.kernel.shape)
    return model


def make_prompt(arch: str, images: list[int], text: int, seed: int) -> Example:
    """`images` are numbers of regular tiles; several get a thumbnail, one is the thumbnail itself. `text` tokens each."""
    rng = np.random.default_rng(seed)
    tokens, slots, tags, tile_index, tile_start = [], [], [], [], []

    def say(count: int, tag: int = 0):
        tokens.extend(rng.integers(8, VOCAB, count))
        slots.extend([-1] * count)
        tags.extend([tag] * count)

    say(text)
    for regular in images:
        start = len(tokens)
        say(1)
        for index in [*(range(1, regular + 1) if regular > 1 else ()), THUMBNAIL]:
            tile_index.append(index)
            tile_start.append(start)
            number = len(tile_index)
            if arch != "h" or index == THUMBNAIL:
                say(2, number)
            if arch == "d" or (arch == "h" and index == THUMBNAIL):
                tokens.extend([0] * PER_TILE)
                slots.extend(range((number - 1) * PER_TILE, number * PER_TILE))
                tags.extend([0] * PER_TILE)
        say(text)
    size, tiles = len(tokens), len(tile_index)
    return Example(
        f"prompt-{seed}",
        np.asarray(tokens, np.int32),
        np.zeros(size, np.int32),
        np.zeros(size, np.float32),
        np.zeros(size, np.int32),
        rng.integers(0, 256, (tiles, TILE, TILE, 3), dtype=np.uint8),
        np.asarray(tile_index, np.int32),
        np.asarray(tile_start, np.int32),
        np.asarray(slots, np.int32),
        np.asarray(tags, np.int32),
    )


def make_prompts(arch: str) -> list[Example]:
    """Several images, one page of 6 + 1 tiles, one tile, none; mixed lengths, more than one bucket."""
    shapes = [([2, 1, 3], 9), ([6], 4), ([1], 5), ([], 20), ([1], 30), ([], 66), ([4, 2], 14)]
    return [make_prompt(arch, images, text, seed) for seed, (images, text) in enumerate(shapes)]


def uncached_greedy(model, example: Example, count: int, room: int = 160) -> list[int]:
    """The definition of greedy decoding: the whole row again for each token, no cache."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def next_logits(params, batch, place):
        model = nnx.merge(graphdef, params)
        return model.logits(model.hidden(batch)[0, place])

    answer: list[int] = []
    while len(answer) < count:
        new = len(answer)

        def extend(values, fill, new=new):
            return np.concatenate([values, np.full(new, fill, values.dtype)])

        row = example._replace(
            tokens=np.concatenate([example.tokens, np.asarray(answer, np.int32)]),
            targets=extend(example.targets, 0),
            loss_weights=extend(example.loss_weights, 0),
            loss_groups=extend(example.loss_groups, 0),
            image_slots=extend(example.image_slots, -1),
            tag_tile=extend(example.tag_tile, 0),
        )
        batch = pack_batch([[row]], room, max(1, len(example.tiles)), TILE, PER_TILE)
        logits = np.asarray(next_logits(params, batch, len(row.tokens) - 1))
        token = int(logits[:VOCAB].argmax())
        if token == END:
            break
        answer.append(token)
    return answer


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_cached_greedy_decoding_equals_the_full_forward_token_for_token(arch):
    model = make_model(arch)
    prompts = make_prompts(arch)
    assert len({bucket_of(p) for p in prompts}) > 2
    expected = [uncached_greedy(model, prompt, NEW) for prompt in prompts]
    assert any(len(set(answer)) > 4 for answer in expected)  # answers that a mistake would change
    generator = Generator(model, VOCAB, [END], batch_size=2)
    assert generator.generate(prompts, NEW) == expected
    assert list(generator.stream(prompts[0], NEW)) == expected[0]


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_an_answer_depends_on_the_pixels(arch):
    prompt = make_prompt(arch, [3], 6, 0)
    generator = Generator(make_model(arch), VOCAB, [END])
    seen, inverted = generator.generate([prompt, prompt._replace(tiles=255 - prompt.tiles)], NEW)
    assert seen != inverted


def test_tokens_beyond_the_tokenizer_never_win():
    model = make_model("d")
    kernel = model.decoder.head.kernel
    kernel[...] = kernel[...].at[:, VOCAB:].multiply(100.0)
    prompts = make_prompts("d")
    free = Generator(model, ROWS, [END]).generate(prompts, NEW)
    assert max(max(answer, default=0) for answer in free) >= VOCAB  # they would win
    held = Generator(model, VOCAB, [END]).generate(prompts, NEW, Sampling(temperature=1.0))
    held += Generator(model, VOCAB, [END]).generate(prompts, NEW)
    assert max(max(answer, default=0) for answer in held) < VOCAB


def test_an_end_token_ends_the_answer_of_its_row_alone():
    model, prompts = make_model("d"), make_prompts("d")
    answers = Generator(model, VOCAB, [END]).generate(prompts, NEW)
    end = answers[0][3]
    shorter = Generator(model, VOCAB, [END, end]).generate(prompts, NEW)
    for answer, short in zip(answers, shorter, strict=True):
        assert short == (answer[: answer.index(end)] if end in answer else answer)
    assert shorter[0] != answers[0]


def test_a_request_draws_the_same_tokens_in_any_company():
    model, prompts = make_model("d"), make_prompts("d")
    generator = Generator(model, VOCAB, [END], batch_size=4)
    hot = [Sampling(temperature=2.0, top_p=0.9, seed=seed) for seed in range(len(prompts))]
    together = generator.generate(prompts, NEW, hot)
    alone = [generator.generate([p], NEW, s)[0] for p, s in zip(prompts, hot, strict=True)]
    assert together == alone
    assert list(generator.stream(prompts[2], NEW, hot[2])) == together[2]
    other = [Sampling(temperature=2.0, top_p=0.9, seed=seed + 100) for seed in range(len(prompts))]
    assert generator.generate(prompts, NEW, other) != together
    greedy = generator.generate(prompts, NEW)
    mixed = generator.generate(prompts, NEW, [Sampling(), *hot[1:]])
    assert mixed == [greedy[0], *together[1:]]


def test_top_p_keeps_the_fewest_tokens_that_hold_it():
    model, prompt = make_model("d"), make_prompt("d", [], 10, 0)
    generator = Generator(model, VOCAB, [END])
    greedy = generator.generate([prompt], NEW)[0]
    tiny = [Sampling(temperature=1.0, top_p=1e-6, seed=seed) for seed in range(4)]
    assert generator.generate([prompt] * 4, NEW, tiny) == [greedy] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, p: g.generate([p], 0), "max_new_tokens: 0; at least 1"),
        (lambda g, p: g.generate([p], 4, [Sampling()] * 2), "sampling: 2 for 1 examples"),
        (lambda g, p: g.generate([p._replace(tokens=p.tokens[:0])], 4), "'prompt-0': an empty prompt"),
        (lambda g, p: Sampling(temperature=-1.0), "temperature: -1.0; 0 "),
        (lambda g, p: Sampling(top_p=0.0), "top_p: 0.0; above 0"),
        (lambda g, p: Generator(make_model("d"), VOCAB, []), r"end_ids: \[\]; at least one"),
        (lambda g, p: Generator(make_model("d"), VOCAB, [VOCAB]), f"each below vocab_size {VOCAB}"),
        (lambda g, p: Generator(make_model("d"), ROWS + 1, [END]), f"the model has {ROWS} rows"),
    ],
)
def test_requests_that_cannot_be_met_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(Generator(make_model("d"), VOCAB, [END]), make_prompt("d", [], 5, 0))


@pytest.mark.parametrize(
    ("tokens", "tiles", "expected"),
    [(1, 0, (64, 0)), (64, 1, (64, 1)), (65, 2, (96, 2)), (97, 3, (128, 4)), (129, 7, (192, 8)), (193, 9, (256, 16))],
)
def test_sizes_are_rounded_up_to_a_few(tokens, tiles, expected):
    prompt = make_prompt("d", [], 5, 0)
    prompt = prompt._replace(tokens=np.zeros(tokens, np.int32), tiles=np.zeros((tiles, TILE, TILE, 3), np.uint8))
    assert bucket_of(prompt) == expected
