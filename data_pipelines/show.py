"""One batch as a page to look at: images, tiles with their tags, every token by its kind, and what sees what.

    shown = read_batch(config, step, rows)            the batch as training gets it, and the samples it came from
    write_page(path, describe(shown, sees))           one HTML file

What sees what is the model's to say, so it comes from the caller as `Sees`. The page is drawn by `show.html.j2` with
every text escaped, makes no request (it forbids itself to), and runs one script, `show.js`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import itertools
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from data_pipelines.faults import BadSamples
from data_pipelines.loader import BatchInfo, batches, make_plan, open_sources
from data_pipelines.plan import Plan
from nvlm_jax.config import RunConfig
from nvlm_jax.inputs.batch import Batch, Sample
from nvlm_jax.inputs.tags import tile_tags
from nvlm_jax.inputs.tiling import choose_grid, open_image, tile_count
from nvlm_jax.inputs.tokenizer import Tokenizer
from nvlm_jax.webpage import template

HERE = pathlib.Path(__file__).parent
KINDS = ("plain", "loss", "tag", "image")
EXACT = 256  # pixels: pictures up to this are stored as they are, larger ones as JPEG
LARGEST = 1024  # pixels along the longer side of a page's picture
PAGE_WIDTH, PAGE_HEIGHT = 400, 260  # pixels of the HTML page for the picture of an image, at most
TILES_WIDTH, TILES_GAP = 380, 10  # the same for a row of tiles, and between two
LISTED = 10  # sample ids of each reason for leaving out


class Sees(NamedTuple):
    """Which tiles of its row each token sees, bool [R, S, T] each."""

    cross: np.ndarray  # through cross-attention
    decoder: np.ndarray  # the tile's image tokens stand before it, and it attends to them in the decoder


class Shown(NamedTuple):
    """The first rows of one step's batch."""

    config: RunConfig
    plan: Plan
    batch: Batch  # of R rows
    info: BatchInfo  # sample ids, hash and fills are the whole batch's; the last three fields those of the rows read
    samples: tuple[tuple[tuple[str, Sample], ...], ...]  # of each row's segments: `dataset/id` and the sample
    too_long: dict[str, tuple[str, ...]]  # by dataset: ids of samples that exceed a row alone


def read_batch(config: RunConfig, step: int = 0, rows: int = 4) -> Shown:
    """Read the first `rows` rows of a step, all if the batch has fewer. Bad samples stop nothing here.

    Raises:
        ValueError: the run has no such step, or no rows are asked for.
        DatasetError, PlanError: as `make_plan`.
    """
    total = config.train.batch_rows
    if not 0 <= step < config.train.steps or rows < 1:
        raise ValueError(f"step {step}, {rows} rows: the run has steps 0 to {config.train.steps - 1}; at least 1 row")
    rows = min(rows, total)
    plan = make_plan(config, step + 1)
    # As the first of so many hosts, so that no more rows are read than needed; in this process.
    hosts = max(n for n in range(1, total + 1) if total % n == 0 and total // n >= rows)
    here = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    with contextlib.closing(batches(here, plan, step, 0, hosts, BadSamples(1.0))) as found:
        batch, info = next(found)
    sources = open_sources(config)
    bad = {fault.id for fault in info.bad}
    samples = []
    for row in range(rows):
        ids = info.sample_ids[row]
        places = plan.row(step * total + row)
        samples.append(tuple((i, sources[d][s]) for i, (d, s) in zip(ids, places, strict=True) if i not in bad))
    ids_of = {name: source.ids() for name, source in zip(plan.names, sources, strict=True)}
    too_long = {name: tuple(ids_of[name].take(lost).to_pylist()) for name, lost in plan.dropped.items()}
    return Shown(config, plan, Batch(*(array[:rows] for array in batch)), info, tuple(samples), too_long)


def describe(shown: Shown, sees: Sees) -> dict[str, Any]:
    """What the template is given: facts of the batch, its rows, and `data` for the script."""
    config, info = shown.config, shown.info
    tokenizer = Tokenizer(config.inputs.tokenizer)
    count = len(shown.batch.tokens)
    rows = [_Row(shown, row, tokenizer, Sees(sees.cross[row], sees.decoder[row])).describe() for row in range(count)]
    used, trained = np.count_nonzero(shown.batch.segment_ids), shown.batch.loss_weights > 0
    groups = Counter(shown.batch.loss_groups[trained].tolist())
    return {
        "config": config,
        "info": info,
        "count": count,
        "used": used,
        "trained": int(trained.sum()),
        "groups": [(_group(shown.plan, g) or "no group", n) for g, n in groups.most_common()],
        "left_out": [*_left_out(shown)],
        "rows": rows,
        "data": {
            "side": int(config.model.tokens_per_tile**0.5),
            "dense": config.inputs.template == "dense",
            "rows": [row.pop("data") for row in rows],
        },
    }


def write_page(path: pathlib.Path, page: dict[str, Any]) -> None:
    """Draw what `describe` returned."""
    script = (HERE / "show.js").read_text(encoding="utf-8")
    # The page names the one script that may run in it; nothing that data could smuggle in has this hash.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template.write(path, HERE / "show.html.j2", **page, script=Markup(script), script_hash=digest)


def _left_out(shown: Shown) -> Iterator[dict[str, Any]]:
    """A record for each reason why a sample, or a part of one, is not in a row."""
    for name, ids in shown.too_long.items():
        why = "alone they exceed a row; of all samples of the dataset"
        yield {"reason": "over_budget", "count": len(ids), "ids": [f"{name}/{i}" for i in ids[:LISTED]], "message": why}
    bad = BadSamples(1.0)
    bad.add(shown.info.read, shown.info.bad)
    for reason, faults in bad.by_reason().items():
        ids = list(dict.fromkeys(fault.id for fault in faults))[:LISTED]
        yield {"reason": reason, "count": len(faults), "ids": ids, "message": faults[0].message}
    if shown.info.dropped_turns:
        why = "turns cut from the ends of conversations that are longer than a row"
        yield {"reason": "dropped_turns", "count": shown.info.dropped_turns, "ids": [], "message": why}


def _group(plan: Plan, group: int) -> str:
    return plan.groups[group - 1] if group else ""


class _Row:
    """One row of the batch on its way to the page."""

    def __init__(self, shown: Shown, row: int, tokenizer: Tokenizer, sees: Sees):
        self.config, self.plan, self.info, self.number = shown.config, shown.plan, shown.info, row
        self.batch = Batch(*(array[row] for array in shown.batch))
        self.samples, self.tokenizer, self.sees = shown.samples[row], tokenizer, sees
        self.used = int(np.count_nonzero(self.batch.segment_ids))
        self.dense = self.config.inputs.template == "dense"
        self.tile_of = np.where(
            self.batch.image_slots >= 0, self.batch.image_slots // self.config.model.tokens_per_tile, -1
        )
        self.kinds = self._kinds()
        self.tags = [""] * len(self.batch.tile_index)

    def describe(self) -> dict[str, Any]:
        segments = [self._segment(n, *sample) for n, sample in enumerate(self.samples, 1)]
        return {
            "number": self.number,
            "length": len(self.batch.tokens),
            "used": self.used,
            "tiles": int(np.count_nonzero(self.batch.tile_segment_ids)),
            "tile_places": len(self.batch.tile_index),
            "strip": self._strip(),
            "borders": np.flatnonzero(np.diff(self.batch.segment_ids[: self.used])).tolist(),
            "segments": segments,
            "data": self._data(),
        }

    def _kinds(self) -> np.ndarray:
        """Index into KINDS of each token. `loss` marks the token that is predicted, not the place that predicts it."""
        trained = self.batch.loss_weights > 0
        if not self.dense:  # there the token only asks; what is predicted stands in its own place
            trained = np.append(False, trained[:-1])
        image, tag = self.batch.image_slots >= 0, self.batch.tag_tile > 0
        return np.select([trained, tag, image], [1, 2, 3], 0)[: self.used]

    def _strip(self) -> list[tuple[int, int, str]]:
        """The row's stretches of one kind: place of the first token, length, kind."""
        edges = [0, *(np.flatnonzero(np.diff(self.kinds)) + 1).tolist(), self.used]
        spans = [(first, last - first) for first, last in itertools.pairwise(edges) if last > first]
        return [(first, length, KINDS[self.kinds[first]]) for first, length in spans]

    def _segment(self, number: int, name: str, sample: Sample) -> dict[str, Any]:
        places = np.flatnonzero(self.batch.segment_ids == number)
        return {
            "number": number,
            "name": name,
            "tokens": len(places),
            "tiles": int(np.count_nonzero(self.batch.tile_segment_ids == number)),
            "trained": int(np.count_nonzero(self.kinds[places] == KINDS.index("loss"))),
            "images": [*self._images(number, sample)],
            "chunks": [*self._chunks(places)],
        }

    def _images(self, number: int, sample: Sample) -> Iterator[dict[str, Any]]:
        """Each image of the sample with its tiles as they stand in the batch; none where its turn was dropped."""
        x, size = self.config.inputs, self.config.model.vision.image_size
        mine = np.flatnonzero(self.batch.tile_segment_ids == number).tolist()
        for encoded in sample.images:
            image = open_image(encoded)
            grid = choose_grid(*image.size, x.max_tiles, size)
            tiles, mine = mine[: tile_count(grid, x.thumbnail)], mine[tile_count(grid, x.thumbnail) :]
            tags = tile_tags(*grid, x.tile_tags, x.thumbnail_tag, size, x.thumbnail) if tiles else []
            for tile, tag in zip(tiles, tags, strict=True):
                self.tags[tile] = tag or f"tile {self.batch.tile_index[tile]}"
            yield {
                "picture": picture_uri(image),
                "exact": is_exact(image),
                "width": image.width,
                "height": image.height,
                "shown_width": round(image.width * min(2, PAGE_WIDTH / image.width, PAGE_HEIGHT / image.height)),
                "grid": grid,
                "tiles": [self._tile(tile) for tile in tiles],
                "tile_width": min(TILES_WIDTH // grid[0], TILES_WIDTH // 3) - TILES_GAP,
            }

    def _tile(self, tile: int) -> dict[str, Any]:
        parts = [
            (self.tile_of == tile, "labels" if self.dense else "decoder"),
            (self.sees.cross[:, tile], "cross-attention"),
        ]
        image = Image.fromarray(self.batch.tiles[tile])
        return {
            "tag": self.tags[tile],
            "picture": picture_uri(image),
            "exact": is_exact(image),
            "read_by": [name for tokens, name in parts if tokens.any()],
        }

    def _chunks(self, places: np.ndarray) -> Iterator[dict[str, Any]]:
        """The segment's tokens: as text, those of one tile together as `cells`, those of one cell as `labels`."""
        unit = self.batch.image_slots[places] if self.dense else self.tile_of[places]
        edges = [0, *(np.flatnonzero(np.diff(unit)) + 1).tolist(), len(places)]
        for first, last in itertools.pairwise(edges):
            chunk = places[first:last].tolist()
            if unit[first] >= 0 and not self.dense:
                yield {"layout": "cells", "tokens": [("", "image")] * len(chunk)}
            else:
                tokens = [(self._piece(place), KINDS[self.kinds[place]]) for place in chunk]
                yield {"layout": "labels" if self.dense else "", "tokens": tokens}

    def _piece(self, place: int) -> str:
        """What the token shows: its own text, or for template `dense` the label that it asks for."""
        token = int((self.batch.targets if self.dense else self.batch.tokens)[place])
        return self.tokenizer.decode([token], skip_special=False).replace("\n", "↵\n") or f"⟨{token}⟩"

    def _data(self) -> dict[str, Any]:
        """What the script knows of each token, in order."""
        both = np.concatenate([self.sees.cross, self.sees.decoder], axis=1)[: self.used]
        sets, which = np.unique(both, axis=0, return_inverse=True)
        count, b = len(self.tags), self.batch
        predicts = np.flatnonzero(b.loss_weights > 0).tolist()
        return {
            "tags": self.tags,
            "ids": b.tokens[: self.used].tolist(),
            "positions": b.positions[: self.used].tolist(),
            "slots": b.image_slots[: self.used].tolist(),
            "tagTile": b.tag_tile[: self.used].tolist(),
            "sees": which.reshape(-1).tolist(),
            "sets": [[np.flatnonzero(part).tolist() for part in (s[:count], s[count:])] for s in sets],
            "predicts": {
                place: [self._target(place), _group(self.plan, int(b.loss_groups[place]))] for place in predicts
            },
        }

    def _target(self, place: int) -> str:
        return self.tokenizer.decode([int(self.batch.targets[place])], skip_special=False)


def picture_uri(image: Image.Image) -> str:
    """The picture as a data URI: small ones exactly, large ones as JPEG of at most LARGEST pixels a side."""
    out = io.BytesIO()
    if is_exact(image):
        image.save(out, "PNG", optimize=True)
    else:
        image = image.copy()
        image.thumbnail((LARGEST, LARGEST))
        image.save(out, "JPEG", quality=85)
    kind = "png" if is_exact(image) else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def is_exact(image: Image.Image) -> bool:
    """Whether `picture_uri` keeps every pixel, so that the page may enlarge it without smoothing."""
    return max(image.size) <= EXACT
