"""The two commands, as a user types them."""

import time

import pytest

import nvlm_jax
from nvlm_jax.config import InputConfig
from nvlm_jax.convert import CheckpointError
from nvlm_jax.convert.write import write_hf
from nvlm_jax.training.imported import import_hf
from tests import golden
from tests.commands import Command, command
from tests.convert.support import random_parameters
from tests.test_pretrained import picture, small


def test_convert_there_and_back(tmp_path):
    done = command("launch.convert", f"--from_hf={golden.DIRECTORY}", f"--out={tmp_path / 'ckpt'}")
    assert done.returncode == 0 and "hf -> " in done.stdout, done.stderr
    done = command(
        "launch.convert", f"--to_hf={tmp_path / 'hf'}", f"--checkpoint={tmp_path / 'ckpt'}", "--dummy_heads=1"
    )
    assert done.returncode == 0, done.stderr
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) == 2 and sum(shard.stat().st_size for shard in shards) > 1_270_000


def test_convert_says_what_is_wrong_in_one_line(tmp_path):
    done = command("launch.convert", f"--from_hf={tmp_path}", f"--out={tmp_path / 'ckpt'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"CheckpointError: {tmp_path}: no config.json" in done.stderr
    done = command("launch.convert", f"--from_hf={tmp_path}", f"--checkpoint={tmp_path}")
    assert done.returncode == 1 and "give either --from_hf and --out" in done.stdout + done.stderr
    done = command("launch.convert", f"--from_hf={golden.DIRECTORY}", f"--out={tmp_path / 'ckpt'}", "--dtype=bfloat16")
    assert done.returncode == 1 and "--dtype: of an export, --to_hf" in done.stdout + done.stderr
    assert not (tmp_path / "ckpt").exists()


def test_a_killed_conversion_leaves_nothing_that_looks_whole(tmp_path):
    process = Command("launch.convert", f"--from_hf={golden.DIRECTORY}", f"--out={tmp_path / 'ckpt'}").process
    while not list(tmp_path.glob("ckpt.partial-*/frozen*")):  # writing
        assert process.exitcode is None, "ended before it was seen to write"
        time.sleep(0.002)
    process.kill()
    process.join()
    [left] = tmp_path.iterdir()
    assert left.name.startswith("ckpt.partial-")
    for path in (left, tmp_path / "ckpt"):
        with pytest.raises(CheckpointError):
            nvlm_jax.load(path)
    import_hf(golden.DIRECTORY, tmp_path / "ckpt")  # what is left is not in the way
    assert nvlm_jax.load(tmp_path / "ckpt").config == golden.config()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config, path = small("d"), tmp_path_factory.mktemp("hf")
    write_hf(path, config, InputConfig(tokenizer="nvlm_jax/assets/tiny"), random_parameters(config, scale=0.3))
    return path


def test_generate_answers_a_question_about_an_image(checkpoint, tmp_path):
    picture().save(tmp_path / "page.png")
    flags = (f"--checkpoint={checkpoint}", f"--image={tmp_path / 'page.png'}", "--max_new_tokens=3")
    done = command("launch.generate", *flags, "--prompt=what?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    chat = command("launch.generate", *flags, text="what?\n<image> more\nand now?\n\n")
    assert chat.returncode == 0 and "2 placeholders <image>" in chat.stderr, chat.stderr
    assert chat.stdout.count("> ") == 4 and done.stdout.strip() in chat.stdout


def test_generate_names_an_image_that_is_missing(checkpoint):
    done = command("launch.generate", f"--checkpoint={checkpoint}", "--image=nowhere.png", "--prompt=what?")
    assert done.returncode == 1 and "nowhere.png" in done.stderr and "Traceback" not in done.stderr
