"""Every layout that a raw dataset may have, by the name that a blend's config gives it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator

from data_pipelines.faults import fault_of
from data_pipelines.raw import chats, lines, pdfs, records, tables, tars, tfds
from data_pipelines.raw.entry import Entry, LayoutError, Part, Record, Spec
from data_pipelines.raw.fields import entry_id
from data_pipelines.raw.public import charts, documents, natural, science
from data_pipelines.raw.public.grouping import Found
from data_pipelines.raw.root import Root
from data_pipelines.raw.values import without_missing
from nvlm_jax.inputs.errors import BadSample


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A layout whose records hold, or name, all of a sample. Parts are read where they are needed."""

    parts: Callable[[Root, Spec], list[Part]]
    records: Callable[[Root, Part, Spec], Iterator[tuple[str, Record | BadSample]]]
    entry: Callable[[str, Record, Spec], Entry]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A layout whose annotations lie in few files, apart from the images: they are read once, whole."""

    entries: Callable[[Root, Spec], Iterator[Found]]


# What `Spec.fields` may name, of one layout or another.
FIELDS = (
    *("image", "question", "answer", "choices", "context", "correct", "conversations", "texts", "system", "id"),
    *("folder", "place_images", "ignore", "year", "images"),
)
LAYOUTS: dict[str, Streamed | Annotated] = {
    # of any dataset
    "json_conversations": Streamed(lines.parts, lines.records, chats.from_conversation),
    "json_columns": Streamed(lines.parts, lines.records, records.from_columns),
    "json_pairs": Streamed(lines.parts, lines.records, records.from_pairs),
    "table_conversations": Streamed(tables.hub_parts, tables.hub_records, chats.from_conversation),
    "table_columns": Streamed(tables.hub_parts, tables.hub_records, records.from_columns),
    "table_pairs": Streamed(tables.hub_parts, tables.hub_records, records.from_pairs),
    "tar_conversations": Streamed(tars.parts, tars.records, chats.from_conversation),
    "tar_columns": Streamed(tars.parts, tars.records, records.from_columns),
    "tfds_conversations": Streamed(tfds.parts, tfds.records, chats.from_conversation),
    "tfds_columns": Streamed(tfds.parts, tfds.records, records.from_columns),
    "pdf_pages": Streamed(pdfs.parts, pdfs.records, pdfs.from_page),
    # of one dataset
    "coco_captions": Annotated(natural.coco_captions),
    "vqav2": Annotated(natural.vqav2),
    "gqa": Annotated(natural.gqa),
    "visual_genome": Annotated(natural.visual_genome),
    "tallyqa": Annotated(natural.tallyqa),
    "textvqa": Annotated(documents.textvqa),
    "docvqa": Annotated(documents.docvqa),
    "infographicvqa": Annotated(documents.infographicvqa),
    "ocrvqa": Annotated(documents.ocrvqa),
    "chartqa": Annotated(charts.chartqa),
    "dvqa": Annotated(charts.dvqa),
    "ai2d": Annotated(science.ai2d),
    "scienceqa": Annotated(science.scienceqa),
}


def layout_of(spec: Spec) -> Streamed | Annotated:
    """Raises LayoutError for an unknown name, and for a field that no layout reads."""
    if spec.layout not in LAYOUTS:
        raise LayoutError(f"{spec.name}: no layout {spec.layout!r}; there are {', '.join(LAYOUTS)}")
    for field in spec.fields:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, 1)
            right = f"{near[0]!r} would be near" if near else f"there are {', '.join(FIELDS)}"
            raise LayoutError(f"{spec.name}: nothing reads a field {field!r}; {right}")
    return LAYOUTS[spec.layout]


def annotated_entries(root: Root, spec: Spec) -> Iterator[Found]:
    """All entries of an annotated layout.

    Raises:
        LayoutError: a file, or a field that every record of its dataset has, is missing.
    """
    try:
        yield from layout_of(spec).entries(root, spec)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, LayoutError):
            raise
        raise LayoutError(f"{root.path}: not the layout {spec.layout!r}: {type(error).__name__}: {error}") from error


def streamed_entries(root: Root, part: Part, spec: Spec) -> Iterator[Found]:
    """The entries of a part of a streamed layout. A bad record is a Fault, named by its place."""
    layout = layout_of(spec)
    try:
        for place, record in layout.records(root, part, spec):
            yield record_entry(layout, place, record, spec)
    except Exception as error:  # a file that cannot be read at all; the next part is read
        yield fault_of(f"{part.file}#{part.first}", error)


def record_entry(layout: Streamed, place: str, record: Record | BadSample, spec: Spec) -> Found:
    """The record's entry, or the Fault that it stands for."""
    if isinstance(record, BadSample):
        return fault_of(place, record)
    record = without_missing(record)
    try:
        return layout.entry(place, record, spec)
    except Exception as error:  # whatever a record holds, the next one is read
        return fault_of(entry_id(place, record, spec), error)


def with_own_fields(root: Root, spec: Spec) -> Spec:
    """The spec, with what the dataset itself says of its fields where the spec says nothing (Energon's field map)."""
    if layout_of(spec) not in (LAYOUTS["tar_columns"], LAYOUTS["tar_conversations"]):
        return spec
    return dataclasses.replace(spec, fields={**tars.energon_fields(root), **spec.fields})
