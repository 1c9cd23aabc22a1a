"""The one type that crosses from data to model, and its two parents: a sample and an example.

    Sample  (a conversation and its encoded images)     one record of a dataset
      -> Example  (token ids, masks, pixels)             inputs/example.py
        -> Batch  (rows of packed examples)              inputs/packing.py

NumPy only: data workers import this file and must not touch a device.

Letters used for shapes: B rows, S tokens of a row, T tiles of a row, s and t the same for one example,
P the pixels along a tile's side, N image tokens of a tile (256 in the paper), K tokens of the longest tile tag where
the cross-attention reads tags, else 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

# Value of `tile_index` for the thumbnail. Regular tiles are 1, 2, ... (the k of `<tile_k>`).
THUMBNAIL = 255
# What a message's content holds where an image goes.
IMAGE_PLACEHOLDER = "<image>"


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn. `content` may hold `<image>` placeholders; `group` names the report group of an answer.

    An answer that is not `trained` on is history: it is read, and no loss is taken of it.
    """

    role: str
    content: str
    group: str = ""
    trained: bool = True  # of an answer


@dataclasses.dataclass(frozen=True)
class Sample:
    """One record: a conversation or a caption, with its images as encoded bytes (PNG, JPEG, ...)."""

    id: str
    messages: tuple[Message, ...]
    images: tuple[bytes, ...] = ()
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


class Example(NamedTuple):
    """One sample made ready for the model, not yet placed in a row."""

    id: str
    tokens: np.ndarray  # int32 [s]
    targets: np.ndarray  # int32 [s], the next token
    loss_weights: np.ndarray  # float32 [s], weight of predicting targets[i] from tokens[:i+1]
    loss_groups: np.ndarray  # int32 [s], report group of that target, 0 = none
    tiles: np.ndarray  # uint8 [t, P, P, 3]
    tile_index: np.ndarray  # int32 [t], k of <tile_k>, THUMBNAIL for the thumbnail
    tile_start: np.ndarray  # int32 [t], place in `tokens` where the tile's image block begins
    image_slots: np.ndarray  # int32 [s], index into the example's t*N tile tokens, else -1
    tag_tile: np.ndarray  # int32 [s], 1 + index of the tile that a tag token names, else 0
    # int32 [t, K], token ids of the tag that a regular tile bears in NVLM-H's cross-attention, then -1
    tile_tags: np.ndarray | None = None


class Batch(NamedTuple):
    """Rows of packed examples, as the model takes them. A NamedTuple is a pytree without importing JAX."""

    tokens: Any  # int32 [B, S], decoder input
    targets: Any  # int32 [B, S], next token
    loss_weights: Any  # float32 [B, S], > 0 on trained tokens (answers and their end token), else 0
    loss_groups: Any  # int32 [B, S], report group of the target (question type), 0 = none
    segment_ids: Any  # int32 [B, S], which example of the row, 1, 2, ...; 0 = padding
    positions: Any  # int32 [B, S], position within the example
    tiles: Any  # uint8 [B, T, P, P, 3], normalised on the device
    tile_segment_ids: Any  # int32 [B, T], the example a tile belongs to, 0 = padding
    tile_index: Any  # int32 [B, T], k of <tile_k>, THUMBNAIL for the thumbnail, 0 = padding
    tile_start: Any  # int32 [B, T], first place in the row whose token may see the tile
    image_slots: Any  # int32 [B, S], index into the row's T*N tile tokens, else -1
    tag_tile: Any  # int32 [B, S], 1 + index into T of the tile that a tag token names, else 0
    tile_tags: Any = None  # int32 [B, T, K], token ids of a tile's tag in H's cross-attention, then -1; None = no tags
