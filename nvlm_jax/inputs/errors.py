"""What is raised for a sample that cannot become an example."""

from __future__ import annotations


class BadSample(ValueError):
    """A sample that cannot be used.

    `reason` is a short key for counting (`unreadable_image`, `too_long`, ...); the message names the sample, what was
    wrong and what would be right. It survives pickling, as data workers need.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))


class ImageError(BadSample):
    """An image that cannot be used: `unreadable_image`, `image_too_large` or `unsupported_pixels`."""
