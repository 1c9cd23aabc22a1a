"""Serve a model to clients of OpenAI's API, and a page to try it at /.

    pip install -r requirements-serve.txt
    python -m launch.serve --checkpoint=PATH --port=8000

PATH is a Hugging Face directory, a run's workdir or one step of it. Listens on 127.0.0.1 unless --host says otherwise;
at /health it is ready once all programs are compiled, or read from --program_cache; none is compiled later.
With --api_key, or NVLM_API_KEY in the environment, clients have to send it. SIGTERM ends it: what is being answered is
answered first. An engine that fails ends it too, with a message and exit code 1.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
from absl import app, flags, logging

import nvlm_jax
from launch.command import run_command
from nvlm_jax.config import ConfigError, DecoderConfig
from nvlm_jax.convert import CheckpointError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Hugging Face directory, workdir or step", required=True)
HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 = all of this machine's")
PORT = flags.DEFINE_integer("port", 8000, "to listen on; 0 = any free one", lower_bound=0)
NAME = flags.DEFINE_string("name", None, "of the model, for clients; default: the checkpoint's last folder")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of parameters and computation")
INT8 = flags.DEFINE_bool("int8", False, "matrices of the layers in 8 bits")
SLOTS = flags.DEFINE_integer("slots", 32, "requests that are decoded together", lower_bound=1)
CACHE = flags.DEFINE_integer("cache_tokens", 65536, "tokens whose keys and values are kept at once", lower_bound=16)
QUEUE = flags.DEFINE_integer("max_queue", 256, "requests that may wait; more get status 429", lower_bound=0)
PROMPT = flags.DEFINE_integer("max_prompt_tokens", 8192, "of one request, image tokens included", lower_bound=1)
TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "of an answer; clients may ask for 4 times as many", lower_bound=1)
BODY = flags.DEFINE_integer("max_body_megabytes", 32, "of one request", lower_bound=1)
SECONDS = flags.DEFINE_float("request_seconds", 300.0, "that a request may take", lower_bound=0.001)
CONNECTIONS = flags.DEFINE_integer("max_connections", 512, "open at once; quiet ones make room", lower_bound=1)
CACHE_HOME = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
PROGRAMS = flags.DEFINE_string("program_cache", f"{CACHE_HOME}/nvlm_jax/programs", "directory of compiled programs")
URLS = flags.DEFINE_bool("image_urls", False, "fetch pictures from public http(s) addresses that clients name")
KEY = flags.DEFINE_multi_string("api_key", [], "a key that clients may use; also: NVLM_API_KEY")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    try:
        from nvlm_jax.serving.app import Server
        from nvlm_jax.serving.run import run
        from nvlm_jax.serving.settings import Settings
        from nvlm_jax.serving.worker import Worker
    except ImportError as error:
        sys.exit(f"{error}: pip install -r requirements-serve.txt")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step it takes
    keep_programs(pathlib.Path(PROGRAMS.value).expanduser())
    try:
        model = nvlm_jax.load(CHECKPOINT.value, DTYPE.value, int8=INT8.value)
        prompt = longest_prompt(model.config.decoder)
        longest = min(prompt + 4 * TOKENS.value, CACHE.value)
        engine, builder = model.make_engine(SLOTS.value, CACHE.value, True, longest), model.builder
    except (CheckpointError, ConfigError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    settings = Settings(
        model=NAME.value or pathlib.Path(CHECKPOINT.value).resolve().name,
        keys=tuple(filter(None, [*KEY.value, os.environ.get("NVLM_API_KEY", "")])),
        image_urls=URLS.value,
        max_body_bytes=BODY.value << 20,
        request_seconds=SECONDS.value,
        max_prompt_tokens=prompt,
        max_new_tokens=TOKENS.value,
        max_connections=CONNECTIONS.value,
    )
    server = Server(builder, Worker(engine, QUEUE.value, lambda: shown(engine.warm_up())), settings)
    if failure := run(server, HOST.value, PORT.value):
        sys.exit(failure)


def keep_programs(directory: pathlib.Path) -> None:
    """Keep compiled programs, so that the next start is quick. JAX_COMPILATION_CACHE_DIR chooses another place."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def shown(progress: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same; a line at the beginning, at each quarter and at the end."""
    begin = time.perf_counter()
    for done, programs in progress:
        if done * 4 // programs > (done - 1) * 4 // programs:
            seconds = time.perf_counter() - begin
            print(f"warm-up: {done} of {programs} programs are ready, {seconds:.0f} s", file=sys.stderr, flush=True)
        yield done, programs


def longest_prompt(decoder: DecoderConfig) -> int:
    """--max_prompt_tokens; of a checkpoint with dynamic RoPE scaling at most what needs none."""
    if not decoder.rope_scaling_factor:
        return PROMPT.value
    return min(PROMPT.value, decoder.max_positions - 4 * TOKENS.value)


if __name__ == "__main__":
    run_command(main)
