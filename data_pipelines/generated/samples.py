"""Generated samples: a pure function of (variant, split, seed, index) and the options.

    qa         a page and several questions about it; with `reads`, transcriptions of some tiles among them, with
               `lists`, questions for several things at once
    described  as `qa`, the same pages and questions, with each tile's symbols in place of its pixels: trains a decoder;
               with `scramble`, that share of the words and numbers is not theirs but random
    dense      a page and what each of its cells shows, no conversation: trains a vision encoder
    text       questions without an image

`meta` holds plain lists and strings only. The same (split, seed, index, grids) gives the same page in every variant.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from data_pipelines.generated.glyphs import SPLITS
from data_pipelines.generated.pages import GRIDS, Page, layout, scrambled
from data_pipelines.generated.questions import Question, listed, page_questions, text_question, transcriptions
from data_pipelines.generated.render import render_png
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample

VARIANTS = ("qa", "described", "dense", "text")


def generate(
    variant: str,
    split: str,
    seed: int,
    index: int,
    *,
    grids: Sequence[tuple[int, int]] = GRIDS,
    questions: int = 8,
    reads: int = 0,
    lists: int = 0,
    scramble: float = 0.0,
    reference: str = "tag",
    tile: int = 64,
) -> Sample:
    """One sample.

    Args:
        variant: one of VARIANTS.
        split: `train` or `test`; they share no word, number, value or handwritten digit.
        seed: which of many data sets.
        index: which sample of it.
        grids: the page's grid (cols, rows) is one of these.
        questions: how many of them.
        reads: how many tiles are to be read out whole.
        lists: how many questions for several things at once.
        scramble: share of random texts among words and numbers; only without pixels.
        reference: how place questions name a tile: `tag` (`<tile_4>`) or `number` (`tile 4`).
        tile: pixels along a tile's side; the page is sized so that it is cut into its grid at this tile size.

    Raises:
        ValueError: an argument that is none of the named ones, or tiles too small to print in.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if not grids or not set(grids) <= set(GRIDS):
        raise ValueError(f"grids must be some of {GRIDS}, not {grids!r}")
    if scramble and variant != "described":
        raise ValueError(f"scramble is for the variant 'described', not {variant!r}")
    key = f"{split}-{seed}-{index}"
    question_rng = random.Random(f"questions-{key}")
    if variant == "text":
        asked = [text_question(question_rng, split) for _ in range(questions)]
        return Sample(f"text-{key}", _conversation(asked), meta=_answers(asked))

    page = layout(random.Random(f"page-{key}"), split, grids)
    if scramble:
        page = scrambled(random.Random(f"scramble-{key}"), page, scramble)
    meta: dict[str, Any] = {"grid": list(page.grid)}
    if variant == "dense":
        return Sample(f"dense-{key}", (), (_image(page, key, tile),), meta | {"dense": [page.dense()]})
    asked = transcriptions(question_rng, page, reads, reference) if reads else []
    asked += listed(question_rng, page, lists, reference)
    asked += page_questions(question_rng, page, questions, reference)
    # A later answer can often be copied from an earlier one: were lists first, a model would look up nothing but them.
    question_rng.shuffle(asked)
    messages, meta = _conversation(asked, IMAGE_PLACEHOLDER + "\n"), meta | _answers(asked)
    if variant == "described":
        return Sample(f"described-{key}", messages, (), meta | {"described": [page.described()]})
    return Sample(f"{variant}-{key}", messages, (_image(page, key, tile),), meta)


class GeneratedSource:
    """`size` generated samples as a random-access source, which is what Grain reads."""

    def __init__(self, variant: str, split: str, seed: int, size: int, **options: Any):
        self._arguments = (variant, split, seed)
        self._size = size
        self._options = options
        generate(*self._arguments, 0, **options)  # a wrong argument fails here, not in a worker

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"sample {index} of {self._size}")
        return generate(*self._arguments, int(index), **self._options)

    def __repr__(self) -> str:
        return f"GeneratedSource{(*self._arguments, self._size)} with {self._options}"


def _conversation(asked: Sequence[Question], first: str = "") -> tuple[Message, ...]:
    messages = []
    for question in asked:
        messages += [Message("user", first + question.text), Message("assistant", question.answer, question.type)]
        first = ""
    return tuple(messages)


def _answers(asked: Sequence[Question]) -> dict[str, list[str]]:
    return {
        "types": [question.type for question in asked],
        "kinds": [question.kind for question in asked],
        "answers": [question.answer for question in asked],
    }


def _image(page: Page, key: str, tile: int) -> bytes:
    return render_png(random.Random(f"drawing-{key}"), page, tile)
