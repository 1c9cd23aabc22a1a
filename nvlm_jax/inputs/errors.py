"""What is raised for a sample that cannot become an example."""

from __future__ import annotations

import re

# "<_io.BytesIO object at 0x7f...>", as Python shows an object without words of its own: it says nothing to a reader,
# differs from run to run, and tells an attacker where memory lies.
_ADDRESS = re.compile(r"( object)? at 0x[0-9a-fA-F]+")


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


def words(error: BaseException) -> str:
    """What an error of a library says, in one line and without addresses of objects; its kind where it says nothing."""
    return " ".join(_ADDRESS.sub("", str(error)).split()) or type(error).__name__


def exceeds(amount: int, limit: int | None) -> bool:
    """Whether there is a limit and `amount` is above it."""
    return limit is not None and amount > limit


def too_long(
    sample_id: str, what: str, tokens: int, tiles: int, max_tokens: int | None, max_tiles: int | None
) -> BadSample:
    """The error for what fits in no row."""
    limits = f"at most {max_tokens} tokens and {max_tiles} tiles fit"
    return BadSample("too_long", f"sample {sample_id!r}: {what} takes {tokens} tokens and {tiles} tiles; {limits}")
