"""What `pip install .` needs to be whole: one version of each package, and every data file in the wheel."""

import fnmatch
import pathlib
import re
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("nvlm_jax", "data_pipelines", "configs", "launch")


def pins(path: pathlib.Path) -> dict[str, str]:
    """name -> version of each line of a requirements file; anything but an exact pin fails."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    pin = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[a-z0-9,]+\])?==([0-9][0-9A-Za-z.]*)")
    matches = [pin.fullmatch(line) for line in lines if line]
    assert all(matches), f"{path.name}: {[line for line in lines if line]}"
    return {match[1].lower().replace("_", "-"): match[2] for match in matches}


def test_a_package_has_one_version_in_all_lists():
    versions: dict[str, set[str]] = {}
    for path in sorted(ROOT.glob("requirements*.txt")):
        for name, version in pins(path).items():
            versions.setdefault(name, set()).add(version)
    assert len(versions) > 30
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_metadata_reads_the_requirements_files():
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"]["file"] == ["requirements.txt"]
    files = {name for extra in dynamic["optional-dependencies"].values() for name in extra["file"]}
    left_out = {"requirements.txt", "requirements-beam.txt"}  # Beam's own pins exclude these: installed without them
    assert files == {path.name for path in ROOT.glob("requirements*.txt")} - left_out


def test_every_data_file_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    data = [name for name in listed.splitlines() if not name.endswith(".py")]
    assert len(data) >= 15
    assert [name for name in data if not any(fnmatch.fnmatch(pathlib.Path(name).name, p) for p in patterns)] == []
