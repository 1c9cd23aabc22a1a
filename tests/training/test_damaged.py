"""Single flipped bits anywhere in a checkpoint: every way to open it refuses it, or gets the very same weights."""

import json
import random
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

import nvlm_jax
from nvlm_jax.config import ConfigError
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.convert.write import write_hf
from nvlm_jax.parallel.mesh import inference_mesh
from nvlm_jax.training.checkpoints import checksums, restore_model
from nvlm_jax.training.imported import export_hf, import_hf
from nvlm_jax.training.steps import read_meta, signed
from nvlm_jax.training.sums import part_sum
from nvlm_jax.training.workdir import write_atomically
from tests.convert.support import INPUTS, random_parameters, small

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
FLIPS = 1  # of each file


def weights(model) -> dict[str, int]:
    return checksums(nnx.state(model))


def test_sums_of_parts_add_up_to_the_checksum_of_the_whole():
    rng = np.random.default_rng(0)
    for shape, dtype in (((), "float32"), ((7,), "bfloat16"), ((4, 6), "float32"), ((3, 4, 5), "bfloat16")):
        whole = np.asarray(jax.numpy.asarray(rng.normal(size=shape), dtype))
        parts = [(whole, (0,) * whole.ndim)]
        if shape:
            half = shape[-1] // 2
            parts = [(whole[..., :half], (0,) * whole.ndim), (whole[..., half:], (*(0,) * (whole.ndim - 1), half))]
            parts[1] = (np.asfortranarray(parts[1][0]), parts[1][1])
        assert sum(part_sum(*part) for part in parts) % 2**32 == checksums({"a": whole})["a"]


def files_of(workdir):
    """The newest step's files and the frozen ones; of the optimizer's state nothing is loaded."""
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    found = [path for folder in (newest / "params", newest / "meta", workdir / "frozen") for path in folder.rglob("*")]
    return sorted(path for path in found if path.is_file() and path.stat().st_size)


def test_no_flipped_bit_is_loaded_in_silence(runs, tmp_path):
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    before, refused = weights(nvlm_jax.load(workdir).model), 0
    config = read_meta(workdir / "checkpoints" / "6")[0]
    for number, path in enumerate(files_of(workdir)):
        whole = path.read_bytes()
        for at in random.Random(number).sample(range(8 * len(whole)), FLIPS):
            damaged = bytearray(whole)
            damaged[at // 8] ^= 1 << at % 8
            path.write_bytes(damaged)
            try:
                loaded = nvlm_jax.load(workdir)
            except (CheckpointError, ConfigError) as error:
                refused += 1
                assert str(workdir) in str(error) and "NoneType" not in str(error), (path, at)
            else:
                assert weights(loaded.model) == before, (path, at)
                assert loaded.inputs == config.inputs, (path, at)
        path.write_bytes(whole)
    assert refused > FLIPS
    assert weights(nvlm_jax.load(workdir).model) == before


def test_readable_weights_that_are_not_those_saved_are_refused_on_any_mesh_and_by_an_export(runs, tmp_path):
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    mesh = inference_mesh(runs.config.model, jax.devices())
    assert weights(nvlm_jax.load(workdir, mesh=mesh).model) == weights(nvlm_jax.load(workdir).model)
    shutil.rmtree(workdir / "checkpoints" / "6" / "params")
    shutil.copytree(workdir / "checkpoints" / "4" / "params", workdir / "checkpoints" / "6" / "params")
    for open_it in (
        lambda: nvlm_jax.load(workdir),
        lambda: nvlm_jax.load(workdir, "bfloat16", mesh=mesh),
        lambda: export_hf(workdir, tmp_path / "hf"),
        lambda: restore_model(workdir),
    ):
        with pytest.raises(CheckpointError, match=r"arrays differ from what was saved, the first is "):
            open_it()
    assert not (tmp_path / "hf").exists()


def test_an_imported_checkpoint_is_held_to_its_sums_too(tmp_path):
    model = small()
    write_hf(tmp_path / "source", model, INPUTS, random_parameters(model, "mixed"))
    import_hf(tmp_path / "source", tmp_path / "import")
    nvlm_jax.load(tmp_path / "import")
    piece = next(path for path in sorted((tmp_path / "import" / "frozen").rglob("0.0.0")) if path.parent.name[0] == "d")
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)
    for open_it in (
        lambda: nvlm_jax.load(tmp_path / "import"),
        lambda: export_hf(tmp_path / "import", tmp_path / "hf"),
        lambda: restore_model(tmp_path / "import"),
    ):
        with pytest.raises(CheckpointError, match=r"1 arrays differ from what was saved, the first is decoder/"):
            open_it()


def rewrite(step, change) -> None:
    file = step / "meta" / "metadata"
    meta = json.loads(file.read_text())
    write_atomically(file, json.dumps(change(meta)))


def test_a_sound_checkpoint_is_opened_without_a_warning(runs, caplog):
    nvlm_jax.load(runs.whole)
    restore_model(runs.whole)
    assert not [record.getMessage() for record in caplog.records if record.levelname != "INFO"]


def test_what_a_step_says_of_itself_is_held_to_its_digest_and_folder(runs, tmp_path):
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    step = workdir / "checkpoints" / "6"

    def another_rope(meta):
        meta["config"]["model"]["decoder"]["rope_theta"] += 1
        return meta

    rewrite(step, another_rope)
    for open_it in (nvlm_jax.load, restore_model):
        with pytest.raises(CheckpointError, match=r"6/meta: differs from what was saved; restore it from a copy"):
            open_it(workdir)
    without = lambda meta: {key: value for key, value in meta.items() if key != "digest"}  # noqa: E731
    rewrite(step, without)  # as earlier versions saved it
    assert nvlm_jax.load(workdir).config.decoder.rope_theta == runs.config.model.decoder.rope_theta + 1
    rewrite(step, lambda meta: signed(without(meta) | {"step": 5}))
    with pytest.raises(CheckpointError, match=r"6/meta: is of step 5, but lies in the folder of step 6"):
        nvlm_jax.load(workdir)
