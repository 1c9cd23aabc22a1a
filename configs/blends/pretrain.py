"""The pretraining blend: Table 4 of the paper, by its rows.

The paper prints no weights. NVIDIA's example blend gives three, and says that weights follow size; the other datasets
divide the rest by their sizes.
"""

from __future__ import annotations

from configs.blends.rows import shares

TABLE = {
    "captioning": ("coco-captions", "cc3m", "sbu", "laion-115m"),
    "vqa": ("vqav2", "visual-genome"),
    "chart": ("dvqa",),
    "document": ("docmatix",),
    "ocr": (
        *("ocrvqa", "coco-text", "textocr", "rects", "rrc-art", "rrc-lsvt", "rctw"),
        *("synthdog-en", "pdfa-eng"),
    ),
    "math": ("clevr-math",),
}
WEIGHTS = {"laion-115m": 0.579, "coco-captions": 0.02, "vqav2": 0.01}
BLEND = shares(TABLE, WEIGHTS)
