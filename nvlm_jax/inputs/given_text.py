"""What stands in given token ids: whose text is whose, and the blocks of images in it.

Text is handled byte by byte (one character for each, as Latin-1 has them), for a character may be spread over several
tokens; the image token and other special tokens are one character each that no text has.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.inputs.batch import THUMBNAIL
from nvlm_jax.inputs.chat import HEADERS, IMAGE_CLOSE, IMAGE_OPEN, START_TOKEN
from nvlm_jax.inputs.tags import reads_tags, tile_indices, tile_tags
from nvlm_jax.inputs.tiling import grids as all_grids
from nvlm_jax.inputs.tiling import tile_count
from nvlm_jax.inputs.tokenizer import Tokenizer

IMAGE_MARK, SPECIAL_MARK = "\u0100", "\u0101"
HEADER = re.compile(" ?(" + "|".join(HEADERS) + ")\n")

Grid = tuple[int, int]


class Text:
    """Ids as text: `text`, and of each token the characters [start, end) of it, `offsets`."""

    def __init__(self, tokens: np.ndarray, tokenizer: Tokenizer, image_token: int):
        self.tokens = tokens
        self.offsets: list[tuple[int, int]] = []
        pieces, at, first = [], 0, True
        for token in tokens.tolist():
            if token == image_token:
                piece = IMAGE_MARK
            elif not tokenizer.token_bytes.is_text(token):
                piece = SPECIAL_MARK
            else:
                piece, first = tokenizer.token_bytes.get(token, first).decode("latin-1"), False
            pieces.append(piece)
            self.offsets.append((at, at + len(piece)))
            at += len(piece)
        self.text = "".join(pieces)

    def token_at(self, character: int) -> int:
        """The token that a character belongs to."""
        return bisect.bisect_right(self.offsets, character, key=lambda span: span[0]) - 1


class Stretch(NamedTuple):
    """A message, or as much as the ids tell apart."""

    first: int  # tokens [first, last)
    last: int
    start: int  # characters [start, end) of what is said, without what the template writes around it
    end: int
    whose: str  # user | unknown | other
    opens_turn: bool


class Block(NamedTuple):
    """An image's place in the text: `<Image>` at `start`, `</Image>` at `end`."""

    start: int
    end: int
    fits: dict[Grid, re.Match[str]]  # the grids that it can be of, each tile's tag a group
    indices: dict[Grid, list[int]]  # their tiles in the block, by number within the image
    marks: dict[Grid, list[int]]  # those of them whose image tokens stand there

    def tags(self, grid: Grid) -> list[tuple[int, tuple[int, int]]]:
        """Of each tile whose tag stands there: its number within the image, and the tag's characters."""
        spans = ((tile, self.fits[grid].span(1 + i)) for i, tile in enumerate(self.indices[grid]))
        return [(tile, span) for tile, span in spans if span[1] > span[0]]

    def held(self, grid: Grid) -> list[tuple[int, int]]:
        """Of each tile whose image tokens stand there: its number within the image, and the place of the first."""
        ends = {tile: self.fits[grid].end(1 + i) for i, tile in enumerate(self.indices[grid])}
        return [(tile, ends[tile]) for tile in self.marks[grid]]


def stretches(text: Text, inputs: InputConfig, tokenizer: Tokenizer) -> list[Stretch]:
    """The ids cut into messages, as far as the template tells them apart."""
    whole = Stretch(0, len(text.tokens), 0, len(text.text), "user", True)
    if inputs.template == "chatml":
        starts = np.flatnonzero(text.tokens == tokenizer.special(START_TOKEN)).tolist()
        return _messages(text, starts, tokenizer.special(inputs.end_token)) if starts else [whole]
    if inputs.template == "plain":  # a question and its answer, which nothing stands between
        ends = (1 + np.flatnonzero(text.tokens == tokenizer.special(inputs.end_token))).tolist()
        bounds = [0, *ends, *([] if ends and ends[-1] == len(text.tokens) else [len(text.tokens)])]
        return [_stretch(text, a, b, "unknown" if b in ends else "user", True) for a, b in itertools.pairwise(bounds)]
    return [whole._replace(whose="unknown")]


def _stretch(text: Text, first: int, last: int, whose: str, opens_turn: bool) -> Stretch:
    return Stretch(first, last, text.offsets[first][0], text.offsets[last - 1][1], whose, opens_turn)


def _messages(text: Text, starts: Sequence[int], end_token: int) -> list[Stretch]:
    found = [_stretch(text, 0, starts[0], "other", True)] if starts[0] else []
    before = ""
    for first, last in zip(starts, [*starts[1:], len(text.tokens)], strict=True):
        part = _stretch(text, first, last, "other", False)
        header = HEADER.match(text.text, part.start + 1)
        role = header[1] if header else ""
        ends = np.flatnonzero(text.tokens[first:last] == end_token)
        end = text.offsets[first + int(ends[0])][0] if len(ends) else part.end
        start = min(header.end() if header else part.end, end)
        opens = not found or (role == "user" and before == "assistant")
        whose = "user" if role == "user" else "other"
        found.append(part._replace(start=start, end=end, whose=whose, opens_turn=opens))
        before = role
    return found


def find_blocks(
    text: Text, parts: Sequence[Stretch], model: ModelConfig, inputs: InputConfig, tiles: int
) -> list[Block]:
    """Whatever looks as an image of at most `tiles` tiles does in this model's prompts."""
    found, patterns = [], {grid: _pattern(grid, model, inputs) for grid in _grids(model, inputs, tiles)}
    for part in parts:
        for opened in re.finditer(IMAGE_OPEN, text.text[part.start : part.end]) if part.whose != "other" else ():
            start, content = part.start + opened.start(), part.start + opened.end()
            end = text.text.find(IMAGE_CLOSE, content, part.end)
            if end < 0:
                continue
            fits = {g: m for g, (p, *_) in patterns.items() if (m := p.fullmatch(text.text, content, end))}
            if fits:
                indices, marks = ({g: patterns[g][i] for g in fits} for i in (1, 2))
                found.append(Block(start, end, fits, indices, marks))
    return found


def _grids(model: ModelConfig, inputs: InputConfig, tiles: int) -> list[Grid]:
    """The grids of at most `tiles` tiles, of those that mean the same one."""
    lying = inputs.tile_tags in ("grid", "box")
    if model.arch == "h" and not reads_tags(model) and not inputs.question_tags:
        lying = False
    grids = all_grids(tiles) if lying else [(count, 1) for count in range(1, tiles + 1)]
    return [grid for grid in grids if tile_count(grid, inputs.thumbnail) <= tiles]


def _pattern(grid: Grid, model: ModelConfig, inputs: InputConfig) -> tuple[re.Pattern[str], list[int], list[int]]:
    """What stands between `<Image>` and `</Image>`, and which tiles bear a tag and image tokens there."""
    names = tile_tags(*grid, inputs.tile_tags, inputs.thumbnail_tag, model.vision.image_size, inputs.thumbnail)
    tagged, held, pattern = [], [], ""
    for tile, (name, index) in enumerate(zip(names, tile_indices(*grid, inputs.thumbnail), strict=True)):
        if model.arch == "h" and index != THUMBNAIL:
            continue
        # Pieces are tokenized apart, and some tokenizers put a blank before each.
        pattern += f"( ?{re.escape(name.encode().decode('latin-1'))})" if name else "()"
        tagged.append(tile)
        if model.arch != "x":
            pattern += f"{IMAGE_MARK}{{{model.tokens_per_tile}}}"
            held.append(tile)
    return re.compile(pattern + " ?"), tagged, held


def place_images(
    blocks: Sequence[Block], tiles: int, thumbnail: bool, grids: Sequence[Grid] | None
) -> list[tuple[Block, Grid]]:
    """The images, in order, and their grids.

    Raises:
        ValueError: the ids do not say which, or hold none that fit.
    """
    if grids is not None:
        return _as_given(blocks, tiles, thumbnail, [tuple(grid) for grid in grids])
    found = list(itertools.islice(_sharings(blocks, tiles, thumbnail), 4))
    if not blocks or not found:
        raise ValueError(
            f"tokens: {len(blocks)} images stand in the ids, and none of their sizes makes up the {tiles} tiles; an "
            "image is <Image>, the tags and image tokens of its tiles as this model has them, and </Image>"
        )
    if len(found) > 1:
        raise ValueError(
            f"tokens: the ids do not tell how {len(blocks)} images have {tiles} tiles, which may lie as "
            f"{' or '.join(str(list(few)) for few in found[:3])}{' or otherwise' * (len(found) > 3)}; "
            "give grids=[(cols, rows), ...], one for each image"
        )
    return list(zip(blocks, found[0], strict=True))


def _sharings(blocks: Sequence[Block], tiles: int, thumbnail: bool) -> Iterator[tuple[Grid, ...]]:
    """Every way for the images to have so many tiles together."""
    if not blocks:
        yield from [()] if tiles == 0 else []
        return
    for grid in blocks[0].fits:
        left = tiles - tile_count(grid, thumbnail)
        if left >= len(blocks) - 1:
            yield from ((grid, *others) for others in _sharings(blocks[1:], left, thumbnail))


def _as_given(blocks: Sequence[Block], tiles: int, thumbnail: bool, grids: Sequence[Grid]) -> list[tuple[Block, Grid]]:
    count = sum(tile_count(grid, thumbnail) for grid in grids)
    if count != tiles or len(grids) != len(blocks):
        raise ValueError(
            f"grids: {len(grids)} grids of {count} tiles with their thumbnails; {len(blocks)} images stand in the ids, "
            f"and {tiles} tiles were given"
        )
    chosen = []
    for block, grid in zip(blocks, grids, strict=True):
        known = grid if grid in block.fits else (grid[0] * grid[1], 1)
        if known not in block.fits:
            raise ValueError(f"grids: {grid} is not what the ids hold: {', '.join(map(str, block.fits))} would fit")
        chosen.append((block, known))
    return chosen
