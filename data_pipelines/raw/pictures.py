"""An image as a record holds it -> a Picture: a path, bytes, base64, a data URI, or an object with one of these."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from data_pipelines.raw.entry import Picture, Record, Spec
from data_pipelines.raw.root import MAX_FILE_BYTES
from nvlm_jax.inputs.errors import BadSample

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")  # of a WebDataset's members
IMAGES = "image|images|" + "|".join(IMAGE_ENDINGS)
# Where an object keeps its image, in the order that is looked in.
HOLDERS = ("bytes", "base64", "data", "image_url", "url", "path", "image", "source")
# How base64 of a JPEG, PNG, GIF or WebP begins; a path of such length would name no file.
BARE_BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/\s]{200,}={0,2}\s*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def picture_of(where: str, value: Any) -> Picture | None:
    """The image that a value stands for; None if it says nothing (missing, an empty text, an object of such).

    Raises:
        BadSample: `wrong_field`; `bad_data_uri`; `file_too_large`.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bytes):
        return Picture("", value)
    if isinstance(value, str):
        return _of_text(where, value.strip())
    if not isinstance(value, Mapping):
        raise BadSample("wrong_field", f"{where}: an image is {type(value).__name__}; a path or bytes are expected")
    for key in HOLDERS:
        held = value.get(key)
        if held is None or held == "":
            continue
        if key in ("bytes", "base64", "data") and isinstance(held, str) and not held.startswith("data:"):
            held = _decoded(where, held)
        picture = picture_of(where, held)
        return picture if picture is None or picture.name else Picture(str(value.get("path") or ""), picture.data)
    if set(value) <= {*HOLDERS, "type", "detail", "media_type", "mime_type"}:
        return None
    held = f"{where}: an image is an object of {sorted(value)[:12]}"
    raise BadSample("wrong_field", f"{held}; {', '.join(HOLDERS)} are read")


def in_folder(spec: Spec, images: tuple[Picture, ...]) -> tuple[Picture, ...]:
    """The images, those that are relative paths below the folder that the spec's field `folder` names."""
    folder = spec.fields.get("folder", "").rstrip("/")
    if not folder:
        return images
    return tuple(
        p if p.data is not None or _is_absolute(p.name) else p._replace(name=f"{folder}/{p.name}") for p in images
    )


def with_ending(picture: Picture, record: Record, value: Any, names: str) -> Picture:
    """The picture, named by the member of a WebDataset that it came from."""
    if picture.name or not isinstance(value, bytes):
        return picture
    ending = next((name for name in names.split("|") if record.get(name) is value), "")
    return Picture(f"image.{ending}", value) if ending in IMAGE_ENDINGS else picture


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or SCHEME.match(name) is not None


def _of_text(where: str, text: str) -> Picture:
    if text[:5].lower() == "data:":
        head, comma, body = text[5:].partition(",")
        if not comma:
            right = "data:image/png;base64,... is expected"
            raise BadSample("bad_data_uri", f"{where}: {text[:60]!r} has no comma; {right}")
        if head.lower().endswith(";base64"):
            return Picture("", _decoded(where, urllib.parse.unquote(body)))
        return Picture("", urllib.parse.unquote_to_bytes(body))
    if text.lower().startswith("file://"):
        return Picture(urllib.parse.unquote(re.sub(r"^file://(localhost)?", "", text, flags=re.IGNORECASE)))
    if BARE_BASE64.fullmatch(text):
        return Picture("", _decoded(where, text))
    return Picture(text)


def _decoded(where: str, text: str) -> bytes:
    text = re.sub(r"\s+", "", text).rstrip("=").translate(str.maketrans("-_", "+/"))
    if (size := len(text) * 3 // 4) > MAX_FILE_BYTES:
        raise BadSample("file_too_large", f"{where}: {size:,} bytes in base64; at most {MAX_FILE_BYTES:,} are read")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSample("bad_data_uri", f"{where}: {text[:40]!r}... is no base64: {error}") from error
