"""The page of a batch: what it shows is what the batch holds, and nothing in the data becomes markup."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import show
from data_pipelines.records import RecordSource, write_dataset
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.tags import tile_tags

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Reader(html.parser.HTMLParser):
    """Tags with attributes, all text, the scripts' texts, and the token pieces with their classes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text, self.scripts, self.pieces, self.inside = [], "", [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "b":
            self.pieces.append([dict(attrs)["class"], ""])

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data
        if self.inside == "b":
            self.pieces[-1][1] += data


def any_tiles(shown, seed=0):
    """Some visibility: what the page shows of it must be this, whatever it is."""
    random = np.random.default_rng(seed)
    shape = (*shown.batch.tokens.shape, shown.batch.tile_index.shape[1])
    coarse = random.random((shape[0], 8, shape[2])) < 0.4
    cross = coarse[:, np.arange(shape[1]) % 8]
    return show.Sees(cross, ~cross & (random.random(shape[2]) < 0.5))


def draw(tmp_path, config, step=0, rows=2):
    shown = show.read_batch(config, step, rows)
    sees = any_tiles(shown)
    show.write_page(tmp_path / "new" / "page.html", show.describe(shown, sees))
    return shown, sees, (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text_of():
    def get(config, ids):
        return ExampleBuilder(config.inputs, config.model).tokenizer.decode(ids, skip_special=False)

    return get


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_every_token_stands_there_once_by_its_kind(make_config, tmp_path, text_of, arch):
    config = make_config(arch)
    shown, _, page = draw(tmp_path, config, step=3)
    pieces = Reader(page).pieces
    batch = shown.batch
    used = batch.segment_ids > 0
    assert len(pieces) == used.sum() and 0 < used.sum() < used.size
    kinds = np.array([kind for kind, _ in pieces])
    np.testing.assert_array_equal(kinds == "image", batch.image_slots[used] >= 0)
    np.testing.assert_array_equal(kinds == "tag", batch.tag_tile[used] > 0)
    spans = [attributes.get("class") for tag, attributes in Reader(page).tags if tag == "span"]
    assert spans.count("cells") * config.model.tokens_per_tile == (kinds == "image").sum()
    assert (kinds == "image").any() == (arch != "x") and (kinds == "tag").any() and (kinds == "plain").any()
    # The trained pieces, read on their own, are the answers and their end tokens.
    end = config.inputs.end_token
    messages = [m for row in shown.samples for _, sample in row for m in sample.messages]
    answers = "".join(m.content + end for m in messages if m.role == "assistant")
    assert "".join(piece for kind, piece in pieces if kind == "loss") == answers
    plain = "".join(piece for kind, piece in pieces if kind != "image").replace("↵\n", "\n")
    assert plain == text_of(config, batch.tokens[used & (batch.image_slots < 0)].tolist())
    assert [f"{n} tokens of padding" in page for n in (~used).sum(axis=1) if n] == [True] * (~used).any(axis=1).sum()


def test_every_tile_stands_there_with_its_pixels_tag_and_readers(make_config, tmp_path):
    config = make_config("h", {"qa": 1.0})
    shown, sees, page = draw(tmp_path, config)
    pages = [image for tag, image in Reader(page).tags if tag == "img"]
    tiles = [image["src"] for image in pages if image["alt"] == ""]
    pixels = shown.batch.tiles[shown.batch.tile_segment_ids > 0]
    assert len(tiles) == len(pixels) and len(pages) - len(tiles) == sum(len(row) for row in shown.samples)
    for uri, expected in zip(tiles, pixels, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
        np.testing.assert_array_equal(np.asarray(picture), expected)
    grids = [sample.meta["grid"] for row in shown.samples for _, sample in row]
    described = show.describe(shown, sees)
    images = [image for row in described["rows"] for segment in row["segments"] for image in segment["images"]]
    assert [image["grid"] for image in images] == [tuple(grid) for grid in grids]
    for image, grid in zip(images, grids, strict=True):
        assert [tile["tag"] for tile in image["tiles"]] == tile_tags(*grid)
        # H's decoder holds thumbnails only.
        assert ["decoder" in tile["read_by"] for tile in image["tiles"]] == [
            tile is image["tiles"][-1] for tile in image["tiles"]
        ]


def test_the_script_is_given_what_each_token_sees_is_and_predicts(make_config, tmp_path, text_of):
    config = make_config("d")
    shown, sees, page = draw(tmp_path, config)
    data = json.loads(Reader(page).scripts[0])
    assert data["side"] ** 2 == config.model.tokens_per_tile and len(data["rows"]) == 2
    for number, row in enumerate(data["rows"]):
        b = type(shown.batch)(*(array[number] for array in shown.batch))
        used = np.count_nonzero(b.segment_ids)
        assert row["ids"] == b.tokens[:used].tolist() and row["slots"] == b.image_slots[:used].tolist()
        assert row["tagTile"] == b.tag_tile[:used].tolist() and row["positions"] == b.positions[:used].tolist()
        for place in range(used):
            cross, decoder = row["sets"][row["sees"][place]]
            assert cross == np.flatnonzero(sees.cross[number, place]).tolist()
            assert decoder == np.flatnonzero(sees.decoder[number, place]).tolist()
        assert [int(place) for place in row["predicts"]] == np.flatnonzero(b.loss_weights).tolist()
        for place, (text, group) in row["predicts"].items():
            assert text == text_of(config, [int(b.targets[int(place)])])
            assert group == shown.plan.groups[b.loss_groups[int(place)] - 1]


def test_the_batch_is_the_one_that_training_gets_and_its_facts_are_shown(make_config, tmp_path):
    config = make_config(batch_rows=6)
    shown, _, page = draw(tmp_path, config, step=2, rows=2)
    builder = ExampleBuilder(config.inputs, config.model)
    for row, samples in enumerate(shown.samples):
        assert tuple(name for name, _ in samples) == shown.info.sample_ids[row]
        for segment, (_, sample) in enumerate(samples, 1):
            tokens = shown.batch.tokens[row][shown.batch.segment_ids[row] == segment]
            np.testing.assert_array_equal(tokens, builder.build(sample).tokens)
    text = " ".join(Reader(page).text.split())
    assert "Rows 0 to 1 of 6" in text and shown.info.sample_hash in text
    assert f"token fill{100 * shown.info.token_fill:.1f} %" in text
    assert f"tile fill{100 * shown.info.tile_fill:.1f} %" in text
    assert f"trained tokens in the rows shown{np.count_nonzero(shown.batch.loss_weights)} of" in text
    for name in (name for row in shown.samples for name, _ in row):
        assert name in text
    # More rows than the batch has are all of them; the same step read alone is the same.
    whole = show.read_batch(config, 2, 99)
    assert len(whole.batch.tokens) == 6 and whole.info.sample_hash == shown.info.sample_hash
    np.testing.assert_array_equal(whole.batch.tiles[:2], shown.batch.tiles)


@pytest.mark.parametrize(("step", "rows"), [(12, 1), (-1, 1), (0, 0)])
def test_a_step_or_rows_that_do_not_exist(make_config, step, rows):
    with pytest.raises(ValueError, match=f"step {step}, {rows} rows: the run has steps 0 to 11"):
        show.read_batch(make_config(), step, rows)


@pytest.mark.parametrize("blend", [{"text": 1.0}, {"dense": 1.0}], ids=["text", "dense"])
def test_rows_without_tiles_and_rows_of_labels(make_config, tmp_path, blend):
    dense = "dense" in blend
    config = make_config("d", blend, inputs={"template": "dense" if dense else "chatml"}, tiles_per_row=14 * dense)
    if dense:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dense_labels=7))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokens_per_row=14 * 16 * 7))
    shown, _, page = draw(tmp_path, config)
    read = Reader(page)
    assert len(read.pieces) == np.count_nonzero(shown.batch.segment_ids)
    assert any(tag == "img" for tag, _ in read.tags) == dense
    if dense:
        assert {kind for kind, _ in read.pieces} == {"loss"}
        labels = [cell for row in shown.samples for _, s in row for i in s.meta["dense"] for t in i for cell in t]
        assert "".join(piece for _, piece in read.pieces) == "".join(labels)
        assert sum(a.get("class") == "labels" for tag, a in read.tags if tag == "span") == len(labels)


def picture(width=130, height=64):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def hostile(tmp_path, make_config):
    """A dataset whose ids, texts and groups are markup; some of its samples are too long, broken, or cut."""

    def sample(name, text, *images, turns=1):
        asked = Message("user", "<image>\n" * len(images) + text), Message("assistant", text, EVIL)
        more = (Message("user", "again"), Message("assistant", "word " * 20, EVIL)) * (turns - 1)
        return Sample(EVIL + name, (*asked, *more), images)

    samples = [sample(str(i), f"{i} {EVIL}", picture()) for i in range(4)]
    samples += [sample("broken", EVIL, b"no picture"), sample("long", EVIL * 20), sample("cut", EVIL, turns=30)]
    write_dataset(tmp_path / "evil", samples)
    return make_config("x", {"evil": 1.0}, path=tmp_path, tokens_per_row=512, steps=2, batch_rows=3)


def test_nothing_in_the_data_becomes_markup(hostile, tmp_path):
    _, _, page = draw(tmp_path, hostile, rows=3)
    read = Reader(page)
    assert sum(tag == "script" for tag, _ in read.tags) == len(read.scripts) == 2
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert all(a["src"].startswith("data:image/png;base64,") for tag, a in read.tags if tag == "img")
    assert EVIL not in page and "<script>alert" not in page
    assert EVIL in read.text  # as text it is there, in the ids for one
    assert f"3 {EVIL}" in "".join(piece for _, piece in read.pieces)
    targets = [target for row in json.loads(read.scripts[0])["rows"] for target in row["predicts"].values()]
    assert EVIL in {group for _, group in targets}


def test_what_was_left_out_is_told_by_reason(hostile, tmp_path):
    shown, sees, page = draw(tmp_path, hostile, rows=3)
    found = {entry["reason"]: entry for entry in show.describe(shown, sees)["left_out"]}
    assert set(found) == {"over_budget", "unreadable_image", "dropped_turns"}
    assert found["over_budget"]["ids"] == [f"evil/{EVIL}long"]
    assert found["unreadable_image"]["ids"] == [f"evil/{EVIL}broken"]
    assert "expected a whole image" in found["unreadable_image"]["message"]
    assert found["dropped_turns"]["count"] == shown.info.dropped_turns > 0
    # What stands in a row is named by its own id all the same.
    builder = ExampleBuilder(hostile.inputs, hostile.model)
    for row, samples in enumerate(shown.samples):
        for segment, (name, sample) in enumerate(samples, 1):
            assert name == f"evil/{sample.id}" and not name.endswith(("broken", "long"))
            tokens = shown.batch.tokens[row][shown.batch.segment_ids[row] == segment]
            np.testing.assert_array_equal(tokens, builder.build(sample, 512, 14).tokens)
    assert "None of the" not in page and "unreadable_image" in page


def test_the_page_makes_no_request_and_allows_only_its_own_script(make_config, tmp_path):
    _, _, page = draw(tmp_path, make_config(), rows=1)
    read = Reader(page)
    assert not {tag for tag, _ in read.tags} & {"link", "iframe", "object", "base", "form"}
    assert not any("href" in attributes for _, attributes in read.tags)
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(read.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert read.scripts[1].strip().endswith("})();")


def test_images_of_dropped_turns_are_shown_without_tiles(make_config, tmp_path):
    turn = Message("user", "<image>\nwhat?"), Message("assistant", "this " * 10)
    write_dataset(tmp_path / "two", [Sample("two", turn * 2, (picture(), picture(64, 64)))])
    assert len(RecordSource(tmp_path / "two")) == 1
    shown, sees, page = draw(tmp_path, make_config("d", {"two": 1.0}, path=tmp_path, tiles_per_row=3))
    images = show.describe(shown, sees)["rows"][0]["segments"][0]["images"]
    assert [len(image["tiles"]) for image in images] == [3, 0] and shown.info.dropped_turns == 2
    assert "64 x 64 pixels, grid 1 x 1, not in the batch: its turn was dropped" in page


def test_large_pictures_are_stored_small():
    noise = np.random.default_rng(0).integers(0, 255, (700, 2100, 3), np.uint8)
    for size, kind, stored in (((2100, 700), "jpeg", (1024, 341)), ((256, 200), "png", (256, 200))):
        image = Image.fromarray(noise).crop((0, 0, *size))
        head, data = show.picture_uri(image).split(",")
        assert head == f"data:image/{kind};base64" and show.is_exact(image) == (kind == "png")
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == stored
