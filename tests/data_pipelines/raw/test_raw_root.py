import os

import pytest

from data_pipelines.raw.entry import LayoutError
from data_pipelines.raw.root import Root
from nvlm_jax.inputs.errors import BadSample
from tests.data_pipelines.raw_files import put


@pytest.fixture
def root(tmp_path):
    put(tmp_path, {"secret.txt": "s", "raw/a/b.txt": "in", "raw/c.txt": "c"})
    (tmp_path / "raw" / "inside.txt").symlink_to("a/b.txt")
    (tmp_path / "raw" / "outside.txt").symlink_to("../secret.txt")
    (tmp_path / "raw" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "raw" / "pipe")
    return Root(tmp_path / "raw")


@pytest.mark.parametrize("path", ["a/b.txt", "./a/../a/b.txt", "inside.txt"])
def test_what_is_inside_is_read(root, path):
    assert root.read(path) == b"in"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.txt", "outside_root"),
        ("a/../../secret.txt", "outside_root"),
        ("outside.txt", "outside_root"),
        ("up/secret.txt", "outside_root"),
        ("/etc/hostname", "outside_root"),
        ("file:///etc/hostname", "outside_root"),
        ("https://example.com/a.jpg", "remote_image"),
        ("s3://bucket/a.jpg", "remote_image"),
        ("a\0b", "outside_root"),
        ("", "outside_root"),
        ("no.txt", "missing_file"),
        ("pipe", "not_a_file"),
        ("a", "not_a_file"),
    ],
)
def test_what_leads_out_or_is_no_file_is_refused(root, path, reason):
    with pytest.raises(BadSample) as caught:
        root.read(path)
    assert caught.value.reason == reason


def test_a_large_file_is_refused_before_it_is_read(root):
    with pytest.raises(BadSample, match="1 bytes; at most 0") as caught:
        root.read("c.txt", limit=0)
    assert caught.value.reason == "file_too_large"


def test_a_listing_leaves_out_links_that_lead_out(root):
    assert root.files("**/*.txt") == ["a/b.txt", "c.txt", "inside.txt"]
    with pytest.raises(LayoutError, match=r"no file matches '\*\.json'"):
        root.files("*.json")
    with pytest.raises(LayoutError, match="no such directory"):
        Root(root.path / "none")
