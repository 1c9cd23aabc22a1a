"""What is evaluated: a checkpoint of any form, restored with all that asking it takes, and a hash of its weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

import jax

import nvlm_jax
from nvlm_jax.config import ConfigError
from nvlm_jax.convert import config_from_hf
from nvlm_jax.generation.int8 import with_int8_weights
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.models.build import parameter_counts
from nvlm_jax.models.nvlm import NVLM, PARTS
from nvlm_jax.parallel.mesh import inference_mesh
from nvlm_jax.training.checkpoints import CheckpointError, restore_model
from nvlm_jax.training.steps import CHECKPOINTS, FROZEN, find_step, is_checkpoint, read_meta

SAMPLE = 1 << 20  # bytes at either end of a large file that go into the hash
WHOLE = 1 << 26  # bytes up to which a file is hashed whole


@dataclasses.dataclass(frozen=True)
class Subject:
    """A restored model."""

    name: str
    arch: str
    step: int | None  # None for a Hugging Face directory
    workdir: pathlib.Path | None
    hash: str
    model: NVLM
    builder: ExampleBuilder
    end_ids: tuple[int, ...]  # empty = the template's own

    @property
    def params(self) -> dict[str, int]:
        """Number of parameters of each part."""
        found = parameter_counts(self.model)
        return {part: found[part] for part in PARTS if part in found}


def identify(path: str | pathlib.Path, step: int | None = None) -> tuple[str, int | None]:
    """The hash and the step of a checkpoint, without restoring it.

    Of a run's step, the hash is over the checksums of all its arrays, so that any changed bit changes it. Of other
    files it is over their names and sizes and what they hold, of files above 64 MiB the first and last MiB.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = pathlib.Path(path)
    if not is_checkpoint(path):
        if step is not None:
            raise CheckpointError(f"{path}: no workdir, so there is no step {step} to choose")
        return _hash_files(path, [path]), None
    workdir, step = find_step(path, step)
    _, meta = read_meta(workdir / CHECKPOINTS / str(step))
    sums = meta.get("checksums") or {}
    if any(sums.get(item) is None for item in ("params", "frozen")):  # imported, not trained here
        return _hash_files(workdir, [workdir / CHECKPOINTS / str(step), workdir / FROZEN]), step
    named = json.dumps([sums["params"], sums["frozen"]], sort_keys=True)
    return hashlib.sha256(named.encode()).hexdigest()[:16], step


def restore(
    path: str | pathlib.Path,
    step: int | None = None,
    dtype: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    int8: bool = False,
) -> Subject:
    """Restore a run's workdir, one step of it, an imported checkpoint or a Hugging Face directory.

    Args:
        path: where it lies.
        step: of a workdir; the newest if None.
        dtype: of a Hugging Face directory's weights and computation.
        devices: to spread the model over; None = the first.
        int8: the layers' matrices in 8 bits; the hash says so.

    Raises:
        CheckpointError: nothing there that can be restored; the message lists the steps that exist.
        ConfigError: the checkpoint's settings do not fit this version, or it is no model that answers questions.
    """
    digest, step = identify(path, step)
    digest += "-int8" if int8 else ""
    if step is None:
        mesh = None
        if devices is not None:
            mesh = inference_mesh(config_from_hf(pathlib.Path(path))[0], devices)
        loaded = nvlm_jax.load(path, dtype, mesh=mesh, int8=int8)
        try:
            builder = loaded.builder
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        name, ends = pathlib.Path(path).name, tuple(loaded.end_token_ids)
        return Subject(name, loaded.config.arch, None, None, digest, loaded.model, builder, ends)
    workdir, step = find_step(path, step)
    config, meta = read_meta(workdir / CHECKPOINTS / str(step))
    mesh = None if devices is None else inference_mesh(config.model, devices)
    config, model = restore_model(workdir, step, mesh)
    if int8:
        model = with_int8_weights(model)
    if config.model.dense_labels:
        raise ConfigError(f"{workdir}: {config.name} is a vision encoder with labels; it answers no questions")
    builder = ExampleBuilder(config.inputs, config.model)
    ends = tuple(meta.get("end_ids") or ())
    return Subject(config.name, config.model.arch, step, workdir, digest, model, builder, ends)


def _hash_files(root: pathlib.Path, folders: Sequence[pathlib.Path]) -> str:
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such directory; expected a workdir, a step of it, or a Hugging Face one")
    digest = hashlib.sha256()
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root)} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
            else:
                digest.update(file.read(SAMPLE))
                file.seek(-SAMPLE, 2)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]
