import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data_pipelines.generated.samples import generate
from data_pipelines.sketches import (
    MINIMA,
    NEAR_BITS,
    SAME_MINIMA,
    distance,
    grams,
    image_hash,
    text_sketch,
    word_hashes,
)
from nvlm_jax.inputs.tiling import open_image


@pytest.fixture(scope="module")
def pages():
    return [open_image(generate("qa", "train", 0, i, grids=((2, 2),)).images[0]) for i in range(20)]


def reencoded(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.resize((image.width * 9 // 10, image.height * 4 // 5)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def test_words_are_the_same_in_any_case_and_punctuation_and_characters_of_chinese_are_words():
    np.testing.assert_array_equal(word_hashes("The cat -- sat."), word_hashes("the CAT, sat!"))
    assert len(word_hashes("图中有几只猫 in all?")) == 8
    assert word_hashes("").shape == (0,)


def test_grams_are_runs_of_words_in_order():
    words = word_hashes("a b c d e")
    assert len(grams(words, 3)) == 3 and len(grams(words, 6)) == 0
    assert grams(word_hashes("x b c d y"), 3)[1] == grams(words, 3)[1]
    assert len({*grams(words, 2).tolist(), *grams(word_hashes("b a"), 2).tolist()}) == 5


def test_a_text_with_a_changed_word_is_near_and_another_is_not():
    words = [f"w{i}" for i in range(200)]
    one = text_sketch(" ".join(words))
    other = text_sketch(" ".join([*words[:100], "new", *words[101:]]))
    assert (one == other).sum() >= SAME_MINIMA
    assert (one == text_sketch(" ".join(reversed(words)))).sum() < 3
    assert text_sketch("two words").any() and not text_sketch("").any() and len(one) == MINIMA


def test_a_picture_stays_near_itself_and_apart_from_others(pages):
    hashes = np.array([image_hash(page) for page in pages])
    apart = distance(hashes[:, None], hashes[None])[np.triu_indices(len(pages), 1)]
    assert apart.min() > 2 * NEAR_BITS
    for page, found in zip(pages, hashes, strict=True):
        for changed in (reencoded(page), ImageEnhance.Brightness(page).enhance(0.8), page.convert("L")):
            assert distance(found, image_hash(changed)) <= NEAR_BITS


def test_an_image_without_structure_has_no_hash():
    assert image_hash(Image.new("RGB", (500, 300), "white")) is None
    assert image_hash(Image.new("RGB", (1, 1), "white")) is None
