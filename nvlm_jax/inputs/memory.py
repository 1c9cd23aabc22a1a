"""Pillow's own memory of an image, which `np.asarray` would copy."""

from __future__ import annotations

import numpy as np
from PIL import Image


def rgbx(image: Image.Image) -> np.ndarray:
    """uint8 [h, w, 4] of an RGB image: four bytes a pixel, not copied where they lie in one piece."""
    import pyarrow  # which small pictures do without

    try:
        flat = pyarrow.array(image).flatten().to_numpy()
    except ValueError:
        flat = np.asarray(image.convert("RGBX"))
    return flat.reshape(image.height, image.width, 4)
