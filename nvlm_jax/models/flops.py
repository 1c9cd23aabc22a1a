"""Floating-point operations of the model in closed form, by module: a multiplication and an addition are two.

Matrix products only (norms, gates, softmax and rotations are left out: below two percent at every size here). A test
holds the forward numbers against XLA's own count of the compiled model.
"""

from __future__ import annotations

from nvlm_jax.config import ModelConfig, RunConfig

PARTS = ("vision", "projector", "cross_attention", "decoder", "head")


def forward_flops(model: ModelConfig, tokens: int, tiles: int, pairs: float, cross_pairs: float) -> dict[str, float]:
    """Operations of one forward pass, by module.

    Args:
        model: of any architecture.
        tokens: in the decoder.
        tiles: through the encoder and the projector.
        pairs: (query, key) pairs of the decoder's self-attention, of one head of one layer.
        cross_pairs: the same of one cross-attention layer; ignored without such layers.
    """
    d, cross = model.decoder, model.cross_attention
    inner, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    image_tokens = tiles * model.tokens_per_tile
    mlp = 6 * d.width * d.ff
    layer = 4 * d.width * (inner + kv) + mlp
    found = {
        "vision": tiles * _vision_tile(model),
        "projector": image_tokens * _projector_token(model),
        "cross_attention": 0.0,
        "decoder": d.layers * (tokens * layer + 4 * inner * pairs),
        "head": tokens * 2 * d.width * d.vocab_size,
    }
    if cross is not None:
        n = cross.resampler_latents or model.tokens_per_tile
        keys = tiles * (n + bool(cross.tag_embeddings))
        gated = tokens * (4 * d.width * inner + mlp) + keys * 4 * d.width * kv + 4 * inner * cross_pairs
        found["cross_attention"] = d.layers // cross.every * gated
        if latents := cross.resampler_latents:
            read = model.tokens_per_tile + latents  # keys of each latent
            layer = latents * (4 * d.width * inner + mlp + 4 * inner * read) + read * 4 * d.width * inner
            found["cross_attention"] += tiles * cross.resampler_layers * layer
    return {part: float(found[part]) for part in PARTS}


def step_flops(config: RunConfig) -> dict[str, float]:
    """Operations of one training step on full rows, by module: what the device computes, padding included.

    A trained module costs three forward passes, a frozen one behind something trained two (its inputs need a
    gradient, its weights none), any other one. Recomputation (`model.remat`) is not counted.
    """
    model, data = config.model, config.data
    s, t = data.tokens_per_row, data.tiles_per_row
    latents = model.cross_attention.resampler_latents if model.cross_attention else 0
    keys = t * (latents or model.tokens_per_tile)
    row = forward_flops(model, s, t, s * (s + 1) / 2, s * keys)
    trained = {part: part in config.train.trainable for part in PARTS} | {"head": "decoder" in config.train.trainable}
    before = {
        "vision": False,
        "projector": trained["vision"],
        "cross_attention": True,
        "decoder": True,
        "head": True,
    }
    times = {part: 3 if trained[part] else 2 if before[part] else 1 for part in PARTS}
    return {part: config.train.batch_rows * times[part] * count for part, count in row.items()}


def _vision_tile(model: ModelConfig) -> float:
    v = model.vision
    patches, inner = (v.image_size // v.patch_size) ** 2, v.heads * v.head_dim
    n = patches + 1  # the class token
    layer = n * (8 * v.width * inner + 4 * v.width * v.ff) + 4 * n * n * inner
    return patches * 2 * 3 * v.patch_size**2 * v.width + v.layers * layer


def _projector_token(model: ModelConfig) -> float:
    din, inner, dout = model.vision.width * model.pixel_shuffle**2, model.projector_width, model.decoder.width
    return 2 * (din * inner + inner * dout) if inner else 2 * din * dout
