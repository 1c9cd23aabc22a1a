"""An entry -> a sample with its images' bytes, checked as far as can be without a model.

What is only odd is noted and kept (`wrong_extension`: the content decides; `special_tokens`: the tokenizer never reads
one out of text). What training could not use is refused here, under the reason that a report counts it by.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from data_pipelines.faults import Fault
from data_pipelines.raw.entry import Entry, Picture
from data_pipelines.raw.root import MAX_FILE_BYTES, Root
from nvlm_jax.inputs import chat
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Sample
from nvlm_jax.inputs.errors import BadSample, ImageError
from nvlm_jax.inputs.tiling import open_header, open_image

SPECIAL = re.compile(r"<\|\w+\|>")
FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Above these a sample is refused."""

    chars: int = 200_000  # of a conversation's texts together; above it no row of any stage has room
    images: int = 64  # of one sample
    file_bytes: int = MAX_FILE_BYTES  # of an encoded image


@dataclasses.dataclass(frozen=True)
class Checked:
    """A sample, its images decoded, and what was odd about it."""

    sample: Sample
    pixels: tuple[Image.Image, ...]
    notes: tuple[Fault, ...]


def check(entry: Entry, root: Root, limits: Limits) -> Checked:
    """The entry's sample.

    Raises:
        BadSample: `reason` is one of bad_role, empty_text, empty_answer, no_answer, invalid_utf8, too_long,
            missing_placeholder, extra_placeholder, too_many_images, not_trained; of images outside_root, remote_image,
            missing_file, not_a_file, file_too_large, unreadable_file, zero_bytes, not_an_image, truncated_image,
            unreadable_image, image_too_large, unsupported_pixels.
    """
    _check_texts(entry, limits)
    data, pixels, notes = [], [], list(_odd_texts(entry))
    for picture in entry.images:
        encoded = _read(picture, entry.source, root, limits) if picture.data is None else picture.data
        if len(encoded) > limits.file_bytes:
            message = f"image {picture.name!r:.200} has {len(encoded):,} bytes; at most {limits.file_bytes:,} are read"
            raise BadSample("file_too_large", message)
        image = _decode(picture, encoded)
        notes += _odd_name(entry, picture, encoded)
        data.append(encoded)
        pixels.append(image)
    return Checked(Sample(entry.id, entry.messages, tuple(data)), tuple(pixels), tuple(notes))


def _read(picture: Picture, source: str, root: Root, limits: Limits) -> bytes:
    """The picture's file: below the root, or beside the file that names it, also if its path has Windows' slashes."""
    folder = pathlib.PurePosixPath(source.partition("#")[0]).parent
    names = dict.fromkeys((picture.name, str(folder / picture.name)))
    if "\\" in picture.name:
        names |= dict.fromkeys(name.replace("\\", "/") for name in [*names])
    try:
        for name in [*names][1:]:
            if not root.exists(picture.name) and root.exists(name):
                return root.read(name, limits.file_bytes)
        return root.read(picture.name, limits.file_bytes)
    except BadSample as error:
        raise BadSample(error.reason, f"field {picture.field!r}: {error}" if picture.field else str(error)) from error


def _check_texts(entry: Entry, limits: Limits) -> None:
    for message in entry.messages:
        try:
            message.content.encode()
        except UnicodeEncodeError as error:
            raise BadSample("invalid_utf8", f"sample {entry.id!r}: a {message.role}'s text: {error}") from error
    chars = sum(len(message.content) for message in entry.messages)
    if chars > limits.chars:
        raise BadSample("too_long", f"sample {entry.id!r}: {chars:,} characters; at most {limits.chars:,} are kept")
    chat.turns(entry.id, entry.messages, "chatml")
    if len(entry.images) > limits.images:
        raise BadSample(
            "too_many_images", f"sample {entry.id!r}: {len(entry.images)}; at most {limits.images} are kept"
        )
    placeholders = chat.count_placeholders(entry.messages)
    if placeholders != len(entry.images):
        reason = "extra_placeholder" if placeholders > len(entry.images) else "missing_placeholder"
        counts = f"{placeholders} placeholders {IMAGE_PLACEHOLDER}, {len(entry.images)} images"
        right = "there must be one for each image"
        if not placeholders:
            right += "; --fields=place_images:first puts them before a conversation's first question"
        raise BadSample(reason, f"sample {entry.id!r}: {counts}; {right}")


def _odd_texts(entry: Entry) -> Iterator[Fault]:
    for message in entry.messages:
        found = SPECIAL.search(message.content)
        if found:
            yield Fault(entry.id, "special_tokens", f"{message.role}: {found.group()!r} is kept, as plain text")
            return


def _decode(picture: Picture, encoded: bytes) -> Image.Image:
    where = f"image {picture.name or 'without a name'!r:.200} of {len(encoded)} bytes"
    if not encoded.strip(b"\0"):
        raise BadSample("zero_bytes", f"{where}: no byte of it is other than zero")
    try:
        return open_image(open_header(encoded))
    except ImageError as error:
        raise BadSample(_image_reason(error), f"{where}: {error}") from error


def _image_reason(error: ImageError) -> str:
    """A finer reason than that it is unreadable, where Pillow's words give one."""
    if error.reason != "unreadable_image":
        return error.reason
    if isinstance(error.__cause__, UnidentifiedImageError):
        return "not_an_image"
    return "truncated_image" if re.search("truncated|EOF", str(error), re.IGNORECASE) else error.reason


def _odd_name(entry: Entry, picture: Picture, encoded: bytes) -> Iterator[Fault]:
    suffix = pathlib.PurePosixPath(picture.name).suffix.lower()
    found = open_header(encoded).format
    if found != FORMAT_OF.get(suffix, found):
        yield Fault(entry.id, "wrong_extension", f"{picture.name!r:.200} is {found}; it is kept, read by its content")
