import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines import index
from data_pipelines.records import RecordSource, write_dataset
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


class Measure:
    """A builder that knows each sample's lengths and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def measure(self, sample, max_tokens=None, max_tiles=None):
        self.asked += 1
        if sample.id == "bad":
            raise BadSample("unreadable_image", "broken")
        if sample.id == "long":
            raise BadSample("too_long", "longer than a row")
        if sample.id == "bug":
            raise KeyError("x")
        return len(sample.messages[0].content), len(sample.images)


@pytest.fixture
def source(tmp_path):
    ids = ["a", "bad", "b", "long", "bug"]
    samples = [Sample(n, (Message("user", "x" * i),), (png(30, 20), png(5, 9))[: i % 3]) for i, n in enumerate(ids)]
    write_dataset(tmp_path / "set", samples)
    return RecordSource(tmp_path / "set")


def test_index_holds_the_size_of_each_image(source):
    table = index.read(source.path, ["id", "widths", "heights"]).to_pydict()
    assert table["id"] == ["a", "bad", "b", "long", "bug"]
    assert table["widths"] == [[], [30], [30, 5], [], [30]] and table["heights"] == [[], [20], [20, 9], [], [20]]


def test_lengths_mark_what_cannot_be_built_and_what_is_too_long(source):
    tokens, tiles = index.lengths(source, Measure())
    assert tokens.tolist() == [0, 0, 2, index.TOO_LONG, 0] and tiles.tolist() == [0, 0, 2, 0, 0]
    assert tokens.dtype == tiles.dtype == np.int32


def test_lengths_are_measured_once_for_a_key_and_budgets(source):
    builder = Measure()
    first = index.lengths(source, builder, 10, 2, key="k")
    np.testing.assert_array_equal(index.lengths(source, builder, 10, 2, key="k"), first)
    assert builder.asked == 5
    index.lengths(source, builder, 11, 2, key="k")
    index.lengths(source, builder, 11, 2, key="other")
    assert builder.asked == 15
    for file in source.path.glob("lengths-*.npy"):  # a damaged file is measured anew
        file.write_bytes(b"damaged")
    np.testing.assert_array_equal(index.lengths(source, builder, 10, 2, key="k"), first)
    assert builder.asked == 20


def test_lengths_of_other_data_at_the_same_place_are_measured_anew(source):
    index.lengths(source, Measure(), key="k")
    write_dataset(source.path, [Sample(n, (Message("user", "four"),)) for n in "abcde"])
    tokens, _ = index.lengths(RecordSource(source.path), Measure(), key="k")
    assert tokens.tolist() == [4] * 5


def test_the_key_follows_everything_that_lengths_depend_on(make_config, tmp_path):
    config = make_config()
    key = index.builder_key(config.inputs, config.model)
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes((index.pathlib.Path(config.inputs.tokenizer) / "tokenizer.json").read_bytes())
    moved = dataclasses.replace(config.inputs, tokenizer=str(copy))
    assert index.builder_key(moved, config.model) == key
    copy.write_bytes(copy.read_bytes() + b" ")
    assert index.builder_key(moved, config.model) != key
    for change in ({"max_tiles": 4}, {"tile_tags": "none"}, {"template": "plain"}, {"system": ""}):
        assert index.builder_key(dataclasses.replace(config.inputs, **change), config.model) != key
    assert index.builder_key(config.inputs, dataclasses.replace(config.model, arch="x")) != key
    assert index.builder_key(config.inputs, dataclasses.replace(config.model, pixel_shuffle=4)) != key
    assert index.builder_key(config.inputs, dataclasses.replace(config.model, remat="none")) == key


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_lengths_are_those_of_the_built_examples(make_config, data_path, arch):
    config = make_config(arch)
    builder = ExampleBuilder(config.inputs, config.model)
    source = RecordSource(data_path / "qa")
    tokens, tiles = index.lengths(source, builder, 300, 14)
    for i in range(0, 60, 7):
        example = builder.build(source[i], 300, 14)
        assert (len(example.tokens), len(example.tiles)) == (tokens[i], tiles[i])
