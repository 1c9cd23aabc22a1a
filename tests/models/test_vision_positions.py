"""What the vision encoder's positions start from. The encoder itself is held to PyTorch's in test_golden.py."""

import numpy as np
import pytest

from nvlm_jax.models.vision import position_table


@pytest.mark.parametrize(("side", "width"), [(4, 128), (32, 3200), (3, 30)])
def test_positions_start_apart_and_as_far_as_the_patches_are(side, width):
    table = np.asarray(position_table(side, width), np.float64)
    assert table.shape == (1, 1 + side**2, width) and not table[0, 0].any()
    patches = table[0, 1:].reshape(side, side, width)
    products = np.einsum("abw,cdw->abcd", patches, patches)
    # The same step leads from any patch to one that is equally near: products depend on the offset alone ...
    np.testing.assert_allclose(products[0, 0, 1, 1], products[1:, 1:, :-1, :-1].diagonal(0, 0, 2).diagonal(), rtol=1e-5)
    np.testing.assert_allclose(products[0, 0, 0, 1], products[-1, -2, -1, -1], rtol=1e-5)
    # ... and no other patch is as near as the patch itself, whose root mean square is 0.5 over the widths in use.
    flat = products.reshape(side**2, side**2)
    np.testing.assert_allclose(flat.diagonal(), 0.25 * (width // 4 * 4), rtol=1e-5)
    assert (flat - np.diag(flat.diagonal())).max() < 0.99 * flat[0, 0]
