"""Every benchmark's published layouts in miniature, made of generated pages, into a directory of benchmarks.

    write(data, "docvqa", "parquet")     -> data/docvqa/DocVQA/validation-00000-of-00001.parquet
    python -m tests.evaluation.benchmarks.miniature DIR     the first layout of each

A page's picture, its question and its answer stand in for the benchmark's own; columns, types, names and encodings are
those of the published files, and so is what is untidy in them: labels that look like lists, ids that repeat, formulas
in brackets, line breaks and quotes in cells.
"""

from __future__ import annotations

import base64
import csv
import functools
import gzip
import io
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
from PIL import Image

from data_pipelines.generated.samples import GeneratedSource

COUNT = 6


class Page(NamedTuple):
    """One question about a generated page."""

    picture: bytes  # PNG
    text: str
    answer: str


@functools.cache
def pages() -> tuple[Page, ...]:
    source = GeneratedSource("qa", "test", 0, COUNT, grids=((2, 1), (1, 1)))
    found = []
    for i in range(COUNT):
        sample = source[i]
        text = sample.messages[0].content.replace("<image>\n", "")
        found.append(Page(sample.images[0], text, sample.meta["answers"][0]))
    return tuple(found)


def cell(picture: bytes, name: str = "x.png") -> dict[str, Any]:
    return {"bytes": picture, "path": name}


IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def parquet(path: pathlib.Path, rows: Sequence[dict[str, Any]], **types: pyarrow.DataType) -> None:
    """Rows as a Parquet file; `types` are those that cannot be told from the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: pyarrow.array([row[name] for row in rows], types.get(name)) for name in rows[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def tsv(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def dump(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def save(path: pathlib.Path, picture: bytes) -> None:
    """The picture in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(picture)).convert("RGB").save(path)


def base64_of(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


# ---- benchmarks with pictures

LISTS = ("[2017, 2023]", "[Aland, Borduria]")  # ChartQA's labels of several things are plain texts
FORMULA = "[ \\arccos \\frac { 1 } { 4 } , \\pi ]\n"  # an answer of OCRBench


def label(i: int, page: Page) -> str:
    """What ChartQA says is right."""
    return LISTS[i - 1] if i in (1, 2) else page.answer


def docvqa_parquet(root: pathlib.Path, split: str = "validation") -> None:
    rows = [
        {
            "questionId": str(1000 + i),
            "question": page.text,
            "question_types": ["handwritten", "form"],
            "image": cell(page.picture),
            "docId": 10 + i // 2,
            "ucsf_document_id": "xnbl0037",
            "ucsf_document_page_no": "1",
            "answers": [page.answer, page.answer.lower(), "[sic]"] if split == "validation" else None,
            "data_split": split,
        }
        for i, page in enumerate(pages())
    ]
    parquet(root / f"DocVQA/{split}-00000-of-00001.parquet", rows, answers=pyarrow.list_(pyarrow.string()))


def docvqa_challenge(root: pathlib.Path, split: str = "val") -> None:
    rows = []
    for i, page in enumerate(pages()):
        save(root / f"documents/xnbl0037_{i}.png", page.picture)
        row = {
            "questionId": 1000 + i,
            "question": page.text,
            "image": f"documents/xnbl0037_{i}.png",
            "docId": 14465,
            "ucsf_document_id": "xnbl0037",
            "ucsf_document_page_no": "1",
            "data_split": split,
        }
        rows.append(row | ({"answers": [page.answer], "question_types": ["form"]} if split == "val" else {}))
    content = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": split, "data": rows}
    dump(root / f"{split}_v1.0{'_withQT' if split == 'val' else ''}.json", content)


def docvqa_tsv(root: pathlib.Path) -> None:
    rows = [
        {"index": i, "question": page.text, "answer": repr([page.answer, "it's"]), "image": base64_of(page.picture)}
        for i, page in enumerate(pages())
    ]
    tsv(root / "DocVQA_VAL.tsv", rows)


def vqav2_json(root: pathlib.Path, split: str = "val") -> None:
    name, folder = ("val2014", "val2014") if split == "val" else ("test-dev2015", "test2015")
    questions, annotations = [], []
    for i, page in enumerate(pages()):
        id, image = 262148000 + i, 262148 + i // 2
        save(root / folder / f"COCO_{folder}_{image:012}.jpg", page.picture)
        questions.append({"image_id": image, "question": page.text, "question_id": id})
        answers = [{"answer": page.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)]
        annotations.append(
            {"question_type": "what is", "multiple_choice_answer": page.answer, "answers": answers, "image_id": image}
            | {"answer_type": "other", "question_id": id}
        )
    about = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": name}
    dump(root / f"v2_OpenEnded_mscoco_{name}_questions.json", about | {"questions": questions})
    if split == "val":
        dump(root / f"v2_mscoco_{name}_annotations.json", about | {"annotations": annotations})


def vqav2_parquet(root: pathlib.Path, split: str = "validation") -> None:
    rows = [
        {
            "question_type": "what is",
            "multiple_choice_answer": page.answer,
            "answers": [{"answer": page.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)],
            "image_id": 262148 + i,
            "answer_type": "other",
            "question_id": 262148000 + i,
            "question": page.text,
            "image": cell(page.picture),
        }
        for i, page in enumerate(pages())
    ]
    if split == "testdev":
        for row in rows:
            row |= {"question_type": None, "multiple_choice_answer": None, "answers": None, "answer_type": None}
    parquet(root / f"data/{split}-00000-of-00001.parquet", rows)


def textvqa_json(root: pathlib.Path) -> None:
    rows = []
    for i, page in enumerate(pages()):
        image = f"003a8ae2ef43b90{i}"
        save(root / f"train_images/{image}.jpg", page.picture)
        rows.append(
            {"question": page.text, "image_id": image, "image_classes": ["Page"], "flickr_original_url": "https://x"}
            | {"image_width": 64, "image_height": 64, "answers": [page.answer] * 10, "question_id": 34602 + i}
            | {"question_tokens": page.text.split(), "set_name": "val"}
        )
    content = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows}
    dump(root / "TextVQA_0.5.1_val.json", content)


def textvqa_parquet(root: pathlib.Path) -> None:
    rows = [
        {"image_id": f"003a8ae2ef43b90{i}", "question_id": 34602 + i, "question": page.text}
        | {"image": cell(page.picture)}
        | {"answers": [page.answer] * 10, "image_classes": ["Page"], "set_name": "val", "ocr_tokens": ["x"]}
        for i, page in enumerate(pages())
    ]
    parquet(root / "data/validation-00000-of-00001.parquet", rows)


def textvqa_tsv(root: pathlib.Path) -> None:
    rows = [
        {"index": i, "image": base64_of(page.picture), "question": page.text, "answer": repr([page.answer] * 10)}
        for i, page in enumerate(pages())
    ]
    tsv(root / "TextVQA_VAL.tsv", rows)


def chartqa_folder(root: pathlib.Path) -> None:
    for part in ("human", "augmented"):
        rows = []
        for i, page in enumerate(pages()):
            save(root / f"ChartQA Dataset/test/png/{part}_{i}.png", page.picture)
            rows.append({"imgname": f"{part}_{i}.png", "query": page.text, "label": label(i, page)})
        dump(root / f"ChartQA Dataset/test/test_{part}.json", rows)


def chartqa_parquet(root: pathlib.Path) -> None:
    rows = [
        {"type": f"{part}_test", "question": page.text, "answer": label(i, page), "image": cell(page.picture)}
        for part in ("human", "augmented")
        for i, page in enumerate(pages())
    ]
    for n, half in enumerate((rows[:COUNT], rows[COUNT:])):
        parquet(root / f"data/test-0000{n}-of-00002-e2cd0b7a0f9eb20d.parquet", half)


def chartqa_m4(root: pathlib.Path) -> None:
    rows = [
        {"image": cell(page.picture), "query": page.text, "label": [label(i, page)], "human_or_machine": part}
        for part in (0, 1)
        for i, page in enumerate(pages())
    ]
    parquet(root / "data/test-00000-of-00001.parquet", rows)


def chartqa_tsv(root: pathlib.Path) -> None:
    """Rows of the second split name the picture of the first."""
    rows = [
        {"index": i + COUNT * n, "image": i if n else base64_of(page.picture), "question": page.text}
        | {"answer": label(i, page), "split": f"test_{part}"}
        for n, part in enumerate(("human", "augmented"))
        for i, page in enumerate(pages())
    ]
    tsv(root / "ChartQA_TEST.tsv", rows)


PARTS = ("Regular Text Recognition", "Doc-oriented VQA", "Handwritten Mathematical Expression Recognition")
SOURCES = ("IIIT5K", "docVQA", "HME100k")


def reading(i: int, page: Page) -> str:
    """What OCRBench says is right."""
    return FORMULA if i == 5 else page.answer


def ocrbench_parquet(root: pathlib.Path) -> None:
    rows = [
        {"dataset": SOURCES[i % 3], "question": page.text, "question_type": PARTS[i % 3], "answer": [reading(i, page)]}
        | {"image": cell(page.picture)}
        for i, page in enumerate(pages())
    ]
    parquet(root / "data/test-00000-of-00001.parquet", rows)


def ocrbench_json(root: pathlib.Path) -> None:
    rows = []
    for i, page in enumerate(pages()):
        save(root / f"OCRBench_Images/{SOURCES[i % 3]}/{i}.jpg", page.picture)
        rows.append(
            {"dataset_name": SOURCES[i % 3], "type": PARTS[i % 3], "id": 7 + i // 2, "question": page.text}
            | {"answers": reading(i, page) if i % 2 else [page.answer], "image_path": f"{SOURCES[i % 3]}/{i}.jpg"}
        )
    dump(root / "OCRBench/OCRBench.json", rows)
    (root / "OCRBench_Images").rename(root / "OCRBench/OCRBench_Images")


def ocrbench_tsv(root: pathlib.Path) -> None:
    rows = [
        {"index": i, "image": base64_of(page.picture), "question": page.text, "answer": repr([reading(i, page)])}
        | {"category": PARTS[i % 3]}
        for i, page in enumerate(pages())
    ]
    tsv(root / "OCRBench.tsv", rows)


def realworldqa_parquet(root: pathlib.Path) -> None:
    parquet(root / "data/test-00000-of-00002.parquet", _realworldqa()[:3])
    parquet(root / "data/test-00001-of-00002.parquet", _realworldqa()[3:])


def _realworldqa() -> list[dict[str, Any]]:
    rows = []
    for i, page in enumerate(pages()):
        text, answer = page.text + "\nPlease answer directly with a single word or number.", page.answer
        if i % 2:
            text = f"{page.text}\n\nA. {page.answer}\nB. nothing\nPlease answer directly with only the letter."
            answer = "A"
        rows.append({"image": cell(page.picture, f"{i}.webp"), "question": text, "answer": answer})
    return rows


def realworldqa_json(root: pathlib.Path) -> None:
    rows = _realworldqa()
    for i, row in enumerate(rows):
        save(root / f"{i}.webp", row["image"]["bytes"])
        row["image"] = f"{i}.webp"
    dump(root / "annotations.json", rows)


def realworldqa_tsv(root: pathlib.Path) -> None:
    rows = [
        {"index": i, "image": base64_of(page.picture), "question": page.text, "answer": "A", "A": page.answer}
        | {"B": "nothing", "C": "", "D": ""}
        for i, page in enumerate(pages())
    ]
    tsv(root / "RealWorldQA.tsv", rows)


def _options(i: int, answer: str) -> tuple[list[str], int]:
    options = ["nothing at all", "a blank", "some bar", "one table"]
    options[i % 4] = answer
    return options, i % 4


def ai2d_parquet(root: pathlib.Path) -> None:
    rows = []
    for i, page in enumerate(pages()):
        options, right = _options(i, page.answer)
        rows.append({"question": page.text, "options": options, "answer": str(right), "image": cell(page.picture)})
    parquet(root / "data/test-00000-of-00001.parquet", rows)


def ai2d_tsv(root: pathlib.Path, name: str = "AI2D_TEST.tsv") -> None:
    rows = []
    for i, page in enumerate(pages()):
        options, right = _options(i, page.answer)
        row = {"index": i, "image": base64_of(page.picture), "question": page.text, "answer": "ABCD"[right]}
        rows.append(row | dict(zip("ABCD", options, strict=True)) | {"category": "foodChains"})
    tsv(root / name, rows)


def mmmu_parquet(root: pathlib.Path) -> None:
    for subject in ("Accounting", "Art"):
        rows = []
        for i, page in enumerate(pages()):
            options, right = _options(i, page.answer)
            row = {"id": f"validation_{subject}_{i + 1}", "question": f"<image 1> {page.text}", "explanation": ""}
            row |= {"options": str(options), "answer": "ABCD"[right], "question_type": "multiple-choice"}
            if i == 0:
                answer = page.answer if subject == "Art" else repr([page.answer, "[0, 1)"])
                row |= {"options": "[]", "answer": answer, "question_type": "open"}
            if i == 1:
                row |= {"options": str(["<image 2>", *options[1:3]]), "answer": "B"}
            images = {f"image_{n}": None for n in range(1, 8)} | {"image_1": cell(page.picture)}
            images |= {"image_2": cell(pages()[0].picture)} if i == 1 else {}
            rows.append(row | images | {"img_type": "['Tables']", "topic_difficulty": "Easy", "subfield": "Managerial"})
        types = {f"image_{n}": IMAGE for n in range(1, 8)}
        parquet(root / f"{subject}/validation-00000-of-00001.parquet", rows, **types)
        parquet(root / f"{subject}/dev-00000-of-00001.parquet", rows[:1], **types)


def mmmu_tsv(root: pathlib.Path) -> None:
    rows = []
    for i, page in enumerate(pages()):
        options, right = _options(i, page.answer)
        row = {"index": i, "id": f"validation_Art_{i}", "question": f"<image 1> {page.text}", "answer": "ABCD"[right]}
        row |= {"image": base64_of(page.picture), "category": "Art", "split": "validation" if i else "dev"}
        if i == 1:
            row |= {"image": repr([base64_of(page.picture)] * 2), "question": f"<image 1> or <image 2>? {page.text}"}
        rows.append(row | dict(zip("ABCD", options, strict=True)))
    tsv(root / "MMMU_DEV_VAL.tsv", rows)


def _mathvista(i: int, page: Page) -> dict[str, Any]:
    kinds = (
        ("multi_choice", "text", None, [page.answer, "nothing"], page.answer),
        ("free_form", "integer", None, None, "1250"),
        ("free_form", "float", 1.0, None, "1.5"),
        ("free_form", "list", None, None, "[0, 2, 5]"),
        ("free_form", "text", None, None, page.answer),
    )
    question_type, answer_type, precision, choices, answer = kinds[i % 5]
    return {
        "question": page.text, "choices": choices, "unit": None, "precision": precision, "answer": answer,
        "question_type": question_type, "answer_type": answer_type,
    }  # fmt: skip


def mathvista_parquet(root: pathlib.Path) -> None:
    rows = []
    for i, page in enumerate(pages()):
        row = {"pid": str(i + 1), "image": f"images/{i + 1}.jpg", "decoded_image": cell(page.picture, f"{i + 1}.jpg")}
        metadata = {"category": "math-targeted-vqa", "task": "figure question answering", "skills": ["arithmetic"]}
        query = f"Hint: answer as asked.\nQuestion: {page.text}"
        rows.append(row | _mathvista(i, page) | {"metadata": metadata, "query": query})
    parquet(root / "data/testmini-00000-of-00001-725687bf7a18d64b.parquet", rows, unit=pyarrow.string())


def mathvista_tsv(root: pathlib.Path) -> None:
    rows = []
    for i, page in enumerate(pages()):
        row = _mathvista(i, page)
        row |= {"choices": repr(row["choices"]) if row["choices"] else "", "task": "figure question answering"}
        row["precision"] = "" if row["precision"] is None else row["precision"]
        rows.append({"index": i + 1, "image": base64_of(page.picture)} | row)
    tsv(root / "MathVista_MINI.tsv", rows)


# ---- benchmarks without


def _mmlu(subject: str, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f'What is\n"{i} + {i}", then?' if i == 4 else f"What is {i} + {i}?", "subject": subject}
        | {"choices": [str(2 * i + n - 1) for n in range(4)]}
        | {"answer": 1}
        for i in range(count)
    ]


SUBJECTS = ("abstract_algebra", "us_foreign_policy")


def mmlu_parquet(root: pathlib.Path) -> None:
    parquet(root / "all/test-00000-of-00001.parquet", [row for s in SUBJECTS for row in _mmlu(s, 3)])
    parquet(root / "all/dev-00000-of-00001.parquet", [row for s in SUBJECTS for row in _mmlu(s, 5)])


def mmlu_csv(root: pathlib.Path) -> None:
    for split, count in (("test", 3), ("dev", 5)):
        for subject in SUBJECTS:
            path = root / f"data/{split}/{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                for row in _mmlu(subject, count):
                    csv.writer(file).writerow([row["question"], *row["choices"], "B"])


GSM8K = [
    {"question": f"Ann has {i} pens.", "answer": f"She has {i - 1} + 1 = <<{i - 1}+1={i}>>{i}.\n#### {i:,}"}
    for i in (7, 1200, 30)
]


def gsm8k_parquet(root: pathlib.Path) -> None:
    parquet(root / "main/test-00000-of-00001.parquet", GSM8K)


def gsm8k_jsonl(root: pathlib.Path) -> None:
    path = root / "grade_school_math/data/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))


MATH = [
    {"problem": "Halve 1.", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
    {"problem": "Add.", "level": "Level 2", "type": "Algebra", "solution": "So $\\boxed 5$."},
    {"problem": "Root.", "level": "Level 5", "type": "Geometry", "solution": "Then $\\fbox{\\sqrt{2}}$."},
]


def math_parquet(root: pathlib.Path) -> None:
    parquet(root / "algebra/test-00000-of-00001.parquet", MATH[:2])
    parquet(root / "geometry/test-00000-of-00001.parquet", MATH[2:])


def math_json(root: pathlib.Path) -> None:
    for i, row in enumerate(MATH):
        dump(root / f"MATH/test/{row['type'].lower()}/{i}.json", row)


def math500_jsonl(root: pathlib.Path) -> None:
    root.mkdir(parents=True)
    rows = [
        {"problem": row["problem"], "solution": row["solution"], "answer": answer, "subject": row["type"]}
        | {"level": int(row["level"][-1]), "unique_id": f"test/{row['type'].lower()}/{i}.json"}
        for i, (row, answer) in enumerate(zip(MATH, ("\\frac{1}{2}", "5", "\\sqrt{2}"), strict=True))
    ]
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


HUMANEVAL = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": (
            "from typing import List\n\n\ndef helper(x):\n    return x\n\n\n"
            f'def {name}(xs: List[int]) -> int:\n    """{text}"""\n'
        ),
        "canonical_solution": f"    return helper({body})\n",
        "test": f"\n\nMETADATA = {{}}\n\n\ndef check(candidate):\n    assert candidate([3, 1]) == {true}\n",
        "entry_point": name,
    }
    for i, (name, text, body, true) in enumerate(
        (("total", "Add all.", "sum(xs)", 4), ("largest", "The largest.", "max(xs)", 3))
    )
]  # fmt: skip


def humaneval_parquet(root: pathlib.Path) -> None:
    parquet(root / "openai_humaneval/test-00000-of-00001.parquet", HUMANEVAL)


def humaneval_jsonl(root: pathlib.Path) -> None:
    root.mkdir(parents=True)
    with gzip.open(root / "HumanEval.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in HUMANEVAL)


Writer = Callable[[pathlib.Path], None]
LAYOUTS: dict[str, dict[str, Writer]] = {
    "ai2d": {"parquet": ai2d_parquet, "tsv": ai2d_tsv},
    "ai2d_no_mask": {"parquet": ai2d_parquet, "tsv": functools.partial(ai2d_tsv, name="AI2D_TEST_NO_MASK.tsv")},
    "chartqa": {"folder": chartqa_folder, "parquet": chartqa_parquet, "m4": chartqa_m4, "tsv": chartqa_tsv},
    "docvqa": {"parquet": docvqa_parquet, "challenge": docvqa_challenge, "tsv": docvqa_tsv},
    "docvqa_test": {
        "parquet": functools.partial(docvqa_parquet, split="test"),
        "challenge": functools.partial(docvqa_challenge, split="test"),
    },
    "gsm8k": {"parquet": gsm8k_parquet, "jsonl": gsm8k_jsonl},
    "humaneval": {"parquet": humaneval_parquet, "jsonl": humaneval_jsonl},
    "math": {"parquet": math_parquet, "json": math_json},
    "math500": {"jsonl": math500_jsonl},
    "mathvista": {"parquet": mathvista_parquet, "tsv": mathvista_tsv},
    "mmlu": {"parquet": mmlu_parquet, "csv": mmlu_csv},
    "mmmu": {"parquet": mmmu_parquet, "tsv": mmmu_tsv},
    "ocrbench": {"parquet": ocrbench_parquet, "json": ocrbench_json, "tsv": ocrbench_tsv},
    "realworldqa": {"parquet": realworldqa_parquet, "json": realworldqa_json, "tsv": realworldqa_tsv},
    "textvqa": {"json": textvqa_json, "parquet": textvqa_parquet, "tsv": textvqa_tsv},
    "vqav2": {"json": vqav2_json, "parquet": vqav2_parquet},
    "vqav2_testdev": {
        "json": functools.partial(vqav2_json, split="testdev"),
        "parquet": functools.partial(vqav2_parquet, split="testdev"),
    },
}
FOLDERS = {"docvqa_test": "docvqa", "vqav2_testdev": "vqav2"}


def write(data: pathlib.Path, name: str, layout: str | None = None) -> pathlib.Path:
    """Write one layout (default: the first) of a benchmark; its folder."""
    root = data / FOLDERS.get(name, name)
    layouts = LAYOUTS[name]
    layouts[layout or next(iter(layouts))](root)
    return root


if __name__ == "__main__":
    for benchmark in LAYOUTS:
        print(write(pathlib.Path(sys.argv[1]), benchmark))
