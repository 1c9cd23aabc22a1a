"""Datasets that TFDS has prepared as ArrayRecord files, read through `tfds.data_source`, without TensorFlow.

A directory is one that holds `dataset_info.json` and `features.json`, anywhere below the root. Images come as they were
encoded; texts as text; a sequence of structs as a list of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.raw.entry import LayoutError, Part, Record, Spec
from data_pipelines.raw.root import Root
from nvlm_jax.inputs.errors import BadSample

INFO = "dataset_info.json"
RECORDS = 256  # of a part


def parts(root: Root, spec: Spec) -> list[Part]:
    """Stretches of the split of the one dataset below the root, or of that in the folder `spec.files`.

    Raises:
        LayoutError: none or several datasets, no such split, or files that are no ArrayRecord.
    """
    found = root.files(f"{spec.files.rstrip('/')}/{INFO}" if spec.files else f"**/{INFO}")
    if len(found) > 1:
        raise LayoutError(f"{root.path}: {len(found)} TFDS datasets; --files=FOLDER would name one of {found[:5]}")
    folder = found[0].removesuffix(INFO)
    source, info = _source(root, folder, spec)
    # A part is named by the split's first file, so that a change of the data is seen.
    file, size = folder + min(info.splits[spec.split].filenames), len(source)
    return [Part(file, start, min(start + RECORDS, size), start, RECORDS) for start in range(0, size, RECORDS)]


def records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """The examples of a part; one that cannot be read is a BadSample: `corrupt_block`."""
    folder = part.file[: part.file.rfind("/") + 1]
    source, info = _source(root, folder, spec)
    for number in range(part.start, part.stop):
        place = f"{folder}{spec.split}#{number}"
        try:
            yield place, _plain(source[number], info.features)
        except UnicodeDecodeError as error:
            yield place, BadSample("invalid_utf8", f"{place}: {error}")
        except (RuntimeError, ValueError, IndexError, OSError, KeyError) as error:
            yield place, BadSample("corrupt_block", f"{place}: {error}")


def _source(root: Root, folder: str, spec: Spec) -> tuple[Any, Any]:
    """The split as a random-access source, and what TFDS knows of the dataset."""
    import tensorflow_datasets as tfds  # here, because no other layout needs it

    class Encoded(tfds.decode.Decoder):
        """Leaves an image, or each of a sequence, as the bytes that it was stored as."""

        def decode_example(self, example: Any) -> Any:
            return example

        decode_example_np = decode_batch_example_np = decode_batch_example = decode_example

    try:
        builder = tfds.builder_from_directory(str(root.find(folder + INFO).parent))
        images = {name: Encoded() for name, feature in builder.info.features.items() if _image(tfds, feature)}
        return builder.as_data_source(split=spec.split, decoders=images), builder.info
    except (ValueError, KeyError, NotImplementedError, OSError, AttributeError) as error:
        raise LayoutError(f"{root.path}/{folder}{INFO}: split {spec.split!r} is not readable: {error}") from error


def _image(tfds: Any, feature: Any) -> bool:
    return isinstance(getattr(feature, "feature", feature), tfds.features.Image)


def _plain(value: Any, feature: Any) -> Any:
    """An example's values as a record has them."""
    inner = getattr(feature, "feature", None)  # of a sequence
    if isinstance(value, dict) and inner is not None:  # a sequence of structs, which TFDS keeps column by column
        columns = {name: _plain(column, inner[name]) for name, column in value.items()}
        count = len(next(iter(columns.values()), []))
        return [{name: column[i] for name, column in columns.items()} for i in range(count)]
    if isinstance(value, dict):
        return {name: _plain(item, feature[name]) for name, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item, inner or feature) for item in value]
    if isinstance(value, bytes) and type(feature).__name__ == "Text":
        return value.decode()
    if hasattr(feature, "int2str") and isinstance(value, int | np.integer):
        return feature.int2str(int(value)) if value >= 0 else ""
    return value.item() if isinstance(value, np.generic) else value
