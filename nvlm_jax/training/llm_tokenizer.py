"""A run's tokenizer and the one that its initial LLM has learned: they must mean the same by the same ids."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.inputs.tokenizer import Tokenizer, tokenizer_digest
from nvlm_jax.training.steps import CHECKPOINTS, find_step, is_checkpoint, read_meta

# Texts whose ids tell merges apart that one vocabulary can have in many orders.
PROBES = ("The quick brown fox, 1234567 times.", "  def f(x):\n\treturn x ** 2  # ok", "Füße, 東京, naïve façade")
SHOWN = 3
log = logging.getLogger(__name__)


def source_tokenizer(source: str) -> str:
    """The tokenizer of a checkpoint: a workdir's, or the Hugging Face directory itself; empty where it has none."""
    if is_checkpoint(source):
        workdir, step = find_step(source)
        path = read_meta(workdir / CHECKPOINTS / str(step))[0].inputs.tokenizer
    else:
        path = str(Path(source).parent if Path(source).is_file() else source)
    return path if tokenizer_digest(path) else ""


def with_tokenizer_of_llm(config: RunConfig) -> RunConfig:
    """The config with the tokenizer of `init.checkpoint` or `init.llm`, where they have one."""
    source = config.init.checkpoint or config.init.llm
    path = source_tokenizer(source) if source and Path(source).exists() else ""
    if not path or path == config.inputs.tokenizer:
        return config
    log.info("inputs.tokenizer: that of %s; --config.inputs.tokenizer would name another", source)
    return dataclasses.replace(config, inputs=dataclasses.replace(config.inputs, tokenizer=path))


def check_tokenizer(config: RunConfig) -> None:
    """Raise ConfigError if `init.llm` has another tokenizer, unless `init.other_tokenizer` says that it is meant.

    One that has the same ids for all of the LLM's tokens, and more tokens, is no other one.
    """
    theirs, ours = source_tokenizer(config.init.llm), config.inputs.tokenizer
    if not theirs or tokenizer_digest(ours) in ("", tokenizer_digest(theirs)):
        return
    if not (fault := difference(Tokenizer(theirs), Tokenizer(ours))):
        log.info("inputs.tokenizer: %s has the tokens of %s, and may have more", ours, theirs)
    elif config.init.other_tokenizer:
        log.warning("inputs.tokenizer: another than init.llm's, as init.other_tokenizer says: %s", fault)
    else:
        raise ConfigError(
            f"inputs.tokenizer: {ours} is not the tokenizer of init.llm, {theirs}: {fault}. The LLM has learned those "
            f"ids: set inputs.tokenizer={theirs}, or init.other_tokenizer=True if it is to learn new ones"
        )


def difference(theirs: Tokenizer, ours: Tokenizer) -> str:
    """What tells a tokenizer from the LLM's; empty where every token and probe of the LLM's has the same ids."""
    then, now = theirs.vocabulary(), ours.vocabulary()
    if other := [token for token, i in then.items() if now.get(token) != i]:
        some = [f"{token!r} is {then[token]} there and {now.get(token, 'absent')} here" for token in other[:SHOWN]]
        return f"{len(other)} of its {len(then)} tokens have other ids ({', '.join(some)})"
    if text := next((text for text in PROBES if theirs.encode(text) != ours.encode(text)), ""):
        return f"{text!r} has other ids"
    return ""
