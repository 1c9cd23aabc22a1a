"""Ask a model, with or without images; the answer is printed as it is made.

    python -m launch.generate --checkpoint=PATH --image=page.png --prompt="What is this?"
    python -m launch.generate --checkpoint=PATH --image=page.png            a chat; an empty line ends it

PATH is a Hugging Face directory, a run's workdir or one step of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags, logging

import nvlm_jax
from launch.command import run_command
from nvlm_jax.config import ConfigError
from nvlm_jax.convert import CheckpointError
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.pretrained import LoadedModel, with_placeholders

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Hugging Face directory, workdir or step", required=True)
IMAGES = flags.DEFINE_multi_string("image", [], "an image file; may be given several times")
PROMPT = flags.DEFINE_string("prompt", None, "the question; without it, a chat")
TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "of an answer", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 = always the most likely token", lower_bound=0.0)
TOP_P = flags.DEFINE_float("top_p", 1.0, "draw from the fewest tokens that hold this much probability")
TOP_K = flags.DEFINE_integer("top_k", 0, "draw from so many of the most likely tokens; 0 = all", lower_bound=0)
STOP = flags.DEFINE_multi_string("stop", [], "a text before which the answer ends; may be given several times")
SEED = flags.DEFINE_integer("seed", 0, "of the draws where --temperature is above 0")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of parameters and computation")
INT8 = flags.DEFINE_bool("int8", False, "matrices of the layers in 8 bits; needs qwix (requirements-int8.txt)")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step it takes
    try:
        model = nvlm_jax.load(CHECKPOINT.value, DTYPE.value, int8=INT8.value)
        if PROMPT.value is not None:
            answer(model, [Message("user", PROMPT.value)], IMAGES.value)
        else:
            chat(model, IMAGES.value)
    except (CheckpointError, ConfigError, BadSample, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def answer(model: LoadedModel, messages: Sequence[Message], images: Sequence[str]) -> str:
    """Print the answer while it is made, and return it."""
    text = ""
    how = {"top_p": TOP_P.value, "top_k": TOP_K.value, "stop": STOP.value}
    for piece in model.stream(messages, images, TOKENS.value, TEMPERATURE.value, SEED.value, **how):
        print(piece, end="", flush=True)
        text += piece
    print()
    return text


def chat(model: LoadedModel, images: Sequence[str]) -> None:
    """Ask and answer in turn until an empty line or the end of the input."""
    model.builder.prompt(with_placeholders("?", len(images)), images)  # an unusable image ends it before it begins
    messages: list[Message] = []
    while question := _read_line():
        asked = with_placeholders([*messages, Message("user", question)], len(images))
        try:
            text = answer(model, asked, images)
        except BadSample as error:  # a question that cannot be asked is not part of the conversation
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            continue
        # An answer may be empty; the template has no place for that in a history.
        messages = [*asked, Message("assistant", text.strip() or "...")]


def _read_line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return ""


if __name__ == "__main__":
    run_command(main)
