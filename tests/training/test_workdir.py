"""Files of a run's directory: whole or absent, however many write them."""

import json
import pathlib
import shutil

import pytest

from nvlm_jax.config import ConfigError, InputConfig, RunConfig
from nvlm_jax.training import workdir

TINY = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny"


def test_two_writers_at_once_leave_a_whole_file_each(tmp_path, monkeypatch):
    path, sync, others = tmp_path / "state.json", workdir.os.fsync, ["b"]

    def another_writes_meanwhile(file: int) -> None:
        if others:
            workdir.write_atomically(path, others.pop())
        sync(file)

    monkeypatch.setattr(workdir.os, "fsync", another_writes_meanwhile)
    workdir.write_atomically(path, "a")
    assert path.read_text() == "a" and list(tmp_path.iterdir()) == [path]


def with_tokenizer(path: pathlib.Path) -> RunConfig:
    return RunConfig(inputs=InputConfig(tokenizer=str(path)))


def with_checkpoint(path: pathlib.Path) -> pathlib.Path:
    (path / "checkpoints" / "7").mkdir(parents=True)
    return path


def test_a_start_that_came_to_no_checkpoint_claims_nothing(tmp_path, caplog):
    path = workdir.open_workdir(tmp_path / "run", RunConfig(seed=1))
    for left in ("frozen/decoder", "checkpoints/3.orbax-checkpoint-tmp-1"):
        (path / left).mkdir(parents=True)
    (path / "id").write_text("of the first")
    workdir.open_workdir(path, RunConfig(seed=1))
    assert (path / "id").exists() and (path / "frozen").exists()  # the same run, which may have begun on its hosts
    workdir.open_workdir(path, RunConfig(seed=2))
    assert json.loads((path / "config.json").read_text())["config"]["seed"] == 2
    assert not (path / "frozen").exists() and not (path / "id").exists()
    assert "seed: 1 there, 2 now" in caplog.text and "begins anew" in caplog.text
    (path / "config.json").write_bytes(b"\xff{")
    workdir.open_workdir(path, RunConfig(seed=3))
    with_checkpoint(path)
    with pytest.raises(ConfigError, match="seed: 3 there, 4 now"):
        workdir.open_workdir(path, RunConfig(seed=4))
    (path / "config.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match=r"config\.json: no readable record of a run"):
        workdir.open_workdir(path, RunConfig(seed=3))
    (path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json: missing, though there are checkpoints"):
        workdir.open_workdir(path, RunConfig(seed=3))


def test_what_is_no_folder_is_no_checkpoint(tmp_path):
    folder = with_checkpoint(tmp_path) / "checkpoints"
    (folder / "30").symlink_to("nowhere")
    (folder / "31").symlink_to("31")
    (folder / "9").write_text("")
    (folder / "8.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "6").symlink_to(tmp_path / "elsewhere")
    assert workdir.saved_steps(tmp_path) == [6, 7]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run: cannot be written: Not a directory; let it be, or use another"):
        workdir.open_workdir(tmp_path / "file" / "run", RunConfig())


def test_the_tokenizer_travels_with_the_run(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(TINY, source)
    for _ in range(2):  # begun, and gone on with
        path = workdir.open_workdir(tmp_path / "run", with_tokenizer(source))
    names = {file.name for file in (path / "tokenizer").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}  # no weights, which lie beside them
    one_file = workdir.open_workdir(tmp_path / "other", with_tokenizer(source / "tokenizer.json"))
    assert {file.name for file in (one_file / "tokenizer").iterdir()} == names  # the chat template beside it, too
    moved = path.rename(tmp_path / "moved")
    workdir.open_workdir(moved, with_tokenizer(moved / "tokenizer"))  # the content counts, not the place
    shutil.rmtree(source)
    workdir.open_workdir(moved, with_tokenizer(source))  # missing: for those to say who need it
    assert json.loads((moved / "config.json").read_text())["tokenizer"]


def test_a_damaged_copy_of_the_tokenizer_is_made_again(tmp_path):
    config, begun = with_tokenizer(TINY), tmp_path / "run"
    workdir.open_workdir(begun, config)
    whole = (TINY / "tokenizer.json").read_bytes()
    (begun / "tokenizer" / "tokenizer.json").write_bytes(whole[:1000])
    (begun / "tokenizer" / "tokenizer_config.json").unlink()
    workdir.open_workdir(begun, config)
    assert (begun / "tokenizer" / "tokenizer.json").read_bytes() == whole
    assert (begun / "tokenizer" / "tokenizer_config.json").is_file()
    assert {file.name for file in begun.iterdir()} == {"config.json", "tokenizer"}


def test_a_run_does_not_go_on_with_another_tokenizer(tmp_path):
    file = pathlib.Path(shutil.copy(TINY / "tokenizer.json", tmp_path / "tok.json"))
    workdir.open_workdir(tmp_path / "run", with_tokenizer(file))
    with_checkpoint(tmp_path / "run")
    held = file.read_text()
    shutil.rmtree(tmp_path / "run" / "tokenizer")  # as of an earlier version
    file.write_text(held + " ")
    with pytest.raises(ConfigError, match=r"inputs\.tokenizer: .*tok\.json has the digest \w{16}, but this run began"):
        workdir.open_workdir(tmp_path / "run", with_tokenizer(file))
    file.write_text(held)
    workdir.open_workdir(tmp_path / "run", with_tokenizer(file))
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").read_text() == held
