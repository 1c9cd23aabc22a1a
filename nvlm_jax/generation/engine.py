"""Continuous batching: requests join and leave while others are decoded.

A round of `step` takes new requests in, looks at their tiles, reads pieces of their prompts and chooses a few tokens of
all that are read. Work of the same kind shares a call, whichever requests it is of:

    tiles             of any requests; a tile that was seen before is not looked at again
    prompts           in pieces; pages that another prompt had in common are not read again, and a
                      prompt whose beginning is just being read for another waits a round for it
    tokens            of up to `slots` requests, each at its own place

Sizes of calls are rounded up to a few, each compiled once.

    Engine(model, vocab_size, end_ids).generate([Request(example, max_new_tokens=32)])[0].tokens
"""

from __future__ import annotations

import collections
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from nvlm_jax.generation.ledger import Ledger
from nvlm_jax.generation.programs import programs_for
from nvlm_jax.generation.request import (
    Answer,
    Request,
    TokenLogprob,
    Update,
    blank_example,
    page_keys,
    tags_of,
    tile_keys,
)
from nvlm_jax.generation.sampling import MOST_LOGPROBS, Chosen, draws_of
from nvlm_jax.generation.shapes import (
    LARGE,
    OPEN,
    SIZES,
    TILES_OF_CALL,
    Limits,
    closed,
    few_or,
    part_of,
    rounded,
    rows_read,
)
from nvlm_jax.generation.store import (
    PAGE,
    Store,
    empty_store,
    grown,
    mesh_of,
    pages_for,
    store_shardings,
    with_tag_room,
)
from nvlm_jax.generation.warm_up import ANY_CHOICE, empty_calls
from nvlm_jax.generation.work import Work, cross_tiles, longest_first, most_tiles, piece_of, rows_of, tiles_needed
from nvlm_jax.models.nvlm import NVLM

TILES_OF_SLOT = 7  # kept for each slot where the store does not grow: a picture of six tiles and its thumbnail


class Call(NamedTuple):
    """Pieces of prompts whose reading has begun."""

    tokens: int  # padding included
    done: dict[int, Work]  # rows whose prompts end with their piece
    chosen: Chosen  # on the device, the token behind each row's piece


class Engine:
    """Decodes with one model, whose programs all its engines share. For one thread at a time."""

    def __init__(
        self,
        model: NVLM,
        vocab_size: int,
        end_ids: Sequence[int],
        slots: int = 32,
        cache_tokens: int = 0,
        layers_apart: bool = False,
        limits: Limits | None = None,
        tag_tokens: int = 0,
    ):
        """
        Args:
            model: real parameters in any dtype.
            vocab_size: ids of the tokenizer; the model's vocabulary may be padded beyond it, and those never win.
            end_ids: tokens that end an answer.
            slots: requests that are decoded together.
            cache_tokens: tokens of all requests, prompts and answers, whose keys and values are kept at once. 0 = as
                many as `slots` of the longest request so far need.
            layers_apart: compile a small model's layers one by one, as those of larger decoders are: the programs take
                longer to compile and less time to run. For many requests.
            limits: of one request. Then calls have a closed set of sizes, whose programs `warm_up` makes ready.
            tag_tokens: K, `ExampleBuilder.tag_tokens`; longer tags make room for themselves when they come.

        Raises:
            ValueError: no end token, one that the vocabulary does not have, no slot, limits without `cache_tokens`.
        """
        if not end_ids or not all(0 <= i < vocab_size for i in end_ids):
            raise ValueError(f"end_ids: {list(end_ids)}; at least one, each below vocab_size {vocab_size}")
        if vocab_size > model.config.decoder.vocab_size:
            raise ValueError(f"vocab_size: {vocab_size}, but the model has {model.config.decoder.vocab_size} rows")
        if slots < 1:
            raise ValueError(f"slots: {slots}; at least 1")
        if limits is not None and not cache_tokens:
            raise ValueError("limits: need cache_tokens, for a cache that grows has programs of its own at each size")
        self.config, self.slots, self._limits = model.config, slots, limits
        self._end_ids = tuple(end_ids)
        self._fixed = cache_tokens > 0
        pages = 1 + (pages_for(cache_tokens) if self._fixed else 0)
        tiles = 1 + (max(limits.tiles, min(slots * TILES_OF_SLOT, slots * limits.tiles)) if limits else 0)
        self._pages, self._tiles = Ledger(pages), Ledger(tiles)
        graphdef, state = nnx.split(model)
        self._params, tree = jax.tree.flatten(state)
        self._tag_tokens = tag_tokens
        self._store, mesh = empty_store(self.config, pages, tiles, tag_tokens), mesh_of(self._params)
        self._shardings = None if mesh is None else store_shardings(self._store, mesh)
        self._device = next((d for leaf in self._params if isinstance(leaf, jax.Array) for d in leaf.devices()), None)
        full = self.config.dtype == "float32"
        self._programs = programs_for(graphdef, tree, vocab_size, self._end_ids, full, layers_apart, self._shardings)
        self._store = self._placed(self._store)
        self._waiting: deque[Work] = deque()
        self._working: list[Work] = []
        self._begun: deque[Call] = deque()  # kept, should a round be interrupted before it has seen what they chose
        self._cancelled: set[int] = set()
        self._most_pages = self._most_tiles = 0  # of one request so far
        self._sizes = SIZES.get(jax.default_backend(), LARGE)
        cross = self.config.cross_attention is not None
        self._shapes = OPEN if limits is None else closed(limits, self._sizes.steps, cross)
        self._behind = False  # the latest round ended before all prompts were read: the oldest goes first in the next
        self._ids = itertools.count()

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting)

    @property
    def working(self) -> int:
        """Requests that have begun."""
        return len(self._working)

    def submit(self, request: Request) -> int:
        """Take a request; its id in the updates to come.

        Raises:
            ValueError: it needs more of the cache than there is.
        """
        work = self._work(request)
        self._waiting.append(work)
        return work.id

    def cancel(self, id: int) -> None:
        """End a request; its last update comes with the next step. Unknown ids are ignored."""
        self._cancelled.add(id)

    def reset(self) -> None:
        """Forget every request and all that is kept of earlier ones, as after a round that failed half-way."""
        self._waiting.clear()
        self._working.clear()
        self._begun.clear()
        self._cancelled.clear()
        pages, tiles = self._pages.count, self._tiles.count
        self._pages, self._tiles, self._behind = Ledger(pages), Ledger(tiles), False
        self._store = None  # it may be lost to the call that failed; and two would not fit
        self._store = self._placed(empty_store(self.config, pages, tiles, self._tag_tokens))

    def warm_up(self) -> Iterator[tuple[int, int]]:
        """Make every program of the closed set ready: (ready ones, all), beginning with 0. For an idle engine.

        Raises:
            ValueError: there is no such set, for the engine has no limits.
        """
        if self._limits is None:
            raise ValueError("warm_up: the engine has no limits, and so no closed set of programs")
        limit, room = self._limits.tiles, self._tag_tokens
        calls = empty_calls(self.config, self._shapes, self._sizes, self.slots, limit, room)
        yield 0, len(calls)
        for number, (name, arguments) in enumerate(calls, 1):
            out = getattr(self._programs, name)(params=self._params, store=self._store, **arguments)
            self._store = out[0] if isinstance(out, tuple) and not isinstance(out, Store) else out
            jax.block_until_ready(self._store)
            yield number, len(calls)

    def check(self) -> None:
        """Answer a question of one token. Raises what the device raises where it does not work."""
        self.generate([Request(blank_example(1, self.config.vision.image_size), 1)])

    def step(self) -> list[Update]:
        """One round; what became of each request that got tokens or ended in it."""
        updates = self._cancel()
        self._admit()
        budget, oldest_first = self._sizes.round, self._behind
        while budget > 0 and (reading := [w for w in self._working if not w.answering]):
            self._begun.append(self._read(reading, reading[0].piece if oldest_first else self._fullest(reading)))
            budget -= self._begun[-1].tokens
            oldest_first = False
            self._admit()
        self._behind = budget <= 0
        # Only now are results waited for: while the device reads, the host prepares what is to be read next.
        while self._begun:
            updates += self._first_tokens(self._begun.popleft())
        self._leave()
        if answering := [w for w in self._working if w.answering]:
            updates += self._advance(answering)
        return updates

    def answers(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, Answer]]]:
        """Answers as they come: number of the request and its answer, those of one round together.

        Raises:
            ValueError: one needs more of the cache than there is; none was taken.
        """
        works = [self._work(request) for request in requests]
        parts = {work.id: (number, Answer([], "", [])) for number, work in enumerate(works)}
        self._waiting.extend(longest_first(works))
        try:
            while parts:
                done = []
                for update in self.step():
                    number, answer = parts[update.id]
                    answer = Answer(answer.tokens + update.tokens, update.finish, answer.logprobs + update.logprobs)
                    parts[update.id] = (number, answer)
                    if update.finish:
                        done.append(parts.pop(update.id))
                if done:
                    yield done
        finally:
            self._abandon(parts)

    def generate(self, requests: Iterable[Request]) -> list[Answer]:
        """All answers, in the order of the requests."""
        found = dict(itertools.chain.from_iterable(self.answers(requests)))
        return [found[number] for number in range(len(found))]

    def stream(self, request: Request) -> Iterator[Update]:
        """One answer as it is chosen. Other requests that are under way go on beside it, their updates unseen."""
        id = self.submit(request)
        finished = False
        try:
            while not finished:
                for update in self.step():
                    if update.id == id:
                        finished = bool(update.finish)
                        yield update
        finally:
            self._abandon([] if finished else [id])

    def _work(self, request: Request) -> Work:
        room = tags_of(request.example).shape[1]
        if len(request.example.tiles) and room > self._tag_tokens:
            self._tag_tokens, self._store = room, self._placed(with_tag_room(self._store, self.config, room))
        tiles = tile_keys(request.example)
        work = Work(next(self._ids), request, tiles, page_keys(request.example, tiles))
        if self._limits is not None:
            self._limits.check(request.example.id, len(work.tokens) + request.max_new_tokens, len(tiles))
        if self._fixed and work.size >= self._pages.count:
            raise ValueError(
                f"example {request.example.id!r}: {len(work.tokens)} tokens and an answer of up to "
                f"{request.max_new_tokens}; the cache holds {(self._pages.count - 1) * PAGE} (cache_tokens)"
            )
        self._most_pages = max(self._most_pages, work.size)
        self._most_tiles = max(self._most_tiles, len(work.tile_keys))
        return work

    def _abandon(self, ids: Iterable[int]) -> None:
        """End requests whose caller went away, so that they do not turn up in another's updates."""
        self._cancelled.update(ids)
        self._cancel()

    def _cancel(self) -> list[Update]:
        ended = [work for work in (*self._working, *self._waiting) if work.id in self._cancelled]
        for work in ended:
            work.finish = "cancelled"
        self._waiting = deque(work for work in self._waiting if not work.finish)
        self._leave()
        self._cancelled.clear()
        return [Update(work.id, [], [], "cancelled") for work in ended]

    def _admit(self) -> None:
        """Requests in their order, as long as there is room; tiles that nobody saw before are looked at."""
        self._make_room()
        unseen: list[tuple[int, Work, int]] = []  # place, request, number of its tile
        being_read = {key for work in self._working for key in work.page_keys[work.length // PAGE :]}
        held_back: list[Work] = []
        while self._waiting and len(self._working) < self.slots and len(held_back) < 4 * self.slots:
            work = self._waiting.popleft()
            if self._better_later(work, being_read):
                held_back.append(work)
                continue
            fresh = self._place(work)
            if fresh is None:
                self._waiting.appendleft(work)
                break
            unseen += fresh
            being_read.update(work.page_keys[work.length // PAGE :])
            self._working.append(work)
        self._waiting.extendleft(reversed(held_back))
        self._see(unseen)

    def _better_later(self, work: Work, being_read: set[bytes]) -> bool:
        """Whether half or more of what it would have to read is just being read for another."""
        unread = [key for key in work.page_keys if key not in self._pages]
        shared = sum(key in being_read for key in unread)
        return 2 * shared * PAGE > len(work.tokens) - (len(work.page_keys) - len(unread)) * PAGE

    def _make_room(self) -> None:
        """Let the store grow with the largest request: `slots` of its size and a quarter more for what is shared.

        The largest that was submitted, not the next one: each size of the store has its own compiled programs.
        """
        pages, tiles = self._pages.count, self._tiles.count
        if not self._fixed and self.slots * self._most_pages >= pages:
            pages = 1 + self.slots * rounded(self._most_pages, 4) * 5 // 4
        if self._limits is None and self.slots * self._most_tiles >= tiles:
            tiles = 1 + self.slots * rounded(self._most_tiles, 1)
        if (pages, tiles) != (self._pages.count, self._tiles.count):
            self._store = self._placed(grown(self._store, pages, tiles))
            self._pages.grow(pages)
            self._tiles.grow(tiles)

    def _placed(self, store: Store) -> Store:
        # On one device as well: what is placed and what is not have different programs.
        return jax.device_put(store, self._device if self._shardings is None else self._shardings)

    def _place(self, work: Work) -> list[tuple[int, Work, int]] | None:
        """Give it pages and tiles; those of its tiles that have to be looked at. None if there is no room."""
        shareable = work.page_keys[: (len(work.tokens) - 1) // PAGE]  # the last token is always read, for its logits
        pages = list(itertools.takewhile(lambda page: page is not None, map(self._pages.find, shareable)))
        more = self._pages.take(work.size - len(pages))
        if more is None:
            self._pages.release(pages)
            return None
        work.pages, work.length = pages + more, len(pages) * PAGE
        needed = tiles_needed(work, self.config)
        found = [self._tiles.find(key) if need else 0 for key, need in zip(work.tile_keys, needed, strict=True)]
        unseen = [number for number, place in enumerate(found) if place is None]
        # The same tile twice in one request, such as a blank one, is looked at once.
        firsts = {work.tile_keys[number]: number for number in reversed(unseen)}
        places = self._tiles.take(len(firsts))
        if places is None:
            self._pages.release(work.pages)
            self._tiles.release(place for place in found if place)
            work.pages, work.length = [], 0
            return None
        for (key, number), place in zip(firsts.items(), places, strict=True):
            self._tiles.name(place, key)
            found[number] = place
        pairs = zip(work.tile_keys, found, strict=True)
        work.tiles = [self._tiles.find(key) if place is None else place for key, place in pairs]
        return [(place, work, number) for place, number in zip(places, firsts.values(), strict=True)]

    def _see(self, unseen: Sequence[tuple[int, Work, int]]) -> None:
        while unseen:
            count = part_of(len(unseen), TILES_OF_CALL)
            now, unseen = unseen[:count], unseen[count:]
            size = self.config.vision.image_size
            tiles, index = np.zeros((count, size, size, 3), np.uint8), np.zeros(count, np.int32)
            places, tags = np.zeros(count, np.int32), np.full((count, self._tag_tokens), -1, np.int32)
            for i, (place, work, number) in enumerate(now):
                example = work.request.example
                tiles[i], index[i], places[i] = example.tiles[number], example.tile_index[number], place
                tag = tags_of(example)[number]
                tags[i, : len(tag)] = tag
            new = {"tiles": tiles, "tile_index": index, "tile_tags": tags, "places": places}
            self._store = self._programs.see(params=self._params, store=self._store, **new)

    def _fullest(self, reading: Sequence[Work]) -> int:
        """The size of pieces of which there is most for one call."""
        tokens = collections.Counter()
        for work in reading:
            tokens[work.piece] += work.piece
        return max(tokens, key=lambda size: (min(tokens[size], self._sizes.call), size))

    def _read(self, reading: Sequence[Work], size: int) -> Call:
        """A piece of this size of some prompts."""
        alike = [work for work in reading if work.piece == size]
        closed_set = self._limits is not None
        rows = part_of(len(alike), rows_read(size, self._sizes.call, self.slots, closed_set))
        works = alike[:rows]
        lengths = [min(len(work.tokens) - work.length, size) for work in works]
        logprobs = any(work.request.logprobs is not None for work in works)
        before = max(pages_for(work.length) for work in works)
        past, tiles = self._shapes.past(before, most_tiles(works, self.config))
        self._store, chosen = self._programs.read(
            params=self._params,
            store=self._store,
            piece=piece_of(works, lengths, rows, size, past, self.config),
            tiles=cross_tiles(works, rows, tiles, self.config),
            draws=draws_of([work.request.sampling for work in works], [0] * len(works), rows, logprobs),
            **self._choice(works, logprobs),
        )
        for work, length in zip(works, lengths, strict=True):
            whole = slice(work.length // PAGE, (work.length + length) // PAGE)
            for page, key in zip(work.pages[whole], work.page_keys[whole], strict=True):
                self._pages.name(page, key)
            work.length += length
        return Call(rows * size, {row: work for row, work in enumerate(works) if work.answering}, chosen)

    def _first_tokens(self, call: Call) -> list[Update]:
        done = {row: work for row, work in call.done.items() if not work.finish}
        chosen = jax.device_get(call.chosen) if done else None
        return [self._update(work, Chosen(*(x[row][None] for x in chosen))) for row, work in done.items()]

    def _choice(self, works: Sequence[Work], logprobs: bool) -> dict[str, Any]:
        """Which variant of the programs chooses their tokens; with a closed set there is one for all."""
        if self._limits is not None:
            return ANY_CHOICE
        greedy = not any(work.request.sampling.temperature for work in works)
        return {"greedy": greedy, "alternatives": MOST_LOGPROBS if logprobs else 0}

    def _advance(self, works: Sequence[Work]) -> list[Update]:
        """A few tokens of every request whose prompt is read."""
        sizes = few_or(self.slots)
        count = next(size for size in sizes if size >= len(works))
        # Until others can take the places of three quarters of them (reading few prompts at a time costs more than idle
        # rows), or those who are left fit into the smaller call.
        least = len(works) // 4 if self._waiting else sizes[0] if len(works) > sizes[0] else 0
        logprobs = any(work.request.logprobs is not None for work in works)
        counts = [len(work.chosen) for work in works]
        needed = max(pages_for(work.length + self._sizes.steps) for work in works)
        room, tiles = self._shapes.room(needed, most_tiles(works, self.config))
        self._store, chosen, taken = self._programs.advance(
            params=self._params,
            store=self._store,
            rows=rows_of(works, count, room, least),
            tiles=cross_tiles(works, count, tiles, self.config),
            draws=draws_of([work.request.sampling for work in works], counts, count, logprobs),
            steps=self._sizes.steps,
            **self._choice(works, logprobs),
        )
        chosen, taken = jax.device_get((chosen, taken))
        updates = []
        for row, work in enumerate(works):
            before = len(work.chosen)
            updates.append(self._update(work, Chosen(*(x[row, :taken] for x in chosen))))
            # Every chosen token but the last is in the cache.
            work.length += len(work.chosen) - before
        self._leave()
        return updates

    def _update(self, work: Work, chosen: Chosen) -> Update:
        """Add tokens until one ends the answer."""
        request, new, logprobs = work.request, [], []
        for i, token in enumerate(chosen.token.tolist()):
            if token in self._end_ids:
                work.finish = "stop"
                break
            new.append(token)
            work.chosen.append(token)
            if request.logprobs is not None:
                pairs = zip(chosen.top_tokens[i].tolist(), chosen.top_logprobs[i].tolist(), strict=True)
                top = tuple(itertools.islice(pairs, request.logprobs))
                logprobs.append(TokenLogprob(token, float(chosen.logprob[i]), top))
            if request.until is not None and request.until(work.chosen):
                work.finish = "stop"
                break
            if len(work.chosen) >= request.max_new_tokens:
                work.finish = "length"
                break
        return Update(work.id, new, logprobs, work.finish)

    def _leave(self) -> None:
        """Let go of what finished requests hold; the pages of their answers may begin a later prompt."""
        for work in self._working:
            if work.finish:
                if work.answering:
                    kept = work.chosen[: work.length - len(work.tokens)]
                    keys = page_keys(work.request.example, work.tile_keys, kept)
                    for page, key in zip(work.pages, keys, strict=False):
                        self._pages.name(page, key)
                self._pages.release(work.pages)
                self._tiles.release(place for place in work.tiles if place)
        self._working = [work for work in self._working if not work.finish]
