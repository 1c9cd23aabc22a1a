"""Questions about a generated page, and text-only ones, with their answers.

Every question has a *type*, the group that a report shows, and a *kind*: `content` questions name what to look for
and can be answered wherever it stands, `place` questions name a tile, so they need to know which tile is which.
Texts are lower case and contents are quoted as the page's symbols, a labelled one behind its label: `kFOX`. In a place
question the row and column come before the tile: a model whose tag token reads the tile then already knows what to read
there.
"""

from __future__ import annotations

import dataclasses
import random
import string

from data_pipelines.generated import glyphs
from data_pipelines.generated.pages import BLANK, BODY, CELLS, Page

KIND_OF_TYPE = {
    "word": "content",
    "number": "content",
    "bar": "content",
    "count": "content",
    "cell": "place",
    "line": "place",
    "text": "text",
    "read": "place",
}
ASK_CONTENT = {
    "word": "what word is at [{}]?",
    "number": "what number is at [{}]?",
    "bar": "what is the value of bar [{}]?",
}
ASK_COUNT = "how many {}s are on the page?"
ASK_CELL = "what is in row {} column {} of {}?"
ASK_LINE = "what is at row {} of {}?"
ASK_READ = "read {}."

TEXT_ENTRY = "{}{}"  # as on a page: a label and what stands behind it
ASK_TEXT = {
    "lookup": "{}. what is at [{}]?",
    "backwards": "spell {} backwards.",
    "first": "what is the first letter of {}?",
    "last": "what is the last letter of {}?",
    "larger": "which is larger, {} or {}?",
    "copy": "repeat {}.",
}

COUNT_SHARE = 0.06
CONTENT_SHARE = 0.57  # with the counts a little above 60 %, less what small pages cannot give
CELL_SHARE = 0.55  # of the place questions; the others ask for a line
BARE_CELL_SHARE = 0.05  # of the questions about a cell: a blank one or a bar's body


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and its answer. `type` is a key of KIND_OF_TYPE."""

    type: str
    text: str
    answer: str

    @property
    def kind(self) -> str:
        return KIND_OF_TYPE[self.type]


def tile_name(page: Page, tile: int, reference: str) -> str:
    """What a question calls tile `tile` (from 0): its 1-D tag, or `tile 4` where the model gets no tags.

    A page of one tile has only the thumbnail's tag.
    """
    if reference == "number":
        return f"tile {tile + 1}"
    if reference == "tag":
        return f"<tile_{tile + 1}>" if page.tiles > 1 else "<tile_global_thumbnail>"
    raise ValueError(f"reference must be 'tag' or 'number', not {reference!r}")


def page_questions(rng: random.Random, page: Page, count: int, reference: str = "tag") -> list[Question]:
    """`count` different questions about a page; fewer only if the page has no more to ask."""
    pools = _pools(page, reference)
    for pool in pools.values():
        rng.shuffle(pool)
    asked = []
    while len(asked) < count and any(pools.values()):
        asked.append(pools[_draw_pool(rng, pools)].pop())
    return asked


def transcriptions(rng: random.Random, page: Page, count: int, reference: str = "tag") -> list[Question]:
    """Up to `count` of the page's tiles in random order, each to be read out whole: all its symbols, row by row."""
    described = page.described()
    tiles = rng.sample(range(page.tiles), min(count, page.tiles))
    return [Question("read", ASK_READ.format(tile_name(page, tile, reference)), described[tile]) for tile in tiles]


def text_question(rng: random.Random, split: str) -> Question:
    """A question that needs no page, on the split's words and numbers."""
    task = rng.choice(("lookup", "lookup", "lookup", "backwards", "first", "last", "larger", "copy"))
    ask = ASK_TEXT[task]
    if task == "lookup":
        labels = rng.sample(string.ascii_lowercase, rng.randint(2, 5))
        entries = {label: _word_or_number(rng, split) for label in labels}
        wanted = rng.choice(labels)
        listed = ",".join(TEXT_ENTRY.format(label, text) for label, text in entries.items())
        return Question("text", ask.format(listed, wanted), wanted + entries[wanted])
    if task == "larger":
        first, second = rng.sample(rng.choice((glyphs.numbers, glyphs.values))(split), 2)
        return Question("text", ask.format(first, second), max(first, second))
    if task == "copy":
        copied = " ".join(_word_or_number(rng, split) for _ in range(rng.randint(1, 3)))
        return Question("text", ask.format(copied), copied)
    word = rng.choice(glyphs.words(split))
    answer = {"backwards": word[::-1], "first": word[0], "last": word[-1]}[task]
    return Question("text", ask.format(word), answer)


def _pools(page: Page, reference: str) -> dict[str, list[Question]]:
    """All that can be asked about a page, by type; `bare` holds the cells that show no character."""
    pools: dict[str, list[Question]] = {name: [] for name in ("word", "number", "bar", "count", "cell", "line", "bare")}
    for element in page.elements:
        if element.kind in ASK_CONTENT:
            pools[element.kind].append(
                Question(element.kind, ASK_CONTENT[element.kind].format(element.label), element.label + element.text)
            )
        if element.kind in ("word", "number"):
            name = tile_name(page, element.tile, reference)
            pools["line"].append(Question("line", ASK_LINE.format(element.row + 1, name), element.label + element.text))
    for tile, symbols in enumerate(page.described()[: page.tiles]):
        name = tile_name(page, tile, reference)
        for cell, symbol in enumerate(symbols):
            if symbol not in string.ascii_lowercase:
                pool = "bare" if symbol in (BLANK, BODY) else "cell"
                text = ASK_CELL.format(cell // CELLS + 1, cell % CELLS + 1, name)
                pools[pool].append(Question("cell", text, symbol))
    for kind in ("word", "number", "bar"):
        pools["count"].append(Question("count", ASK_COUNT.format(kind), str(len(pools[kind]))))
    return pools


def _draw_pool(rng: random.Random, pools: dict[str, list[Question]]) -> str:
    draw = rng.random()
    place = ["cell", "line"] if rng.random() < CELL_SHARE else ["line", "cell"]
    if place[0] == "cell" and rng.random() < BARE_CELL_SHARE:
        place.insert(0, "bare")
    content = rng.sample(("word", "number", "bar"), 3)
    order = [*content, *place] if draw < COUNT_SHARE + CONTENT_SHARE else [*place, *content]
    if draw < COUNT_SHARE:
        order.insert(0, "count")
    return next(name for name in [*order, "bare", "count"] if pools[name])


def _word_or_number(rng: random.Random, split: str) -> str:
    return rng.choice(rng.choice((glyphs.words, glyphs.numbers))(split))
