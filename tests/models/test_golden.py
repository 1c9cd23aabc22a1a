"""Every intermediate value of the golden NVLM-D checkpoint, as PyTorch computed it (float32)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request
from nvlm_jax.inputs.batch import Example
from nvlm_jax.models.attention import CausalMask
from nvlm_jax.models.layers import scan_layers
from nvlm_jax.models.vision import normalise, pixel_shuffle
from tests import golden

IMAGE_CASES = ("thumb", "tiles")
NEVER = 0  # an end token that no answer has


@pytest.fixture(scope="module")
def model():
    return golden.model()


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def close(got, name: str, tolerance: float) -> None:
    want = golden.expected()[name]
    assert got.shape == want.shape
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_vision_matches_pytorch(model, case):
    tiles = golden.expected()[f"{case}/tiles"]
    close(jnp.moveaxis(normalise(jnp.asarray(tiles)), -1, 1), f"{case}/pixel_values", 1e-5)
    embedded, states = model.vision.hidden_states(tiles)
    close(jnp.concatenate([embedded[None], states]), f"{case}/vision_hidden", 1e-5)
    features = model.vision(tiles)
    close(features, f"{case}/vision_features", 1e-5)
    shuffled = pixel_shuffle(features, model.config.pixel_shuffle)
    close(shuffled, f"{case}/shuffled", 1e-5)
    close(model.projector(shuffled), f"{case}/projected", 1e-5)


@pytest.mark.parametrize("case", golden.CASES)
def test_decoder_matches_pytorch(model, case):
    batch = golden.batch(case)
    image_tokens = model.image_tokens(batch.tiles) if batch.tiles.shape[1] else None
    x = model.embed(batch.tokens, image_tokens, batch.image_slots)
    close(x[0], f"{case}/inputs_embeds", 1e-5)

    index = jnp.arange(batch.tokens.shape[1])[None]
    mask = CausalMask(batch.segment_ids, index, batch.segment_ids, index, aligned=True)

    def body(layer, x, _):
        x, _ = layer(x, batch.positions, mask, None)
        return x, x

    last, states = scan_layers(model.decoder.layers, body, x)
    states = jnp.concatenate([x[None], states[:-1], model.decoder.norm(last)[None]])
    close(states[:, 0], f"{case}/llm_hidden", 1e-4)

    logits = model.logits(model.hidden(batch))[0]
    close(logits, f"{case}/logits", 1e-4)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[0][:, None], 1)[:-1, 0]
    close(nll, f"{case}/nll", 1e-4)


@pytest.mark.parametrize("case", golden.CASES)
def test_greedy_continuation_matches_pytorch(model, case):
    want = golden.expected()[f"{case}/greedy_ids"]
    prompt = golden.expected()[f"{case}/input_ids"][: golden.expected()[f"{case}/prompt_len"]]
    row = golden.batch(case, prompt)
    example = Example("", *(getattr(row, field)[0] for field in Example._fields[1:]))
    used = row.tile_segment_ids[0] > 0
    tiles = {field: getattr(example, field)[used] for field in ("tiles", "tile_index", "tile_start")}
    engine = Engine(model, model.config.decoder.vocab_size, [NEVER], slots=1)
    [answer] = engine.generate([Request(example._replace(**tiles), len(want))])
    assert answer.tokens == want.tolist()
