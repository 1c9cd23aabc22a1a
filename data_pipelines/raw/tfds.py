"""Datasets that TFDS has prepared as ArrayRecord files, read through `tfds.data_source`, without TensorFlow.

A directory is one that holds `dataset_info.json` and `features.json`, anywhere below the root. Images come as they were
encoded; texts as text; a sequence of structs as a list of them.

What TFDS would do at a directory's word is checked first: it imports the modules that `features.json` names, which may
lie beside the data, and opens the files that `dataset_info.json` names, wherever they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.raw.entry import LayoutError, Part, Record, Spec
from data_pipelines.raw.root import Root, load_json
from nvlm_jax.inputs.errors import BadSample

INFO = "dataset_info.json"
FEATURES = "features.json"
RECORDS = 256  # of a part
# Feature classes that decode what they hold themselves; others start programs (Audio, Video) or come with the data.
_HOME = "tensorflow_datasets.core.features."
SAFE_FEATURES = {
    *(_HOME + name for name in ("features_dict.FeaturesDict", "sequence_feature.Sequence", "text_feature.Text")),
    *(_HOME + name for name in ("image_feature.Image", "tensor_feature.Tensor", "scalar.Scalar")),
    *(_HOME + name for name in ("class_label_feature.ClassLabel", "bounding_boxes.BBoxFeature")),
}
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # as TFDS reads them, the last in its old format


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
    _check_directory(root, folder)
    import tensorflow_datasets as tfds  # here, because no other layout needs it

    class Encoded(tfds.decode.Decoder):
        """Leaves an image, or each of a sequence, as the bytes that it was stored as."""

        def decode_example(self, example: Any) -> Any:
            return example

        decode_example_np = decode_batch_example_np = decode_batch_example = decode_example

    try:
        builder = tfds.builder_from_directory(str(root.find(folder + INFO).parent))
        for file in builder.info.splits[spec.split].filepaths:
            root.find(os.path.relpath(file, root.path))
        images = {name: Encoded() for name, feature in builder.info.features.items() if _image(tfds, feature)}
        if nested := [n for n, f in builder.info.features.items() if n not in images and _has_image(tfds, f)]:
            raise BadSample(
                "wrong_field", f"feature {nested[0]!r} holds images within it; TFDS would decode them unchecked"
            )
        return builder.as_data_source(split=spec.split, decoders=images), builder.info
    except BadSample as error:
        raise LayoutError(f"{root.path}/{folder}{INFO}: split {spec.split!r}: {error}") from error
    except (ValueError, KeyError, NotImplementedError, OSError, AttributeError) as error:
        raise LayoutError(f"{root.path}/{folder}{INFO}: split {spec.split!r} is not readable: {error}") from error


def _check_directory(root: Root, folder: str) -> None:
    """Raises LayoutError if the directory names code to run, or holds what is no regular file below the root."""
    try:
        for name in sorted(os.listdir(root.path / folder)):
            if not (root.path / folder / name).is_dir():
                root.find(folder + name)
        classes = set(_class_names(load_json(root.find(folder + FEATURES))))
        file_format = load_json(root.find(folder + INFO)).get("fileFormat")
    except (BadSample, AttributeError) as error:
        raise LayoutError(f"{root.path}/{folder}: {error}") from error
    if foreign := sorted(classes - SAFE_FEATURES):
        shown = ", ".join(name.removeprefix(_HOME) for name in sorted(SAFE_FEATURES))
        what = f"feature class {foreign[0]!r:.200}, and code from data does not run"
        raise LayoutError(f"{root.path}/{folder}{FEATURES}: {what}; TFDS's own are read: {shown}")
    if file_format != "array_record":
        raise LayoutError(f"{root.path}/{folder}{INFO}: file format {file_format!r:.80}; array_record is read")


def _class_names(value: Any) -> Iterator[str]:
    """Every feature class that a features.json names, at any depth."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in CLASS_KEYS if isinstance(value.get(key), str))
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)


def _image(tfds: Any, feature: Any) -> bool:
    return isinstance(getattr(feature, "feature", feature), tfds.features.Image)


def _has_image(tfds: Any, feature: Any) -> bool:
    """Whether a feature is an image, or holds one at any depth."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return any(_has_image(tfds, inner) for inner in feature.values())
    if isinstance(feature, tfds.features.Sequence):
        return _has_image(tfds, feature.feature)
    return isinstance(feature, tfds.features.Image)


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
