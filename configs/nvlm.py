"""Every named run: `configs/nvlm.py:arch=d,size=72b,stage=sft`.

    arch   d | x | h
    size   tiny | 1b | 34b | 72b
    stage  pretrain | sft, the paper's two; with size tiny also llm-1 | llm-2 | llm-3 | llm and vision-1 | vision: the
           backbones

The paper's values stand here verbatim, each with its table (T10 = Table 10, pretraining; T11 = Table 11, SFT). Any
value can be changed on the command line, for example `--config.optimizer.learning_rate=3e-5`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import ml_collections

from nvlm_jax.assets import shipped
from nvlm_jax.config import (
    ARCHS,
    ConfigError,
    CrossAttentionConfig,
    DataConfig,
    DatasetConfig,
    DecoderConfig,
    InitConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    VisionConfig,
    to_mapping,
)

SIZES = ("tiny", "1b", "34b", "72b")
STAGES = ("pretrain", "sft", "llm-1", "llm-2", "llm-3", "llm", "vision-1", "vision")
TINY_ASSETS = shipped("tiny")
TINY_DATA = "runs/data"

INTERN_VIT_6B = VisionConfig()
QWEN2_72B = DecoderConfig()
YI_34B = DecoderConfig(
    vocab_size=64000,
    width=7168,
    layers=60,
    heads=56,
    kv_heads=8,
    head_dim=128,
    ff=20480,
    rope_theta=5e6,
    norm_eps=1e-5,
    qkv_bias=False,
    max_positions=4096,
)
# Not of the paper: the shapes of InternViT-300M and Qwen2-0.5B, for one accelerator.
VIT_300M = VisionConfig(width=1024, layers=24, heads=16, head_dim=64, ff=4096)
QWEN2_HALF_B = DecoderConfig(
    vocab_size=151936, width=896, layers=24, heads=14, kv_heads=2, head_dim=64, ff=4864, tied_embeddings=True
)
# Not of the paper: an encoder and a decoder that two CPU cores train in minutes.
# LayerScale starts at 1: from InternViT's 0.1 the attention of so small an encoder learns nothing in its few steps.
# One patch is one glyph of a generated page and one image token: in patches of half its side the encoder is twice as
# slow and learns to look beside a glyph much later (docs/tiny.md), so pixel shuffle has nothing to join here.
TINY_VISION = VisionConfig(
    image_size=64, patch_size=16, width=128, layers=4, heads=4, head_dim=32, ff=512, layer_scale_init=1.0
)
TINY_PIXEL_SHUFFLE = 1
# Tanh gates: of all layers, and of the last layer's attention. From 0 the first steps turn a gate's sign back and
# forth, and what is behind it learns nothing meanwhile: thousands of steps do not notice, a few hundred do. Gates above
# 0.1 drown the small embeddings of so narrow a decoder; but it looks things up in its last layer, which begins open.
TINY_GATES = (0.1, 0.8)
TINY_DECODER = DecoderConfig(
    vocab_size=512, width=128, layers=4, heads=4, kv_heads=2, head_dim=32, ff=384, rope_theta=1e4
)

# Vision encoder, decoder, inner width of the two-layer projector, decoder layers per cross-attention layer.
# 34b and 72b: T10's projectors 12800 -> 20480 -> 7168 and 12800 -> 29568 -> 8192; cross-attention every 6 and 8 layers.
BACKBONES = {
    "tiny": (TINY_VISION, TINY_DECODER, 256, 1),
    "1b": (VIT_300M, QWEN2_HALF_B, 4864, 4),
    "34b": (INTERN_VIT_6B, YI_34B, 20480, 6),
    "72b": (INTERN_VIT_6B, QWEN2_72B, 29568, 8),
}

# Section 4.4: the text embeddings of `<tile_k>` enter H's cross-attention "alongside" the tile's visual embeddings; how
# is not said. As further keys alone they are bound to no tile: swapping two tiles' pixels moves no logit. So keys are
# turned to the tile's number as well. Of what binds, that alone was learned in 1,600 steps of a toy: 46 % right; with
# embeddings added to the tiles 27, with a table 28, which guessing gives too (docs/log/2026-12-01-tile-tags.md).
H_TILE_TAGS = "joined+positions"
# T10, "Trainable weights"; the vision encoder and the LLM are frozen.
PRETRAIN_PARTS = {
    "d": ("projector",),
    "x": ("projector", "cross_attention"),
    "h": ("projector", "cross_attention"),
}
# T10: learning rate (maximum, minimum), warm-up steps, Adam betas, weight decay, gradient clipping.
PRETRAIN_OPTIMIZER = {
    "d": OptimizerConfig(1e-4, 2.5e-5, 500, 0.9, 0.95, weight_decay=0.1, clip_norm=10.0),
    "x": OptimizerConfig(1e-4, 1e-5, 1000, 0.9, 0.95, weight_decay=0.05, clip_norm=1.0),
    "h": OptimizerConfig(1e-4, 1e-5, 1000, 0.9, 0.98, weight_decay=0.05, clip_norm=1.0),
}
PRETRAIN_STEPS = 20_000  # T10
PRETRAIN_TILES = {"d": 1, "x": 1, "h": 6}  # T10: 1, 1 and 6 + 1 tiles

# T11, "Trainable weights": as in pretraining, and the LLM.
SFT_PARTS = {arch: (*parts, "decoder") for arch, parts in PRETRAIN_PARTS.items()}
# T11, same columns. X's minimum is 1e-6 with the 34B backbone and 1e-7 with the 72B one.
SFT_OPTIMIZER = {
    "d": OptimizerConfig(2e-6, 2.5e-7, 1000, 0.9, 0.98, weight_decay=0.1, clip_norm=10.0),
    "x": OptimizerConfig(1e-5, 1e-7, 500, 0.9, 0.98, weight_decay=0.05, clip_norm=1.0),
    "x34b": OptimizerConfig(1e-5, 1e-6, 500, 0.9, 0.98, weight_decay=0.05, clip_norm=1.0),
    "h": OptimizerConfig(1e-5, 1e-7, 1000, 0.9, 0.98, weight_decay=0.05, clip_norm=1.0),
}
SFT_STEPS = {"d": 40_000, "x": 20_000, "h": 40_000}  # T11
SFT_TILES = 6  # T11: 6 + 1 tiles

# Budgets of a packed row (tokens, tiles). The paper pads every sample to 512 tokens in pretraining (T10) and to 3,200,
# 1,024 and 1,280 in SFT (T11); a row here holds several samples instead, so that little of either is padding.
#
# Rows and budgets that hold the paper's batch of samples: 2,048 in pretraining (T10); in SFT (T11) 128 for D, 512 (34B)
# or 256 (72B) for X and 256 for H. Counted by packing (tests/configs/test_named_runs.py): in SFT a mix like the paper's
# (launch/benchmarks/packing.py) gives 129, 259, 517 and 255; in pretraining captions of 30 tokens give D, X and H
# 2,040, 2,032 and 2,041. With samples of other lengths, change the rows, or the learning rate and the steps.
ROW_BUDGETS = {"d": (6144, 20), "x": (2432, 41), "h": (4224, 39)}
PRETRAIN_BUDGETS = {"d": (5120, 16), "x": (2048, 32), "h": (2560, 43)}
SFT_ROWS = {"d": 32, "x": 32, "x34b": 64, "h": 32}
PRETRAIN_ROWS = {"d": 128, "x": 64, "h": 256}


def get_config(argument: str = "arch=d,size=tiny,stage=sft") -> ml_collections.ConfigDict:
    """The run that `argument` names, as a ConfigDict with exactly the keys of `nvlm_jax.config.RunConfig`.

    Raises:
        ConfigError: an unknown or missing key or value in `argument`.
    """
    choice = _parse(argument)
    make = _tiny_run if choice["size"] == "tiny" else _paper_run
    make = {"vision-1": _tiny_reader, "vision": _tiny_vision}.get(choice["stage"], make)
    make = _tiny_llm if choice["stage"] in LLM_STAGES else make
    return ml_collections.ConfigDict(to_mapping(make(**choice)))


def _parse(argument: str) -> dict[str, str]:
    choice = {"arch": "d", "size": "tiny", "stage": "sft"}
    valid = {"arch": ARCHS, "size": SIZES, "stage": STAGES}
    for item in filter(None, argument.split(",")):
        key, _, value = item.partition("=")
        if key not in valid or value not in valid[key]:
            options = ", ".join(f"{k}={'|'.join(v)}" for k, v in valid.items())
            raise ConfigError(f"configs/nvlm.py: {item!r} is none of {options}")
        choice[key] = value
    if choice["stage"] in STAGES[2:] and choice["size"] != "tiny":
        raise ConfigError(f"configs/nvlm.py: stage={choice['stage']} exists with size=tiny only")
    return choice


def model_config(arch: str, size: str, gates: tuple[float, float] = (0.0, 0.0), **changes: object) -> ModelConfig:
    """The model of one architecture at one size."""
    vision, decoder, projector_width, every = BACKBONES[size]
    cross = CrossAttentionConfig(every, *gates, tile_tags=H_TILE_TAGS if arch == "h" else "")
    return ModelConfig(
        arch=arch,
        vision=vision,
        decoder=decoder,
        projector_width=0 if arch == "x" else projector_width,  # X has a single layer
        cross_attention=None if arch == "d" else cross,
        **changes,
    )


def _paper_run(arch: str, size: str, stage: str) -> RunConfig:
    pretrain = stage == "pretrain"
    key = "x34b" if (arch, size) == ("x", "34b") else arch
    tokens, tiles = (PRETRAIN_BUDGETS if pretrain else ROW_BUDGETS)[arch]
    return RunConfig(
        name=f"nvlm-{arch}-{size}-{stage}",
        model=model_config(arch, size),
        inputs=InputConfig(
            tokenizer="checkpoints/llm",
            thumbnail_tag="<tile_global>" if size == "34b" else "<tile_global_thumbnail>",
            max_tiles=PRETRAIN_TILES[arch] if pretrain else SFT_TILES,
            template="plain" if pretrain else "chatml",
            question_tags=False,  # not of the paper: there the tags of an image block alone read their tiles
        ),
        init=InitConfig(vision="checkpoints/vision", llm="checkpoints/llm")
        if pretrain
        else InitConfig(checkpoint=f"runs/nvlm-{arch}-{size}-pretrain"),
        data=DataConfig(
            blend=tuple(DatasetConfig(n, f"data/{n}") for n in (("pretrain",) if pretrain else ("sft", "text"))),
            tokens_per_row=tokens,
            tiles_per_row=tiles,
            workers=8,
        ),
        optimizer=PRETRAIN_OPTIMIZER[arch] if pretrain else SFT_OPTIMIZER[key],
        train=TrainConfig(
            steps=PRETRAIN_STEPS if pretrain else SFT_STEPS[arch],
            batch_rows=PRETRAIN_ROWS[arch] if pretrain else SFT_ROWS[key],
            trainable=PRETRAIN_PARTS[arch] if pretrain else SFT_PARTS[arch],
        ),
    )


# The tiny runs: not of the paper but for the two stages, what trains in each, and one tile first (T10).
TINY_DATA_OPTIONS = {"pack_window": 256, "max_bad_share": 0.001}
TINY_STEPS = {"pretrain": {"d": 120, "x": 150, "h": 170}, "sft": {"d": 400, "x": 200, "h": 240}}
# Rows, tokens of each, tiles of each. Attention costs the more the longer a row: few pages a row. D holds its image
# tokens in the row, X and H little or none of them.
TINY_ROWS = {
    "pretrain": {"d": (4, 464, 4), "x": (8, 256, 5), "h": (8, 272, 9)},
    "sft": {"d": (7, 384, 7), "x": (8, 272, 7), "h": (8, 272, 7)},
}
# Of pages of one tile, as in the paper (T10), but for H: an only tile is in H's decoder and not in its gated layers.
# X and H are asked for everything on a page at once: what could be copied from an earlier answer teaches them nothing.
TINY_PRETRAIN_BLEND = {
    "d": (("caption-1", 1.0),),
    "x": (("qa-1", 1.0),),
    "h": (("qa-2", 1.0),),
}
TINY_TEXT_SHARE = {"d": 0.2, "x": 0.25, "h": 0.2}  # of the samples in fine-tuning


def _tiny_run(arch: str, size: str, stage: str) -> RunConfig:
    pretrain = stage == "pretrain"
    text = TINY_TEXT_SHARE[arch]
    blend = TINY_PRETRAIN_BLEND[arch] if pretrain else (("qa", 1 - text), ("text", text))
    rows, tokens, tiles = TINY_ROWS[stage][arch]
    return RunConfig(
        name=f"nvlm-{arch}-tiny-{stage}",
        model=_tiny_model(arch),
        # Unlike the paper's pretraining, with the chat template: the tiny LLM last learned that form and, frozen, reads
        # nothing in another. (Projector alone, D: loss 0.49 after 120 steps with it, above 2.6 after 220 without.)
        inputs=InputConfig(tokenizer=TINY_ASSETS, question_focus=True),
        init=InitConfig(vision=TINY_ASSETS, llm=TINY_ASSETS, cross_attention="" if arch == "d" else "decoder")
        if pretrain
        else InitConfig(checkpoint=f"runs/nvlm-{arch}-tiny-pretrain"),
        data=_tiny_data(blend, tokens, tiles),
        optimizer=OptimizerConfig(
            learning_rate=4e-3 if pretrain else 1e-3,
            min_learning_rate=2e-5,
            warmup_steps=20,
            beta2=0.98,
            weight_decay=0.05,
        ),
        train=TrainConfig(
            steps=TINY_STEPS[stage][arch],
            batch_rows=rows,
            trainable=PRETRAIN_PARTS[arch] if pretrain else SFT_PARTS[arch],
            checkpoint_every=100,
        ),
    )


def _tiny_reader(arch: str, size: str, stage: str) -> RunConfig:
    """Teach the tiny encoder to read: for each image token its glyph, its neighbours and what they belong to."""
    tokens, tiles = 14 * 16 * 7, 14  # tiles, tokens of a tile, labels of each
    return RunConfig(
        name="tiny-vision-1",
        model=_tiny_model("d", dense_labels=7),
        inputs=InputConfig(tokenizer=TINY_ASSETS, template="dense"),
        data=_tiny_data([("dense", 1.0)], tokens, tiles),
        optimizer=OptimizerConfig(3e-3, 3e-5, 100, 0.9, 0.98, weight_decay=0.05),
        train=TrainConfig(steps=3000, batch_rows=4, trainable=("vision", "norm", "head"), checkpoint_every=250),
    )


def _tiny_vision(arch: str, size: str, stage: str) -> RunConfig:
    """Let the tiny encoder learn on through NVLM-X and the frozen tiny LLM, whose gated layers are then thrown away.

    InternViT-6B-448px-V1-5, too, was last trained together with an LLM (that of InternVL 1.5).
    """
    run = _tiny_run("x", size, "pretrain")
    return dataclasses.replace(
        run,
        data=_tiny_data((("aligned", 1.0),), *TINY_ROWS["pretrain"]["x"][1:]),
        name="tiny-vision",
        init=dataclasses.replace(run.init, vision="runs/assets/vision-1", llm="runs/assets/llm"),
        optimizer=dataclasses.replace(run.optimizer, learning_rate=2e-3, min_learning_rate=2e-5),
        train=dataclasses.replace(run.train, steps=1300, trainable=("vision", *run.train.trainable)),
    )


# The tiny LLM learns to talk and to look things up in pages described in text: pages of one tile first, then all, and
# the chat template last. From six tiles at once a model of this size does not begin to look things up, and learning
# rates as high as the first ones would undo what the stage before has learned (docs/tiny.md).
# Stage -> the stage it goes on from, template, steps, learning rate from and to, rows, tokens of each, blend.
ALL_TILES = (("described-1", 0.1), ("described-3", 0.25), ("described", 0.4), ("text", 0.25))
LLM_STAGES = {
    "llm-1": ("", "plain", 1100, 2e-3, 2e-3, 16, 304, (("described-1", 0.8), ("text", 0.2))),
    "llm-2": ("llm-1", "plain", 300, 1e-3, 1e-3, 14, 400, ALL_TILES),
    "llm-3": ("llm-2", "chatml", 1300, 2e-3, 2e-5, 14, 448, ALL_TILES),
    "llm": ("llm-3", "chatml", 450, 1e-3, 2e-5, 14, 464, ALL_TILES),
}


def _tiny_llm(arch: str, size: str, stage: str) -> RunConfig:
    before, template, steps, learning_rate, min_learning_rate, rows, tokens, blend = LLM_STAGES[stage]
    return RunConfig(
        name=f"tiny-{stage}",
        model=_tiny_model("d"),
        inputs=InputConfig(tokenizer=TINY_ASSETS, template=template),
        init=InitConfig(checkpoint=f"runs/assets/{before}" if before else ""),
        data=_tiny_data(blend, tokens, tiles=0),
        optimizer=OptimizerConfig(learning_rate, min_learning_rate, 100, 0.9, 0.98, weight_decay=0.05),
        train=TrainConfig(steps=steps, batch_rows=rows, trainable=("decoder",), checkpoint_every=100),
    )


def _tiny_model(arch: str, **changes: object) -> ModelConfig:
    changes |= {"dtype": "float32", "frozen_dtype": "float32", "remat": "none", "unroll": 4}
    return model_config(arch, "tiny", TINY_GATES, pixel_shuffle=TINY_PIXEL_SHUFFLE, **changes)


def _tiny_data(blend: Sequence[tuple[str, float]], tokens: int, tiles: int) -> DataConfig:
    datasets = tuple(DatasetConfig(name, f"{TINY_DATA}/{name}", weight) for name, weight in blend)
    return DataConfig(blend=datasets, tokens_per_row=tokens, tiles_per_row=tiles, **TINY_DATA_OPTIONS)
