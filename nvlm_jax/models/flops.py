"""FLOPs of a step, counted exactly and in closed form: the one place that trainer, planner and benchmark ask.

A multiply-add is two FLOPs. Counted are matrix products alone; norms, softmax, rotary and other work by element are
not. Attention counts the pairs of query and key that its mask lets see each other. XLA's own count takes the body of a
scan once, whatever its length, and is not used.

    useful_flops    what the model needs: real tokens, tiles and pairs; forward, and backward where something trains
    executed_flops  what the step runs for it: padded rows, masked pairs, and what rematerialisation computes again
"""

from __future__ import annotations

from typing import NamedTuple

from nvlm_jax.config import ModelConfig, RunConfig

# Products of attention's backward pass beyond the four that gradients take, a forward pass having two = 1. Scores again
# in a scan over blocks; in the kernels scores and the gradient of the weights for q, and once more for k and v.
BEYOND = {"dense": 0.0, "blockwise": 0.5, "kernel": 1.5}
MODULES = ("vision", "projector", "cross_attention", "decoder", "head")


class Work(NamedTuple):
    """What a step is given. Means over many steps need not be whole numbers."""

    tokens: float  # places of the decoder
    tiles: float
    self_pairs: float  # of a query and a key in the decoder's self-attention, one layer
    trained: float  # places whose logits the loss asks for
    memory_tiles: float = 0.0  # tiles that cross-attention reads
    cross_tokens: float = 0.0  # places that see any of them
    cross_pairs: float = 0.0  # of a query and an image key


class Term(NamedTuple):
    """One kind of matrix product of a module, over all its layers."""

    module: str  # of MODULES
    part: str  # that its weights belong to
    flops: float  # forward
    weights: bool = True  # one factor is a parameter; otherwise both are activations
    reads: str = "stream"  # what its input depends on: pixels | features | projected | stream
    again: bool = True  # full rematerialisation computes it once more, going backward


def keys_per_tile(model: ModelConfig, tag_tokens: int = 5) -> int:
    """Keys of a tile in cross-attention: its tokens, and those of its tag where they are joined to them.

    Args:
        model: its cross-attention's `tile_tags`, or table of those.
        tag_tokens: of a joined tag; `<tile_k>` takes 5 with Qwen2's tokenizer.
    """
    cross = model.cross_attention
    if cross is None:
        return model.tokens_per_tile
    tag = tag_tokens if cross.tile_tags.startswith("joined") else int(cross.tag_embeddings > 0)
    return (cross.resampler_latents or model.tokens_per_tile) + tag


def padded_work(model: ModelConfig, rows: int, places: int, tiles: int) -> Work:
    """The work of whole rows, without regard to what fills them: every place, every tile, every pair."""
    crosses = model.cross_attention is not None and tiles > 0
    keys = tiles * keys_per_tile(model) if crosses else 0
    return Work(
        tokens=rows * places,
        tiles=rows * tiles,
        self_pairs=rows * places**2,
        trained=rows * places,
        memory_tiles=rows * tiles if crosses else 0,
        cross_tokens=rows * places if crosses else 0,
        cross_pairs=rows * places * keys,
    )


def sample_work(model: ModelConfig, text: int, tiles: int, tag_tokens: int) -> Work:
    """The work of one conversation with one image of `tiles` tiles (thumbnail included) at its beginning, all of whose
    places are trained: a loss that looks at fewer takes less than this says.

    Args:
        model: its architecture says how many places and keys the tiles take.
        text: places that are neither image tokens nor tags.
        tiles: 0 for a text-only sample.
        tag_tokens: places of a tile's tag in the text.
    """
    shown = {"d": tiles, "x": 0, "h": min(tiles, 1)}[model.arch]
    tagged = {"d": tiles, "x": tiles, "h": min(tiles, 1)}[model.arch]
    tags = tagged * tag_tokens
    length = text + tags + shown * model.tokens_per_tile
    memory = 0 if model.cross_attention is None else tiles - shown
    keys = keys_per_tile(model)
    sees_all = text + shown * model.tokens_per_tile  # a tag in the text sees its own tile alone, if that is in memory
    tag_pairs = tags * keys if model.arch == "x" else 0
    return Work(
        tokens=length,
        tiles=tiles,
        self_pairs=length * (length + 1) / 2,
        trained=length,
        memory_tiles=memory,
        cross_tokens=length if memory else 0,
        cross_pairs=(sees_all * memory * keys + tag_pairs) if memory else 0,
    )


def scaled(work: Work, count: float) -> Work:
    """`count` times the work."""
    return Work(*(count * value for value in work))


def forward_terms(model: ModelConfig, work: Work) -> list[Term]:
    """Every kind of matrix product of a forward pass with the loss."""
    return [*_vision(model, work), *_projector(model, work), *_cross_attention(model, work), *_decoder(model, work)]


def useful_flops(model: ModelConfig, trainable: tuple[str, ...], work: Work) -> dict[str, float]:
    """FLOPs of each module for a training step: forward, and backward where something trains, nothing twice."""
    totals = dict.fromkeys(MODULES, 0.0)
    for term in forward_terms(model, work):
        totals[term.module] += term.flops * (1 + _backward(term, trainable))
    return totals


def executed_flops(
    model: ModelConfig, trainable: tuple[str, ...], work: Work, attention: str = "dense"
) -> dict[str, float]:
    """FLOPs of each module as the step runs them where every place is trained.

    Of fewer, the loss leaves out chunks where rows alone are split (training/loss.py), which depends on the batch; a
    row's last chunk, where it is not full, is computed whole.

    Args:
        model: its `remat` says what is computed again.
        trainable: top-level parts.
        work: all that is computed, padding and masked pairs included (`padded_work`).
        attention: how it is computed, of BEYOND.
    """
    totals = dict.fromkeys(MODULES, 0.0)
    for term in forward_terms(model, work):
        times = 1.0 + _backward(term, trainable)
        if _backward(term, trainable):
            pairs = not term.weights
            in_layers = term.module in ("vision", "decoder", "cross_attention")
            if term.module == "head" or (in_layers and term.again and _rematerialised(model.remat, pairs)):
                times += 1
            times += BEYOND[attention] * pairs
        totals[term.module] += term.flops * times
    return totals


def step_flops(config: RunConfig) -> dict[str, float]:
    """FLOPs of each module for one training step on full rows, padding included and nothing computed again."""
    rows, places, tiles = config.train.batch_rows, config.data.tokens_per_row, config.data.tiles_per_row
    return useful_flops(config.model, config.train.trainable, padded_work(config.model, rows, places, tiles))


def _rematerialised(remat: str, pairs: bool) -> bool:
    return remat == "full" or (remat == "dots" and pairs)


def _backward(term: Term, trainable: tuple[str, ...]) -> int:
    """Matrix products going backward for one going forward: one for the gradient of each factor that needs it."""
    parts = set(trainable)
    upstream = {
        "pixels": set(),
        "features": parts & {"vision"},
        "projected": parts & {"vision", "projector"},
        "stream": parts,
    }[term.reads]
    if term.weights:
        return (term.part in parts) + bool(upstream)
    return 2 * bool(upstream | (parts & {term.part}))


def _vision(model: ModelConfig, work: Work) -> list[Term]:
    v = model.vision
    patches = (v.image_size // v.patch_size) ** 2
    places, inner = patches + 1, v.heads * v.head_dim
    layer = 2 * places * (v.width * 3 * inner + inner * v.width + 2 * v.width * v.ff)
    # The last product of a block is not needed again unless a scale behind it trains, which it does with the encoder.
    return [
        Term("vision", "vision", work.tiles * 2 * patches * 3 * v.patch_size**2 * v.width, reads="pixels", again=False),
        Term("vision", "vision", work.tiles * v.layers * layer, reads="features"),
        Term("vision", "vision", work.tiles * v.layers * 4 * places**2 * inner, weights=False, reads="features"),
    ]


def _projector(model: ModelConfig, work: Work) -> list[Term]:
    din, width = model.vision.width * model.pixel_shuffle**2, model.decoder.width
    tokens, inner = work.tiles * model.tokens_per_tile, model.projector_width
    # The norm before it trains with the projector, so the gradient of its input is asked for in any case.
    terms = [Term("projector", "projector", 2 * tokens * din * (inner or width), reads="projected")]
    if inner:
        terms.append(Term("projector", "projector", 2 * tokens * inner * width, reads="projected"))
    return terms


def _cross_attention(model: ModelConfig, work: Work) -> list[Term]:
    if model.cross_attention is None:
        return []
    d, layers = model.decoder, model.decoder.layers // model.cross_attention.every
    inner, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    keys = work.memory_tiles * keys_per_tile(model)
    here = ("cross_attention", "cross_attention")
    by_token = 2 * (2 * d.width * inner + 3 * d.width * d.ff)
    return [
        Term(*here, layers * work.cross_tokens * by_token),
        Term(*here, layers * keys * 2 * 2 * d.width * kv, reads="projected"),
        Term(*here, layers * work.cross_pairs * 4 * inner, weights=False),
        *_resampler(model, work),
    ]


def _resampler(model: ModelConfig, work: Work) -> list[Term]:
    """Latents that attend to a tile's tokens and to themselves, and a feed-forward over them."""
    d, cross = model.decoder, model.cross_attention
    latents, inner = cross.resampler_latents, d.heads * d.head_dim
    if not latents:
        return []
    layers, read = work.memory_tiles * cross.resampler_layers, model.tokens_per_tile + latents
    here = ("cross_attention", "cross_attention")
    return [
        Term(*here, layers * 2 * (latents * (2 * d.width * inner + 3 * d.width * d.ff) + read * 2 * d.width * inner)),
        Term(*here, layers * 4 * inner * latents * read, weights=False),
    ]


def _decoder(model: ModelConfig, work: Work) -> list[Term]:
    d = model.decoder
    inner, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    here = ("decoder", "decoder")
    by_token = 2 * (2 * d.width * inner + 2 * d.width * kv + 2 * d.width * d.ff)
    return [
        Term(*here, d.layers * work.tokens * by_token),
        # The layer's last product: its result is only added, so going backward nobody asks for it again.
        Term(*here, d.layers * work.tokens * 2 * d.width * d.ff, again=False),
        Term(*here, d.layers * work.self_pairs * 4 * inner, weights=False),
        Term("head", "decoder", work.trained * 2 * d.width * d.vocab_size),
    ]
