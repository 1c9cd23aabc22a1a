"""The multimodal SFT blend: Table 6 of the paper, by its rows. Text-only data is mixed in from `text.py`.

The paper prints no weights; NVIDIA's example blend gives two, and says that weights follow size.
"""

from __future__ import annotations

from configs.blends import text
from configs.blends.rows import shares

TABLE = {
    "captioning": ("coco-captions", "textcaps", "sharegpt-4o"),
    "vqa": ("vqav2", "visual-genome", "tallyqa", "visual7w", "vizwiz"),
    "knowledge": ("okvqa", "aokvqa"),
    "reasoning": ("gqa", "super-clevr", "raven", "vsr"),
    "chart": (
        *("dvqa", "plotqa", "mmc-instruction", "chartqa", "infographicvqa", "figureqa", "iconqa", "chart2text"),
        "diagram-image2text",
    ),
    "table": ("wikitablequestions", "robut-wtq", "robut-wikisql", "robut-sqa", "hitab"),
    "document": (*("docvqa", "docmatix", "dude", "visualmrc", "tat-dqa", "ureader-ie", "ureader-kg", "ureader-qa"),),
    "ocr": (
        *("ocrvqa", "textvqa", "st-vqa", "screenqa", "slideqa", "pdf-vqa", "vqa-cd", "vqaonbd", "poie", "sroie"),
        *("orand", "est-vqa", "funsd", "squad-rendered", "wordart", "iam", "iiit5k", "hme100k", "synthdog-en"),
        *("bentham-qa", "hw-squad", "websight", "chromewriting", "k12-printing", "coco-text", "textocr", "rects"),
        "pdfa-eng",
    ),
    "math": (
        *("clevr-math", "geoqa-plus", "geometry3k", "tabmwp", "gsm8k-rendered", "metamathqa-rendered"),
        *("mavis-metagen", "mavis-rule-geo", "geo170k-align", "geo170k-qa", "geomverse", "geos", "unigeo"),
    ),
    "science": ("ai2d", "scienceqa", "tqa", "arxivqa", "textbook"),
    "instruction": ("lrv-instruction", "llava-158k", "llavar"),
}
WEIGHTS = {"coco-captions": 0.01, "clevr-math": 0.02}
BLEND = shares(TABLE, WEIGHTS)
WITH_TEXT = (*BLEND, *text.BLEND)
