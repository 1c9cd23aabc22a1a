"""Config files by path or, from any directory, by name."""

import pathlib

from configs import HERE, locate
from tests.commands import ROOT, command


def test_names_of_the_package_mean_its_files_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("configs/nvlm.py", "nvlm.py", "nvlm"):
        assert pathlib.Path(locate(name)) == HERE / "nvlm.py"
    assert pathlib.Path(locate("configs/sweeps/claims")) == HERE / "sweeps" / "claims"
    assert locate("configs/no_such.py") == "configs/no_such.py"


def test_a_file_of_the_user_goes_before_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nvlm.py").touch()
    assert locate("nvlm.py") == "nvlm.py"


def test_a_command_runs_outside_the_repository(tmp_path):
    """It finds its config by name and the shipped tokenizer beside the package."""
    script = tmp_path / "tiny.py"
    script.write_text("from configs.nvlm import get_config\n")
    for config in ("configs/nvlm.py", str(script)):
        done = command(
            "launch.train", f"--config={config}:arch=d,size=tiny,stage=sft", "--workdir=run",
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 1
        assert "DatasetError" in done.stderr and "runs/data" in done.stderr, done.stderr
