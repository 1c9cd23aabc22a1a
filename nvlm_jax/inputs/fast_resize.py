"""Resizing by OpenCV, for `inputs.resize=opencv`: quicker than Pillow, and not to the pixel the same.

OpenCV's bicubic kernel is sharper than Pillow's (its parameter is -0.75, Pillow's -0.5) and it has none for shrinking.
So an image that shrinks is first filtered with Pillow's kernel, stretched by the scale, and then sampled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

PILLOW_CUBIC = -0.5


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3].

    Raises:
        ImportError: OpenCV is not installed.
    """
    cv2 = _cv2()
    scales = image.shape[1] / width, image.shape[0] / height
    if max(scales) > 1:
        kernels = [_kernel(scale) if scale > 1 else np.ones(1, np.float32) for scale in scales]
        image = cv2.sepFilter2D(image, -1, *kernels, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def _kernel(scale: float) -> np.ndarray:
    """Pillow's bicubic kernel stretched by `scale`, at whole pixels, float32."""
    reach = math.ceil(2 * scale)
    x, a = np.abs(np.arange(-reach, reach + 1) / scale), PILLOW_CUBIC
    inner, outer = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    kernel = np.where(x < 1, inner, np.where(x < 2, outer, 0))
    return (kernel / kernel.sum()).astype(np.float32)


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "inputs.resize=opencv needs OpenCV: pip install opencv-python-headless==5.0.0.93, or inputs.resize=pillow"
        ) from error
    cv2.setNumThreads(1)  # a data worker is one core's; more threads would only get in each other's way
    return cv2
