"""Pages for the report: a sample's picture and the tiles that the model sees, each with its tag, as data URIs."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from nvlm_jax.config import InputConfig
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.inputs.tags import tile_tags
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles, open_image


def choose_pages(predictions: Sequence[Prediction], limit: int = 4) -> list[str]:
    """Ids of samples worth showing: half of them the first asked about, half those with the most wrong answers."""
    seen = [p for p in predictions if p.view == "vision"]
    asked = list(dict.fromkeys(p.sample for p in seen))
    plain = asked[: limit - limit // 2]
    wrong = Counter(p.sample for p in seen if not p.correct and p.sample not in plain)
    return plain + [sample for sample, _ in wrong.most_common(limit // 2)]


def describe_pages(
    samples: Sequence[str], images: Mapping[str, Sequence[bytes]], inputs: InputConfig, tile_size: int
) -> list[dict[str, Any]]:
    """One record a sample: `id` and, for each image, `picture`, `grid` [cols, rows] and `tiles` of (tag, picture)."""
    return [{"id": sample, "images": [_image(i, inputs, tile_size) for i in images[sample]]} for sample in samples]


def _image(encoded: bytes, inputs: InputConfig, tile_size: int) -> dict[str, Any]:
    image = open_image(encoded)
    grid = choose_grid(*image.size, inputs.max_tiles, tile_size)
    tags = tile_tags(*grid, inputs.tile_tags, inputs.thumbnail_tag, tile_size, inputs.thumbnail)
    tiles = cut_tiles(image, grid, tile_size, inputs.thumbnail, inputs.resize)
    return {
        "picture": data_uri(image),
        "width": image.width,
        "height": image.height,
        "grid": list(grid),
        "tiles": [[tag, data_uri(Image.fromarray(tile))] for tag, tile in zip(tags, tiles, strict=True)],
    }


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG that stands in the page itself."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
