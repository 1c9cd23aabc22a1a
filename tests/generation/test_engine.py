"""Cached, batched decoding against the full forward pass, what is used again, and what a request may ask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, ModelConfig, VisionConfig
from nvlm_jax.generation import shapes, work
from nvlm_jax.generation.engine import Engine, part_of
from nvlm_jax.generation.request import GREEDY, Request
from nvlm_jax.generation.sampling import Sampling
from nvlm_jax.inputs.batch import THUMBNAIL, Example
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.models.build import build_model

ROWS, VOCAB, END = 64, 50, 7  # the model's rows, the tokenizer's ids, the end token
TILE, PER_TILE = 16, 4
NEW = 12


@functools.cache
def make_model(arch: str, tile_tags: str = ""):
    table = 6 if arch == "h" and not tile_tags else 0
    config = ModelConfig(
        arch=arch,
        vision=VisionConfig(image_size=TILE, patch_size=4, width=16, layers=2, heads=2, head_dim=8, ff=32),
        decoder=DecoderConfig(ROWS, 24, 4, 4, 2, 8, 48, rope_theta=1e4),
        projector_width=0 if arch == "x" else 32,
        cross_attention=None if arch == "d" else CrossAttentionConfig(2, tag_embeddings=table, tile_tags=tile_tags),
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
        tag_tile=extend(prompt.tag_tile, prompt.tag_tile[-1]),
    )


def make_engine(arch: str = "d", cache_tokens: int = 1600) -> Engine:
    """A new one that shares the compiled programs of all others."""
    return Engine(make_model(arch), VOCAB, [END], slots=4, cache_tokens=cache_tokens)


engine = functools.cache(make_engine)


def ask(engine: Engine, prompts, count: int = NEW, samplings=GREEDY, **options) -> list[list[int]]:
    """The tokens of the answers to all prompts, asked at once."""
    samplings = [samplings] * len(prompts) if isinstance(samplings, Sampling) else samplings
    requests = [Request(p, count, s, **options) for p, s in zip(prompts, samplings, strict=True)]
    return [answer.tokens for answer in engine.generate(requests)]


def short_prompts() -> list[Example]:
    return [make_prompt("d", [1], 10 + seed, seed) for seed in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_cached_greedy_decoding_equals_the_full_forward_token_for_token(arch, monkeypatch):
    # One size, so that most prompts are read in several pieces.
    monkeypatch.setattr(work, "PIECES", (32,))
    model, prompts = make_model(arch), make_prompts(arch)
    expected = uncached_greedy(model, prompts, NEW)
    assert any(len(set(answer)) > 4 for answer in expected)  # answers that a mistake would change
    assert ask(engine(arch), prompts, NEW) == expected
    assert ask(engine(arch), prompts[::-1], NEW) == expected[::-1]  # from what was kept
    apart = Engine(make_model(arch), VOCAB, [END], slots=4, cache_tokens=1600, layers_apart=True)
    assert ask(apart, prompts, NEW) == expected


@pytest.mark.slow
def test_gated_layers_at_another_place_answer_as_the_full_forward_does(monkeypatch):
    model, prompts = nnx.clone(make_model("x")), make_prompts("x")
    model.cross_attention.place = 1
    expected = uncached_greedy(model, prompts, NEW)
    assert expected != uncached_greedy(make_model("x"), prompts, NEW)
    for apart in (False, True):
        held = Engine(model, VOCAB, [END], slots=4, cache_tokens=1600, layers_apart=apart)
        assert ask(held, prompts, NEW) == expected


@pytest.mark.parametrize("arch", ["x", "h"])
def test_an_answer_sees_the_tile_that_its_prompt_ends_on(arch):
    """With `question_focus` a prompt's last tokens carry the number of the tile they read."""
    prompts = [make_prompt(arch, [3], 6, seed) for seed in range(3)]
    for prompt in prompts:
        prompt.tag_tile[-3:] = 2
    expected = uncached_greedy(make_model(arch), prompts, NEW)
    assert ask(engine(arch), prompts) == expected
    assert ask(engine(arch), [p._replace(tag_tile=p.tag_tile * 0) for p in prompts]) != expected


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_an_answer_depends_on_the_pixels(arch):
    prompts = [make_prompt(arch, [3], 6, seed) for seed in range(4)]
    inverted = [prompt._replace(tiles=255 - prompt.tiles) for prompt in prompts]
    assert ask(engine(arch), prompts) != ask(engine(arch), inverted)


class Counted:
    """Calls of an engine's programs: tiles that were looked at, and tokens of prompts that were read."""

    def __init__(self, engine: Engine, monkeypatch):
        self.tiles, self.tokens = 0, 0
        for name in ("see", "read"):
            monkeypatch.setattr(engine._programs, name, functools.partial(self._call, getattr(engine._programs, name)))

    def _call(self, program, **arguments):
        self.tiles += int((arguments["places"] > 0).sum()) if "places" in arguments else 0
        self.tokens += int(arguments["piece"].length.sum()) if "piece" in arguments else 0
        return program(**arguments)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_several_questions_on_one_page_read_it_once(arch, monkeypatch):
    page = make_prompt(arch, [3], 40, 0)
    body = len(page.tokens) - 9
    questions = [make_question(page, body, seed) for seed in range(4)]
    alone = [ask(make_engine(arch), [q])[0] for q in questions[:2]]
    fresh = make_engine(arch)
    counted = Counted(fresh, monkeypatch)
    answers = ask(fresh, questions)
    assert answers[:2] == alone
    assert counted.tiles == len(page.tiles)
    shared = body // 16 * 16
    assert counted.tokens == 4 * len(page.tokens) - 3 * shared
    # Another picture in the same words has nothing in common with it but the text before.
    other = questions[0]._replace(tiles=255 - page.tiles)
    assert ask(fresh, [other])[0] != answers[0] and counted.tiles == 2 * len(page.tiles)


def make_question(page: Example, body: int, seed: int) -> Example:
    """The page's prompt with other tokens from `body` on."""
    tokens = page.tokens.copy()
    tokens[body:] = np.random.default_rng(100 + seed).integers(8, VOCAB, len(tokens) - body)
    return page._replace(tokens=tokens)


def test_a_conversation_goes_on_from_what_was_kept_of_it(monkeypatch):
    fresh = make_engine()
    prompt = make_prompt("d", [2], 20, 3)
    answer = ask(fresh, [prompt], 40)[0]
    following = continued(prompt, [*answer, 9, 10, 11])
    counted = Counted(fresh, monkeypatch)
    again = ask(fresh, [following])
    assert counted.tiles == 0 and counted.tokens <= 3 + 2 * 16
    assert again == ask(make_engine(), [following])


def test_room_that_others_need_is_given_up_and_nothing_is_mixed_up():
    prompts = [make_prompt("d", [1], 18, seed) for seed in range(12)]
    expected = ask(engine(), prompts)
    # Five pages are for one request at a time (three of its own and of others what is left).
    small = make_engine(cache_tokens=16 * 5)
    assert ask(small, prompts) == expected == ask(small, prompts)
    assert small._pages.available == small._pages.count - 1 and small._pages.held == small._tiles.held == 0


def test_streaming_gives_the_same_tokens_as_they_come():
    prompts = short_prompts()[:2]
    updates = list(engine().stream(Request(prompts[0], NEW)))
    assert [token for u in updates for token in u.tokens] == ask(engine(), prompts)[0]
    assert len(updates) > 1 and [bool(u.finish) for u in updates] == [False] * (len(updates) - 1) + [True]


def test_requests_join_and_leave_while_others_are_decoded():
    prompts = [make_prompt("d", [1], 18 - seed, seed) for seed in range(9)]  # the longest first, as they begin
    lengths = [3, 30, 5, 17, 1, 40, 8, 9, 21]
    expected = [ask(engine(), [p], n)[0] for p, n in zip(prompts, lengths, strict=True)]
    order, found = [], {}
    for done in engine().answers(Request(p, n) for p, n in zip(prompts, lengths, strict=True)):
        found |= dict(done)
        order.append([number for number, _ in done])
    assert [found[i].tokens for i in range(9)] == expected
    ended = [number for round in order for number in round]
    assert ended.index(4) < ended.index(1) < ended.index(5) and len(order) > 3
    assert {found[i].finish for i in range(9) if len(expected[i]) == lengths[i]} == {"length"}


def test_a_cancelled_request_leaves_and_the_others_do_not_notice():
    one = make_engine()
    prompts = short_prompts()[:3]
    expected = ask(engine(), prompts, 30)
    ids = [one.submit(Request(p, 30)) for p in prompts]
    found = {id: [] for id in ids}
    finishes = {}
    for _ in range(20):
        for update in one.step():
            found[update.id] += update.tokens
            finishes[update.id] = update.finish
        one.cancel(ids[0])
    assert finishes[ids[0]] == "cancelled" and found[ids[0]] == expected[0][: len(found[ids[0]])]
    assert [found[i] for i in ids[1:]] == expected[1:]
    assert one.working == one.waiting == 0 and one._pages.held == 0
    stream = one.stream(Request(prompts[0], 30))
    next(stream)
    stream.close()
    assert one.working == 0


def test_tokens_beyond_the_tokenizer_never_win():
    prompts = short_prompts()
    free = ask(engine(), prompts)
    limit = max(max(answer) for answer in free)
    held = Engine(make_model("d"), limit, [END], slots=4, cache_tokens=1600)
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=1)):
        assert max(max(answer, default=0) for answer in ask(held, prompts, NEW, sampling)) < limit


def test_an_end_token_ends_the_answer_of_its_row_alone():
    prompts = short_prompts()
    answers = ask(engine(), prompts)
    longest = max(range(len(prompts)), key=lambda i: len(answers[i]))
    end = answers[longest][3]
    shorter = ask(Engine(make_model("d"), VOCAB, [END, end], slots=4, cache_tokens=1600), prompts)
    for answer, short in zip(answers, shorter, strict=True):
        assert short == (answer[: answer.index(end)] if end in answer else answer)
    assert len(shorter[longest]) <= 3 < len(answers[longest])
    assert any(len(short) > len(shorter[longest]) for short in shorter)


def test_a_request_draws_the_same_tokens_in_any_company():
    prompts = short_prompts()
    hot = [Sampling(temperature=2.0, top_p=0.9, top_k=30, seed=seed) for seed in range(len(prompts))]
    together = ask(engine(), prompts, NEW, hot)
    alone = [ask(engine(), [p], NEW, [s])[0] for p, s in zip(prompts, hot, strict=True)]
    assert together == alone
    other = [Sampling(temperature=2.0, top_p=0.9, top_k=30, seed=seed + 100) for seed in range(len(prompts))]
    assert ask(engine(), prompts, NEW, other) != together
    mixed = ask(engine(), prompts, NEW, [Sampling(), *hot[1:]])
    assert mixed == [ask(engine(), prompts[:1])[0], *together[1:]]


def test_the_least_top_p_and_top_k_are_greedy():
    prompts = short_prompts()[:1] * 4
    greedy = ask(engine(), prompts)
    for least in ({"top_p": 1e-6}, {"top_k": 1}):
        assert ask(engine(), prompts, NEW, [Sampling(1.0, seed=seed, **least) for seed in range(4)]) == greedy


def test_logprobs_are_the_models_own():
    prompt = short_prompts()[0]
    [plain] = engine().generate([Request(prompt, NEW)])
    [told] = engine().generate([Request(prompt, NEW, logprobs=3)])
    assert plain.logprobs == [] and told.tokens == plain.tokens == [x.token for x in told.logprobs]
    model = make_model("d")
    whole = continued(prompt, plain.tokens)
    logits = nnx.jit(lambda m, b: m.logits(m.hidden(b)))(model, pack_batch([[whole]], 64, 1, TILE, PER_TILE))[0]
    logprobs = jax.nn.log_softmax(logits[len(prompt.tokens) - 1 :, :VOCAB])
    for row, found in zip(logprobs, told.logprobs, strict=False):
        assert found.logprob == pytest.approx(float(row[found.token]), abs=1e-4)
        best = [(int(i), float(row[i])) for i in np.argsort(-row)[:3]]
        assert [i for i, _ in found.top] == [i for i, _ in best]
        assert [p for _, p in found.top] == pytest.approx([p for _, p in best], abs=1e-4)


def test_until_ends_an_answer():
    prompt = short_prompts()[0]
    whole = ask(engine(), [prompt], 30)[0]
    [answer] = engine().generate([Request(prompt, 30, until=lambda tokens: len(tokens) >= 11)])
    assert answer.tokens == whole[:11] and answer.finish == "stop"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: Request(p, 0), "max_new_tokens: 0; at least 1"),
        (lambda p: Request(p._replace(tokens=p.tokens[:0]), 4), "'prompt-0': an empty prompt"),
        (lambda p: Request(p, 4, logprobs=21), "logprobs: 21; 0 to 20"),
        (lambda p: Sampling(temperature=-1.0), "temperature: -1.0; 0 "),
        (lambda p: Sampling(temperature=float("nan")), "temperature: nan; 0 "),
        (lambda p: Sampling(top_p=0.0), "top_p: 0.0; above 0"),
        (lambda p: Sampling(top_k=-1), "top_k: -1; 0 "),
        (lambda p: Engine(make_model("d"), VOCAB, []), r"end_ids: \[\]; at least one"),
        (lambda p: Engine(make_model("d"), VOCAB, [VOCAB]), f"each below vocab_size {VOCAB}"),
        (lambda p: Engine(make_model("d"), ROWS + 1, [END]), f"the model has {ROWS} rows"),
        (lambda p: Engine(make_model("d"), VOCAB, [END], slots=0), "slots: 0; at least 1"),
        (
            lambda p: Engine(make_model("d"), VOCAB, [END], cache_tokens=64).submit(Request(p, 90)),
            "5 tokens and an answer of up to 90; the cache holds 64",
        ),
    ],
)
def test_requests_that_cannot_be_met_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_prompt("d", [], 5, 0))


def test_an_interrupted_round_goes_on(monkeypatch):
    prompts = [make_prompt("d", [], length, seed) for seed, length in enumerate((40, 9))]
    expected = ask(engine(), prompts, 5)
    held, found, calls = make_engine(), {}, []
    read = held._read

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:  # the first prompt is read in two
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(held, "_read", interrupted)
    ids = [held.submit(Request(prompt, 5)) for prompt in prompts]
    with pytest.raises(KeyboardInterrupt):
        held.step()
    while held.working:
        for update in held.step():
            found.setdefault(update.id, []).extend(update.tokens)
    assert [found[id] for id in ids] == expected


def test_of_many_requests_none_is_taken_if_one_is_too_large():
    small, prompt = make_engine(cache_tokens=64), make_prompt("d", [], 5, 0)
    with pytest.raises(ValueError, match="the cache holds 64"):
        small.generate([Request(prompt, 2), Request(prompt, 90)])
    assert (small.waiting, small.working) == (0, 0)


def test_sizes_are_rounded_up_to_a_few():
    assert [shapes.rounded(n, 4) for n in (0, 1, 4, 5, 9)] == [0, 4, 4, 8, 16]
    assert [shapes.rounded(n, 2, 4) for n in (1, 3, 9)] == [2, 8, 32]
    assert [part_of(n, (2, 8, 32)) for n in (1, 3, 5, 8, 9, 17, 100)] == [2, 2, 8, 8, 8, 32, 32]
