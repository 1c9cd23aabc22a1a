"""What is said of a picture that cannot be used: one line, of bounded length, that shows no address of an object."""

import io
import pathlib

import pytest
from PIL import Image

from data_pipelines.faults import fault_of
from nvlm_jax.inputs.errors import BadSample, ImageError, words
from nvlm_jax.inputs.tiling import FORMATS, image_size, open_header, open_image
from nvlm_jax.pretrained import with_placeholders


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60, 40), (10, 200, 30)).save(out, kind)
    return out.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"no picture",
    **{f"{kind}, {length} bytes": encoded(kind)[:length] for kind in FORMATS for length in (1, 3, 8, 12, 20, 30)},
}
ODD = {
    "an open file": io.BytesIO(encoded("PNG")),
    "an object": object(),
    "a function": encoded,
    "nothing": None,
    "a number": 3,
    "a data URI": "data:image/png;base64," + "A" * 100_000,
    "an array of bytes": bytearray(encoded("PNG")),
}


@pytest.mark.parametrize("read", [open_header, image_size, open_image])
@pytest.mark.parametrize("case", [*BROKEN, *ODD])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_address_no_length_one_line(case, read):
    source = {**BROKEN, **ODD}[case]
    try:
        read(source)
    except ImageError as error:
        text = str(error)
        assert "0x" not in text and " object at" not in text and "\n" not in text and len(text) < 600, text
        assert "expected a whole image in one of PNG" in text
    else:
        assert case in BROKEN and read is not open_image  # a header that is whole


def test_what_is_unreadable_is_named_by_its_size_or_path(tmp_path):
    with pytest.raises(ImageError, match=r"^image of 10 bytes: cannot identify image file; expected a whole image"):
        open_image(b"no picture")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    for source in (tmp_path / "link.png", str(tmp_path), pathlib.Path("missing.png")):
        with pytest.raises(ImageError, match="no such file, or no regular one"):
            open_image(source)


def test_words_are_of_every_error():
    assert words(ValueError("cannot read <_io.BytesIO object at 0x7f2c00> now")) == "cannot read <_io.BytesIO> now"
    assert words(ValueError("a\n  b <function f at 0x7F>")) == "a b <function f>"
    assert words(KeyError()) == "KeyError"
    assert "0x" not in fault_of("a", BadSample("x", f"of {object()!r}")).message
    with pytest.raises(ValueError, match=r"got object$"):
        with_placeholders([object()], 0)
