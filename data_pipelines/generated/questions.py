"""Questions about a generated page, and text-only ones, with their answers.

Every question has a *type*, the group that a report shows, and a *kind*: `content` questions name what to look for
and can be answered wherever it stands, `place` questions name a tile, so they need to know which tile is which.
Texts are lower case, short (a chat template adds ten tokens to each) and contents are quoted as the page's symbols, a
labelled one behind its label: `kFOX`. Who asks for a cell is told its whole row first: `kFOX:O`. In a place question
the row and column come before the tile: a model whose tag token reads the tile then already knows what to read there.

Training pages also get *lists*, which ask for several elements, or several rows of a tile, at once: a model sees as
much of a page in a fraction of the tokens.
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
    "elements": "content",
    "rows": "place",
    "read": "place",
}
ASK_CONTENT = {
    "word": "word at [{}]?",
    "number": "number at [{}]?",
    "bar": "value of bar [{}]?",
}
ASK_COUNT = "how many {}s?"
ASK_CELL = "row {} column {} of {}?"
ASK_LINE = "row {} of {}?"
ASK_ELEMENTS = "what is at [{}]?"  # of one label or more, separated by commas: adjoining letters could be one token
ASK_ROWS = "rows {} of {}?"
ASK_READ = "read {}."
ANSWER_CELL = "{}:{}"

TEXT_ENTRY = "{}{}"  # as on a page: a label and what stands behind it
ASK_TEXT = {
    "lookup": "{}. " + ASK_ELEMENTS,
    "backwards": "spell {} backwards.",
    "first": "what is the first letter of {}?",
    "last": "what is the last letter of {}?",
    "larger": "which is larger, {} or {}?",
    "copy": "repeat {}.",
}

COUNT_SHARE = 0.06
CONTENT_SHARE = 0.57  # with the counts a little above 60 %, less what small pages cannot give
CELL_SHARE = 0.55  # of the place questions; the others ask for a line
LISTED_ELEMENTS = 6  # of one list, at most
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


def listed(rng: random.Random, page: Page, count: int, reference: str = "tag") -> list[Question]:
    """`count` questions for several things at once: elements by their labels, or rows of a tile, in random order."""
    return [rng.choice((_elements, _rows))(rng, page, reference) for _ in range(count)]


def _elements(rng: random.Random, page: Page, reference: str) -> Question:
    labelled = [element for element in page.elements if element.label]
    chosen = rng.sample(labelled, min(len(labelled), LISTED_ELEMENTS))
    answer = ",".join(element.label + element.text for element in chosen)
    return Question("elements", ASK_ELEMENTS.format(",".join(element.label for element in chosen)), answer)


def _rows(rng: random.Random, page: Page, reference: str) -> Question:
    tile = rng.randrange(page.tiles)
    rows = rng.sample(range(CELLS), rng.randint(2, CELLS))
    answer = ",".join(_row(page, tile, row) for row in rows)
    asked = "".join(str(row + 1) for row in rows)
    return Question("rows", ASK_ROWS.format(asked, tile_name(page, tile, reference)), answer)


def _row(page: Page, tile: int, row: int) -> str:
    return page.described()[tile][row * CELLS : (row + 1) * CELLS]


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
                answer = ANSWER_CELL.format(_row(page, tile, cell // CELLS), symbol)
                pools[pool].append(Question("cell", text, answer))
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
