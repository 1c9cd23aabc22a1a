"""What lmms-eval calls for nvlm_pages.yaml. As a program it writes the task's file, pages.parquet, to a directory."""

import io
import pathlib
import sys

from PIL import Image


def doc_to_visual(doc):
    return [Image.open(io.BytesIO(doc["image"])).convert("RGB")]


def doc_to_text(doc, kwargs=None):
    return doc["question"]


def process_results(doc, results):
    return {"accuracy": float(results[0].strip() == doc["answer"])}


def write_pages(dataset: str, out: str, number: int) -> None:
    """The first question of each of the first `number` pages of an embedded dataset."""
    import pyarrow
    import pyarrow.parquet

    from data_pipelines.records import RecordSource

    source, rows = RecordSource(dataset), []
    for i in range(number):
        question, answer = source[i].messages[:2]
        text = question.content.replace("<image>", "").strip()
        rows.append({"id": i, "image": source[i].images[0], "question": text, "answer": answer.content})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), pathlib.Path(out) / "pages.parquet")


if __name__ == "__main__":
    write_pages(sys.argv[1], sys.argv[2], int(sys.argv[3]))
