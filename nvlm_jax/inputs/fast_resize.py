"""`inputs.resize=opencv`: resizing by OpenCV, quicker than Pillow's rule to the pixel and some levels off.

OpenCV's bicubic kernel is sharper (a = -0.75, Pillow has -0.5), and it takes four pixels a line however much an image
shrinks: noise that shrinks by a fifth is up to 91 levels off. So images that shrink by more than `MOST_SHRINK` go by
the rule. docs/performance.md says what it saves and costs.
"""

from __future__ import annotations

import functools
import threading

import numpy as np
from PIL import Image

from nvlm_jax.config import ConfigError
from nvlm_jax.inputs.memory import rgbx

MOST_SHRINK = 1.25  # times along either side
VERSION = "5.0.0.93"  # tests ran with

_local = threading.local()


@functools.cache
def require() -> None:
    """Load OpenCV, and have it use one thread in this process.

    Raises:
        ConfigError: it is not installed; the message says what to install.
    """
    try:
        import cv2
    except ImportError as error:
        message = f"inputs.resize=opencv needs OpenCV: pip install opencv-python-headless=={VERSION}"
        raise ConfigError(message) from error
    cv2.setNumThreads(1)  # loaders are as many processes as there are cores for them


def serves(size: tuple[int, int], width: int, height: int) -> bool:
    """Whether an image of `size` (width, height) is resized to `width` x `height` here."""
    return size[0] <= MOST_SHRINK * width and size[1] <= MOST_SHRINK * height


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [h, w, 3] of an RGB image.

    Raises:
        ConfigError: as `require`.
    """
    require()
    import cv2

    return cv2.cvtColor(rgbx(image), cv2.COLOR_RGBA2RGB)


def resize(image: np.ndarray, tiles: np.ndarray) -> None:
    """Fill `tiles` with the resized image, cut.

    Args:
        image: uint8 [h, w, 3].
        tiles: uint8 [rows, cols, height, width, 3].
    """
    import cv2

    rows, cols, height, width, _ = tiles.shape
    room = _scratch(rows * height * cols * width * 3).reshape(rows * height, cols * width, 3)
    whole = cv2.resize(image, (cols * width, rows * height), dst=room, interpolation=cv2.INTER_CUBIC)
    tiles[:] = whole.reshape(rows, height, cols, width, 3).swapaxes(1, 2)


def _scratch(size: int) -> np.ndarray:
    """uint8 [size], the same memory each time: fresh pages of a few megabytes cost as much as half the resizing."""
    if getattr(_local, "scratch", np.empty(0)).size < size:
        _local.scratch = np.empty(size, np.uint8)
    return _local.scratch[:size]
