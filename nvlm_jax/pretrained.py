"""A model that is ready to be asked: `nvlm_jax.load(path)`.

model = nvlm_jax.load("path/to/checkpoint")
print(model.generate("<image>\\nWhat is this?", images=["page.png"]))
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.convert import config_from_hf, hf_files, open_model, place_part
from nvlm_jax.convert.hf_config import end_ids
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.int8 import with_int8_weights
from nvlm_jax.generation.request import Request
from nvlm_jax.generation.sampling import Sampling
from nvlm_jax.generation.shapes import Limits, rounded
from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Batch, Example, Message
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.given import example_from_tokens
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.inputs.tiling import ImageSource
from nvlm_jax.models.build import abstract_model
from nvlm_jax.models.nvlm import NVLM
from nvlm_jax.training.checkpoints import place
from nvlm_jax.training.imported import open_checkpoint, restore_parameters
from nvlm_jax.training.steps import CHECKPOINTS, find_step, is_checkpoint, read_meta

Messages = str | Sequence[Message | Mapping[str, str]]
DTYPES = ("float32", "bfloat16")
SMALLEST_ROW = 64  # tokens that `logits` pads a prompt to


def load(
    path: str | Path,
    dtype: str = "float32",
    *,
    image_token_id: int | None = None,
    end_token_ids: Sequence[int] | None = None,
    mesh: Mesh | None = None,
    int8: bool = False,
) -> LoadedModel:
    """Load a model for inference.

    Args:
        path: a Hugging Face directory of a whole NVLM model, a workdir (of a run, or of an imported checkpoint), or one
            step's directory in it (the newest is taken of a workdir).
        dtype: "float32" or "bfloat16", of the parameters and the computation. In float32, matrix products have full
            float32 precision on every device.
        image_token_id: for `logits` and `generate_tokens`. None = the tokenizer's `inputs.image_token`; where there is
            no tokenizer, the one id in `tokens` that fits the number of tiles.
        end_token_ids: what ends an answer. None = the tokenizer's `inputs.end_token` and the checkpoint's own
            (generation_config.json, or `eos_token_id` of its `llm_config`).
        mesh: where to put the parameters, each straight onto its own devices; None = the first device.
        int8: the layers' matrices in 8 bits, see generation/int8.py.

    Raises:
        CheckpointError: nothing there that can be loaded; the message says what was expected.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r} is none of {', '.join(DTYPES)}")
    if is_checkpoint(path):
        config, inputs, ends = _workdir_settings(path)
    else:
        config, inputs, ends = *config_from_hf(path), end_ids(path)
    if config.dense_labels:
        raise CheckpointError(f"{path}: a vision encoder with labels; it answers no questions")
    ends = list(end_token_ids or hf_files.end_token_ids(inputs, config, ends))
    config = dataclasses.replace(config, dtype=dtype, frozen_dtype=dtype)
    graphdef, abstract = nnx.split(abstract_model(config))
    cast = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), abstract)
    wanted = dict(nnx.to_flat_state(place(cast, mesh)))
    target = {p: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.get_value() for p, leaf in wanted.items()}
    found = restore_parameters(path, target) if is_checkpoint(path) else _read_hf(path, config, target)
    state = nnx.from_flat_state([(p, leaf.replace(found[p])) for p, leaf in wanted.items()])
    model = nnx.merge(graphdef, state)
    return LoadedModel(with_int8_weights(model) if int8 else model, inputs, image_token_id, ends)


class LoadedModel:
    """A model with its inputs' settings. Compiled programs are kept for the life of the object."""

    def __init__(
        self,
        model: NVLM,
        inputs: InputConfig,
        image_token_id: int | None = None,
        end_token_ids: Sequence[int] | None = None,
    ):
        self.model, self.config, self.inputs = model, model.config, inputs
        self.image_token_id, self.end_token_ids = image_token_id, end_token_ids
        graphdef, self._params = nnx.split(model)

        def logits(params: nnx.State, batch: Batch) -> jax.Array:
            model = nnx.merge(graphdef, params)
            return model.logits(model.hidden(batch))

        self._logits = jax.jit(logits)

    def logits(
        self,
        tokens: Sequence[int] | np.ndarray,
        tiles: np.ndarray | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> np.ndarray:
        """Scores of every next token.

        Args:
            tokens: int [S], the image token repeated where image tokens go (every tile for D, the thumbnail for H).
            tiles: uint8 [T, P, P, 3], of each image the thumbnail last; None = text only.
            grids: (cols, rows) of each image, where the ids do not tell them; see `example_from_tokens`.

        Returns:
            float32 [S, V].

        Raises:
            ValueError: see `example_from_tokens`; or more tokens than a checkpoint with RoPE scaling has positions.
        """
        example = self._given(tokens, tiles, grids)
        self._check_length(len(example.tokens))
        room, tile_room = rounded(len(example.tokens), SMALLEST_ROW), rounded(len(example.tiles), 1)
        sizes = (self.config.vision.image_size, self.config.tokens_per_tile, example.tile_tags.shape[1])
        batch = pack_batch([[example]], room, tile_room, *sizes)
        with self._precision():
            return np.asarray(self._logits(self._params, batch)[0, : len(example.tokens)])

    def generate(
        self,
        messages: Messages,
        images: Sequence[ImageSource] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: Sequence[str] = (),
    ) -> str:
        """The answer to a conversation. Arguments and errors as `stream`."""
        how = {"top_p": top_p, "top_k": top_k, "stop": stop}
        return "".join(self.stream(messages, images, max_new_tokens, temperature, seed, **how))

    def stream(
        self,
        messages: Messages,
        images: Sequence[ImageSource] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """The answer piece by piece.

        Args:
            messages: one user's text, or messages as `Message` or {"role": ..., "content": ...}; the last is a user's.
                `<image>` stands where an image goes; without any, the images come first in the first user's message.
            images: paths, encoded bytes or Pillow images.
            max_new_tokens: where an answer is cut if it does not end.
            temperature: 0 = always the most likely token.
            seed: of the draws where temperature > 0.
            top_p: draw from the fewest tokens that hold this much probability.
            top_k: draw from so many of the most likely tokens; 0 = all.
            stop: texts before which the answer ends.

        Raises:
            ValueError: the checkpoint has no tokenizer.
            BadSample: an unusable image or conversation.
        """
        example = self.builder.prompt(with_placeholders(messages, len(images)), images)
        self._check_length(len(example.tokens) + max_new_tokens)
        text = AnswerText(self.builder.tokenizer, stop)
        sampling = Sampling(temperature, top_p, top_k, seed)
        request = Request(example, max_new_tokens, sampling, until=text.until if stop else None)
        for update in self.engine.stream(request):
            if piece := text.add(update.tokens, last=bool(update.finish)):
                yield piece

    def generate_tokens(
        self,
        tokens: Sequence[int] | np.ndarray,
        tiles: np.ndarray | None = None,
        max_new_tokens: int = 256,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> list[int]:
        """The most likely continuation, without the end token. `tokens`, `tiles` and `grids` as for `logits`."""
        example = self._given(tokens, tiles, grids)
        self._check_length(len(example.tokens) + max_new_tokens)
        return self.engine.generate([Request(example, max_new_tokens)])[0].tokens

    @functools.cached_property
    def builder(self) -> ExampleBuilder:
        """Turns conversations into prompts. Raises ValueError where the checkpoint has no tokenizer."""
        if not self.inputs.tokenizer:
            raise ValueError(
                "the checkpoint has no tokenizer.json; use generate_tokens, which takes ids, or make one from "
                "vocab.json and merges.txt with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            )
        return ExampleBuilder(self.inputs, self.config)

    @functools.cached_property
    def engine(self) -> Engine:
        """What `generate` uses: one conversation at a time."""
        return self.make_engine(slots=1)

    def make_engine(self, slots: int, cache_tokens: int = 0, layers_apart: bool = False, longest: int = 0) -> Engine:
        """An engine of its own for many conversations at once.

        Args:
            slots: as of `Engine`.
            cache_tokens: likewise.
            layers_apart: likewise.
            longest: tokens of the longest prompt with its answer; then no program is compiled after `Engine.warm_up`.
                0 = as they come.

        Raises:
            ValueError: nothing says which token ends an answer.
        """
        vocabulary = self.config.decoder.vocab_size
        ends = self.end_token_ids
        if self.inputs.tokenizer:
            vocabulary = self.builder.tokenizer.vocab_size
            ends = ends or [self.builder.tokenizer.special(self.inputs.end_token)]
        if not ends:
            raise ValueError("the checkpoint does not say which token ends an answer; give end_token_ids to load()")
        limits = Limits(longest, self._most_tiles(longest)) if longest else None
        room = self.builder.tag_tokens if self.inputs.tokenizer else 0
        return Engine(self.model, vocabulary, list(ends), slots, cache_tokens, layers_apart, limits, room)

    def _most_tiles(self, tokens: int) -> int:
        """Tiles of a request of so many tokens."""
        x, per_tile = self.inputs, self.config.tokens_per_tile
        tiles = x.max_images * (x.max_tiles + (x.thumbnail and x.max_tiles > 1))
        return min(tiles, tokens // per_tile) if self.config.arch == "d" else tiles

    def _given(
        self,
        tokens: Sequence[int] | np.ndarray,
        tiles: np.ndarray | None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> Example:
        tokenizer, images = (self.builder.tokenizer, self.builder.images) if self.inputs.tokenizer else (None, None)
        token = self.image_token_id
        return example_from_tokens(tokens, tiles, self.config, self.inputs, tokenizer, token, grids, images)

    def _check_length(self, tokens: int) -> None:
        decoder = self.config.decoder
        if decoder.rope_scaling_factor and tokens > decoder.max_positions:
            raise ValueError(
                f"tokens: {tokens} with those to come; at most {decoder.max_positions}, beyond which the checkpoint's "
                "dynamic RoPE scaling would apply, which is not implemented"
            )

    def _precision(self) -> contextlib.AbstractContextManager:
        full = self.config.dtype == "float32"
        return jax.default_matmul_precision("highest") if full else contextlib.nullcontext()


def with_placeholders(messages: Messages, images: int) -> list[Message]:
    """Messages of any accepted form, with `<image>` put first where the user's texts have none.

    Raises:
        ValueError: a message without a role or content.
    """
    if isinstance(messages, str):
        messages = [Message("user", messages)]
    found = []
    for message in messages:
        if not isinstance(message, Message):
            try:
                message = Message(message["role"], message["content"])
            except (KeyError, TypeError):
                raise ValueError(f"messages: expected a role and a content, got {type(message).__name__}") from None
        found.append(message)
    first = next((i for i, m in enumerate(found) if m.role == "user"), None)
    if images and first is not None and not any(IMAGE_PLACEHOLDER in m.content for m in found if m.role == "user"):
        content = f"{IMAGE_PLACEHOLDER}\n" * images + found[first].content
        found[first] = dataclasses.replace(found[first], content=content)
    return found


def _workdir_settings(path: Path) -> tuple[ModelConfig, InputConfig, list[int]]:
    run, _ = open_checkpoint(path)
    workdir, step = find_step(path)
    _, meta = read_meta(workdir / CHECKPOINTS / str(step))
    return run.model, run.inputs, meta.get("end_ids") or []


def _read_hf(path: Path, config: ModelConfig, wanted: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], jax.Array]:
    """Every parameter, from the shards to its devices."""
    found: dict[tuple[str, ...], jax.Array] = {}
    for reader in open_model(path, config).values():
        found |= place_part(reader, wanted)
    return found
