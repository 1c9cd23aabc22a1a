"""Meshes that fit, and the advice for those that do not."""

import jax
import pytest

from nvlm_jax.config import ConfigError, MeshConfig
from nvlm_jax.parallel.mesh import AXES, check_rows, fill_axes, make_mesh


@pytest.mark.parametrize(
    ("config", "count", "sizes"),
    [
        (MeshConfig(), 1, (1, 1, 1, 1)),
        (MeshConfig(), 8, (1, 8, 1, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), 8, (2, 2, 2, 1)),
        (MeshConfig(data=4, fsdp=16, tensor=8, context=-1), 1024, (4, 16, 8, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2, context=1), 8, (2, 2, 2, 1)),
    ],
)
def test_sizes(config, count, sizes):
    assert fill_axes(config, count) == sizes


@pytest.mark.parametrize(
    ("config", "count", "message"),
    [
        (MeshConfig(fsdp=3, tensor=2), 8, r"data 1 \* fsdp 3 \* tensor 2 \* context 1 does not fit 8 .* fsdp=4 would"),
        (MeshConfig(tensor=3), 8, r"tensor 3 .*does not fit 8 devices; every axis has to divide 8 \(1, 2, 4, 8\)"),
        (MeshConfig(data=2, fsdp=2), 8, r"data=4 or fsdp=4 or tensor=2 or context=2 would fit"),
        (MeshConfig(data=-1), 8, "data and fsdp are both -1"),
        (MeshConfig(tensor=0), 8, "tensor 0; a size is 1 or more, or -1"),
    ],
)
def test_sizes_that_do_not_fit(config, count, message):
    with pytest.raises(ConfigError, match=message):
        fill_axes(config, count)


def test_mesh_has_every_device_once():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=-1))
    assert mesh.axis_names == AXES
    assert mesh.devices.shape == (2, 2, 2, 1)
    assert sorted(device.id for device in mesh.devices.flat) == sorted(device.id for device in jax.devices())


def test_rows_that_do_not_spread():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_rows(16, 4, mesh)
    with pytest.raises(ConfigError, match=r"12 rows in 2 accumulation steps .* 4 devices; 16 rows would"):
        check_rows(12, 2, mesh)
