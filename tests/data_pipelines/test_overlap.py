"""Planted overlaps with a benchmark are found, and nothing else."""

import io

import pytest
from PIL import Image

from data_pipelines.generated.samples import generate
from data_pipelines.overlap import COMMON, Benchmarks, from_samples
from data_pipelines.raw.entry import Spec
from data_pipelines.records import DatasetError, write_dataset
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.tiling import open_image
from tests.data_pipelines.raw_files import made, put, rejected

LONG = "In which year did the company that is shown in the second row of the table open its first office abroad"
SHORT = "How many red cubes are behind the small sphere?"  # nine words
TEMPLATE = "Answer the question about the image using only a single word or a short phrase please."


def page(index: int, width: int = 0) -> bytes:
    """A generated page as it is, or scaled to a width and compressed."""
    data = generate("qa", "train", 0, index, grids=((2, 2),)).images[0]
    if not width:
        return data
    image, buffer = open_image(data), io.BytesIO()
    image.resize((width, width * image.height // image.width)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def ask(name: str, question: str, *images: bytes) -> Sample:
    return Sample(name, (Message("user", "<image>\n" * len(images) + question),), images)


@pytest.fixture
def benchmark(tmp_path):
    samples = [ask("b1", f"{LONG}?\n{TEMPLATE}", page(1)), ask("b2", f"{SHORT}", page(2)), ask("b3", "What?", page(3))]
    samples += [ask(f"c{i}", f"Number {i} is which thing? {TEMPLATE}") for i in range(COMMON)]
    write_dataset(tmp_path / "bench", samples)
    return tmp_path / "bench"


def rows(**texts: str):
    return [{"id": name, "question": text, "answer": "x"} for name, text in texts.items()]


def test_planted_prompts_are_found_in_questions_and_answers(tmp_path, benchmark):
    held = rows(
        whole=f"{LONG}?",
        within=f"so, {LONG.upper()} ... and why?",
        twelve=" ".join(LONG.split()[:12]) + " nothing",
        short=f"Look. {SHORT}",
        part=" ".join(SHORT.split()[:8]),
        common="What?",
        template=f"Who is it? {TEMPLATE}",
        other="In which year did the company open?",
    )
    held.append({"id": "answer", "question": "Ask me.", "answer": f"{LONG}?"})
    root = put(tmp_path / "raw", {"t.jsonl": held})
    samples, report = made(tmp_path, Spec("set", "json_columns"), root, against=[benchmark])
    assert rejected(report) == {"contaminated_text": ["whole", "within", "short", "answer"]}
    assert [sample.id for sample in samples] == ["twelve", "part", "common", "template", "other"]
    assert list(report["compared_with"]) == ["bench"]
    first = report["rejected"]["contaminated_text"]["examples"][0]["message"]
    assert first == "sample 'whole' holds the prompt of benchmark sample bench/b1"


def test_planted_images_are_found_scaled_and_compressed(tmp_path, benchmark):
    images = {"same.png": page(1), "small.jpg": page(2, 150), "large.jpg": page(3, 1000), "other.png": page(4)}
    images["plain.png"] = _flat()
    held = [{"id": name, "image": name, "question": "What?", "answer": "x"} for name in images]
    root = put(tmp_path / "raw", images | {"t.jsonl": held})
    samples, report = made(tmp_path, Spec("set", "json_columns"), root, against=[benchmark], max_bad_share=0.0)
    assert rejected(report) == {"contaminated_image": ["same.png", "small.jpg", "large.jpg"]}
    assert [sample.id for sample in samples] == ["other.png", "plain.png"]
    assert "benchmark sample bench/b2: " in report["rejected"]["contaminated_image"]["examples"][1]["message"]


def _flat() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 60), "white").save(buffer, "PNG")
    return buffer.getvalue()


def test_what_many_prompts_share_does_not_count(tmp_path):
    few = from_samples((f"b/{i}", ask(str(i), f"{i} {TEMPLATE}")) for i in range(COMMON))
    many = from_samples((f"b/{i}", ask(str(i), f"{i} {TEMPLATE}")) for i in range(COMMON + 1))
    with pytest.raises(BadSample):
        few.check("a", [Message("user", TEMPLATE)], [])
    many.check("a", [Message("user", TEMPLATE)], [])
    with pytest.raises(BadSample, match="b/3"):
        many.check("a", [Message("user", f"x 3 {TEMPLATE}")], [])


def test_hashes_are_kept_in_a_file_and_an_absent_benchmark_is_named(tmp_path, benchmark):
    made_of = from_samples([("b/1", ask("1", SHORT, page(1)))])
    made_of.save(tmp_path / "h.npz")
    for kept in (made_of, Benchmarks.load(tmp_path / "h.npz")):
        with pytest.raises(BadSample, match="b/1"):
            kept.check("a", [Message("user", SHORT)], [])
    from_samples([]).check("a", [Message("user", SHORT)], [None])
    with pytest.raises(DatasetError, match="no dataset here"):
        made(tmp_path, Spec("set", "json_columns"), tmp_path, against=[tmp_path / "none"])
