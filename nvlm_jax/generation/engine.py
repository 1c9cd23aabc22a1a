"""Batched decoding with a key/value cache.

Prompts of similar size share a batch. Shapes are rounded up to a few sizes, so a benchmark of any length compiles a
handful of programs. Vision encoder and cross-attention keys run once a prompt, in `NVLM.prefill`; a new token then
costs one `NVLM.decode`.

    Generator(model, vocab_size, end_ids).generate(examples, max_new_tokens=32)      -> ids of each answer
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nvlm_jax.inputs.batch import Batch, Example
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.models.cross_attention import ImageMemory
from nvlm_jax.models.decoder import KVCache
from nvlm_jax.models.nvlm import NVLM

SMALLEST_PROMPT = 64  # tokens; shorter prompts are padded to it


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one request picks its tokens. The default is greedy, which is what every benchmark of the paper uses.

    A request's draws depend on its own seed alone, not on the requests that share its batch.
    """

    temperature: float = 0.0  # 0 = greedy
    top_p: float = 1.0  # draw from the fewest tokens that hold this much probability
    seed: int = 0

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature}; 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p}; above 0 and at most 1")


class Requests(NamedTuple):
    """What was asked of each row of a batch."""

    length: jax.Array  # int32 [B], tokens of the prompt; 0 = an empty row
    temperature: jax.Array  # float32 [B]
    top_p: jax.Array  # float32 [B]
    seed: jax.Array  # uint32 [B]


class DecodeState(NamedTuple):
    """Where a batch stands. `tokens[:, :step]` are chosen; all but the last of them are in the cache."""

    tokens: jax.Array  # int32 [B, N], padding behind a row's end token
    step: jax.Array  # int32 []
    done: jax.Array  # bool [B]
    cache: KVCache


class Generator:
    """Decodes with one model. Compiled programs are kept for the life of the object."""

    def __init__(self, model: NVLM, vocab_size: int, end_ids: Sequence[int], pad_id: int = 0, batch_size: int = 32):
        """
        Args:
            model: real parameters in any dtype.
            vocab_size: ids of the tokenizer; the model's vocabulary may be padded beyond it, and those never win.
            end_ids: tokens that end an answer.
            pad_id: fills the rows behind their end.
            batch_size: prompts decoded together.

        Raises:
            ValueError: no end token, or one that the vocabulary does not have.
        """
        if not end_ids or not all(0 <= i < vocab_size for i in end_ids):
            raise ValueError(f"end_ids: {list(end_ids)}; at least one, each below vocab_size {vocab_size}")
        if vocab_size > model.config.decoder.vocab_size:
            raise ValueError(f"vocab_size: {vocab_size}, but the model has {model.config.decoder.vocab_size} rows")
        self.config, self.batch_size = model.config, batch_size
        self._vocab_size, self._end_ids, self._pad_id = vocab_size, tuple(end_ids), pad_id
        self._graphdef, self._params = nnx.split(model)
        self._start = jax.jit(self._start_batch, static_argnames=("room", "greedy"))
        self._advance = jax.jit(self._advance_batch, static_argnames=("greedy",), donate_argnames=("state",))

    def generate(
        self,
        examples: Sequence[Example],
        max_new_tokens: int,
        sampling: Sampling | Sequence[Sampling] = Sampling(),
        progress: Callable[[int], None] = lambda answered: None,
    ) -> list[list[int]]:
        """Token ids of each answer, in the order of `examples`, without the end token.

        Args:
            examples: prompts, as `ExampleBuilder.prompt` makes them.
            max_new_tokens: where an answer is cut if no end token comes.
            sampling: one for all or one an example.
            progress: called after each batch with the number of examples answered so far.

        Raises:
            ValueError: max_new_tokens below 1, an empty prompt, or another number of samplings than of examples.
        """
        samplings = [sampling] * len(examples) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(examples):
            raise ValueError(f"sampling: {len(samplings)} for {len(examples)} examples; one for all or one each")
        answers: list[list[int]] = [[] for _ in examples]
        answered = 0
        for members in self._batches(examples):
            rows = [examples[i] for i in members]
            requests, greedy, state, memory = self._prefill(rows, [samplings[i] for i in members], max_new_tokens)
            state = self._advance(self._params, state, memory, requests, max_new_tokens, greedy=greedy)
            tokens = np.asarray(state.tokens)
            for row, i in enumerate(members):
                answers[i] = self._cut(tokens[row])
            answered += len(members)
            progress(answered)
        return answers

    def stream(self, example: Example, max_new_tokens: int, sampling: Sampling = Sampling()) -> Iterator[int]:
        """The ids of one answer as they are chosen, without the end token. Raises as `generate`."""
        requests, greedy, state, memory = self._prefill([example], [sampling], max_new_tokens, batch_size=1)
        for step in range(max_new_tokens):
            state = self._advance(self._params, state, memory, requests, step + 1, greedy=greedy)
            token = int(state.tokens[0, step])
            if token in self._end_ids:
                return
            yield token

    def _batches(self, examples: Sequence[Example]) -> Iterator[list[int]]:
        """Indices of examples that share a batch: those whose rounded-up sizes agree.

        Where they do not fill a batch they join those of the same tiles and the next size: compiling one more program
        and running it half empty costs more than the padding.
        """
        buckets: dict[tuple[int, int], list[int]] = {}
        for i, example in enumerate(examples):
            if not len(example.tokens):
                raise ValueError(f"example {example.id!r}: an empty prompt; at least one token")
            tokens, tiles = bucket_of(example)
            buckets.setdefault((tiles, tokens), []).append(i)
        waiting: list[int] = []
        order = sorted(buckets)
        for size, following in zip(order, [*order[1:], None], strict=True):
            waiting += buckets[size]
            joins = following is not None and following[0] == size[0]
            whole = len(waiting) // self.batch_size * self.batch_size if joins else len(waiting)
            for start in range(0, whole, self.batch_size):
                yield waiting[start : min(start + self.batch_size, whole)]
            waiting = waiting[whole:]

    def _prefill(
        self, rows: list[Example], samplings: list[Sampling], max_new_tokens: int, batch_size: int | None = None
    ) -> tuple[Requests, bool, DecodeState, ImageMemory | None]:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {max_new_tokens}; at least 1")
        empty = (batch_size or self.batch_size) - len(rows)
        tokens, tiles = (max(sizes) for sizes in zip(*map(bucket_of, rows), strict=True))
        sizes = (tokens, tiles, self.config.vision.image_size, self.config.tokens_per_tile)
        batch = pack_batch([[row] for row in rows] + [[]] * empty, *sizes)
        samplings = samplings + [Sampling()] * empty
        requests = Requests(
            np.asarray([len(row.tokens) for row in rows] + [0] * empty, np.int32),
            np.asarray([s.temperature for s in samplings], np.float32),
            np.asarray([s.top_p for s in samplings], np.float32),
            np.asarray([s.seed % 2**32 for s in samplings], np.uint32),
        )
        greedy = not any(s.temperature for s in samplings)
        state, memory = self._start(self._params, batch, requests, room=max_new_tokens, greedy=greedy)
        return requests, greedy, state, memory

    def _start_batch(
        self, params: nnx.State, batch: Batch, requests: Requests, *, room: int, greedy: bool
    ) -> tuple[DecodeState, ImageMemory | None]:
        """Read the prompts and choose each row's first token."""
        model = nnx.merge(self._graphdef, params)
        rows, width = batch.tokens.shape
        cache = empty_cache(model, rows, width + room)
        hidden, cache, memory = model.prefill(batch, cache)
        last = jnp.maximum(requests.length - 1, 0)
        if memory is not None:
            # Images end before the prompt does, so a new token sees what the prompt's last one sees.
            memory = memory._replace(visible=memory.visible[jnp.arange(rows), last][:, None])
        last = hidden[jnp.arange(rows), last]
        token = self._choose(model.logits(last), jnp.int32(0), requests, greedy)
        tokens = jnp.full((rows, room), self._pad_id, jnp.int32).at[:, 0].set(token)
        return DecodeState(tokens, jnp.int32(1), self._ends(token) | (requests.length == 0), cache), memory

    def _advance_batch(
        self,
        params: nnx.State,
        state: DecodeState,
        memory: ImageMemory | None,
        requests: Requests,
        limit: jax.Array,
        *,
        greedy: bool,
    ) -> DecodeState:
        """Choose tokens until every row has ended or has `limit` of them."""
        model = nnx.merge(self._graphdef, params)

        def step(now: DecodeState) -> DecodeState:
            newest = jax.lax.dynamic_index_in_dim(now.tokens, now.step - 1, axis=1, keepdims=False)
            logits, cache = model.decode(newest, requests.length + now.step - 1, now.cache, memory)
            token = jnp.where(now.done, self._pad_id, self._choose(logits, now.step, requests, greedy))
            tokens = jax.lax.dynamic_update_index_in_dim(now.tokens, token, now.step, axis=1)
            return DecodeState(tokens, now.step + 1, now.done | self._ends(token), cache)

        return jax.lax.while_loop(lambda now: (now.step < limit) & ~now.done.all(), step, state)

    def _choose(self, logits: jax.Array, step: jax.Array, requests: Requests, greedy: bool) -> jax.Array:
        """Float32 [B, V] -> int32 [B]."""
        logits = jnp.where(jnp.arange(logits.shape[-1]) < self._vocab_size, logits, -jnp.inf)
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        if greedy:
            return best
        drawn = jax.vmap(_draw, in_axes=(0, None, 0))(logits, step, requests)
        return jnp.where(requests.temperature > 0, drawn, best)

    def _ends(self, token: jax.Array) -> jax.Array:
        return jnp.isin(token, jnp.asarray(self._end_ids))

    def _cut(self, tokens: np.ndarray) -> list[int]:
        ends = np.flatnonzero(np.isin(tokens, self._end_ids))
        return tokens[: ends[0] if len(ends) else None].tolist()


def empty_cache(model: NVLM, rows: int, room: int) -> KVCache:
    """Zeros for `rows` rows of `room` tokens, in the dtype of the model's computation."""
    decoder = model.config.decoder
    shape = (decoder.layers, rows, room, decoder.kv_heads, decoder.head_dim)
    return KVCache(*(jnp.zeros(shape, jnp.dtype(model.config.dtype)) for _ in range(2)))


def bucket_of(example: Example) -> tuple[int, int]:
    """Tokens and tiles of the batch shape that a prompt is padded to.

    Tokens are rounded up to 64, 96, 128, 192, 256 ... and tiles to 0, 1, 2, 4, 8 ...: at most half again as many
    tokens, and few shapes to compile.
    """
    size = 1 << max(len(example.tokens) - 1, SMALLEST_PROMPT - 1).bit_length()
    tokens = 3 * size // 4 if size > SMALLEST_PROMPT and len(example.tokens) <= 3 * size // 4 else size
    tiles = len(example.tiles)
    return tokens, 1 << (tiles - 1).bit_length() if tiles else 0


def _draw(logits: jax.Array, step: jax.Array, request: Requests) -> jax.Array:
    """One token from float32 [V] by temperature and top-p; `request` holds scalars."""
    scaled = logits / jnp.maximum(request.temperature, 1e-6)
    order = jnp.argsort(-scaled)
    sorted_logits = scaled[order]
    share = jax.nn.softmax(sorted_logits)
    before = jnp.cumsum(share) - share
    kept = jnp.where(before < request.top_p, sorted_logits, -jnp.inf)
    key = jax.random.fold_in(jax.random.key(request.seed), step)
    return order[jax.random.categorical(key, kept)].astype(jnp.int32)
