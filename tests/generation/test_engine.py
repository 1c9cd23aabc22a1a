"""Cached, batched decoding against the full forward pass, and what a request may ask."""

import functools

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


@functools.cache
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
    """`images` are numbers of regular tiles; one alone is the thumbnail, several have one more."""
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
    """Three images, a page of 6 + 1 tiles, one tile, none, two images; of different lengths."""
    shapes = [([2, 1, 3], 9), ([6], 4), ([1], 5), ([], 20), ([1], 30), ([], 40), ([4, 2], 14)]
    return [make_prompt(arch, images, text, seed) for seed, (images, text) in enumerate(shapes)]


def uncached_greedy(model, prompts: list[Example], count: int, room: int = 160) -> list[list[int]]:
    """The definition of greedy decoding: the whole row again for each token, no cache, one prompt at a time."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def next_logits(params, batch, place):
        model = nnx.merge(graphdef, params)
        return model.logits(model.hidden(batch)[0, place])

    def answer_of(prompt: Example) -> list[int]:
        answer: list[int] = []
        while len(answer) < count:
            row = continued(prompt, answer)
            batch = pack_batch([[row]], room, 8, TILE, PER_TILE)
            token = int(next_logits(params, batch, len(row.tokens) - 1)[:VOCAB].argmax())
            if token == END:
                break
            answer.append(token)
        return answer

    return [answer_of(prompt) for prompt in prompts]


def continued(prompt: Example, answer: list[int]) -> Example:
    """The prompt with the answer's tokens behind it, as a training example would have them."""

    def extend(values, fill):
        return np.concatenate([values, np.full(len(answer), fill, values.dtype)])

    return prompt._replace(
        tokens=np.concatenate([prompt.tokens, np.asarray(answer, np.int32)]),
        targets=extend(prompt.targets, 0),
        loss_weights=extend(prompt.loss_weights, 0),
        loss_groups=extend(prompt.loss_groups, 0),
        image_slots=extend(prompt.image_slots, -1),
        tag_tile=extend(prompt.tag_tile, 0),
    )


@functools.cache
def generator() -> Generator:
    return Generator(make_model("d"), VOCAB, [END], batch_size=4)


def short_prompts() -> list[Example]:
    """Five of one batch shape."""
    return [make_prompt("d", [1], 10 + seed, seed) for seed in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_cached_greedy_decoding_equals_the_full_forward_token_for_token(arch):
    model, prompts = make_model(arch), make_prompts(arch)
    expected = uncached_greedy(model, prompts, NEW)
    assert any(len(set(answer)) > 4 for answer in expected)  # answers that a mistake would change
    generator = Generator(model, VOCAB, [END], batch_size=2)
    assert generator.generate(prompts, NEW) == expected


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_an_answer_depends_on_the_pixels(arch):
    prompts = [make_prompt(arch, [3], 6, seed) for seed in range(4)]
    generator = Generator(make_model(arch), VOCAB, [END], batch_size=4)
    inverted = [prompt._replace(tiles=255 - prompt.tiles) for prompt in prompts]
    assert generator.generate(prompts, NEW) != generator.generate(inverted, NEW)


def test_streaming_gives_the_same_tokens_one_by_one():
    prompts = short_prompts()[:2]
    stream = generator().stream(prompts[0], NEW)
    assert [next(stream), *stream] == generator().generate(prompts, NEW)[0]


def test_tokens_beyond_the_tokenizer_never_win():
    prompts = short_prompts()
    free = generator().generate(prompts, NEW)
    limit = max(max(answer) for answer in free)
    held = Generator(make_model("d"), limit, [END], batch_size=4)
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=1)):
        assert max(max(answer, default=0) for answer in held.generate(prompts, NEW, sampling)) < limit


def test_an_end_token_ends_the_answer_of_its_row_alone():
    prompts = short_prompts()
    answers = generator().generate(prompts, NEW)
    longest = max(range(len(prompts)), key=lambda i: len(answers[i]))
    end = answers[longest][3]
    shorter = Generator(make_model("d"), VOCAB, [END, end], batch_size=4).generate(prompts, NEW)
    for answer, short in zip(answers, shorter, strict=True):
        assert short == (answer[: answer.index(end)] if end in answer else answer)
    assert len(shorter[longest]) <= 3 < len(answers[longest])
    assert any(len(short) > len(shorter[longest]) for short in shorter)


def test_a_request_draws_the_same_tokens_in_any_company():
    prompts = short_prompts()
    hot = [Sampling(temperature=2.0, top_p=0.9, seed=seed) for seed in range(len(prompts))]
    together = generator().generate(prompts, NEW, hot)
    alone = [generator().generate([p], NEW, s)[0] for p, s in zip(prompts, hot, strict=True)]
    assert together == alone
    other = [Sampling(temperature=2.0, top_p=0.9, seed=seed + 100) for seed in range(len(prompts))]
    assert generator().generate(prompts, NEW, other) != together
    mixed = generator().generate(prompts, NEW, [Sampling(), *hot[1:]])
    assert mixed == [generator().generate(prompts[:1], NEW)[0], *together[1:]]


def test_top_p_keeps_the_fewest_tokens_that_hold_it():
    prompts = short_prompts()[:1] * 4
    tiny = [Sampling(temperature=1.0, top_p=1e-6, seed=seed) for seed in range(4)]
    assert generator().generate(prompts, NEW, tiny) == generator().generate(prompts, NEW)


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
        call(generator(), make_prompt("d", [], 5, 0))


@pytest.mark.parametrize(
    ("tokens", "tiles", "expected"),
    [(1, 0, (64, 0)), (64, 1, (64, 1)), (65, 2, (96, 2)), (97, 3, (128, 4)), (129, 7, (192, 8)), (193, 9, (256, 16))],
)
def test_sizes_are_rounded_up_to_a_few(tokens, tiles, expected):
    prompt = make_prompt("d", [], 5, 0)
    prompt = prompt._replace(tokens=np.zeros(tokens, np.int32), tiles=np.zeros((tiles, TILE, TILE, 3), np.uint8))
    assert bucket_of(prompt) == expected


def test_a_batch_holds_one_number_of_tiles_and_small_groups_join_the_next_size():
    def sized(tokens: int, tiles: int) -> Example:
        prompt = make_prompt("d", [], 5, 0)
        return prompt._replace(tokens=np.zeros(tokens, np.int32), tiles=np.zeros((tiles, 1, 1, 3), np.uint8))

    sizes = [(50, 0), (300, 0), (60, 0), (70, 0), (40, 0), (50, 1), (500, 3)]
    batches = list(Generator(make_model("d"), VOCAB, [END], batch_size=2)._batches([sized(*s) for s in sizes]))
    assert batches == [[0, 2], [4, 3], [1], [5], [6]]
