"""Text <-> token ids, by the decoder's own tokenizer."""

from __future__ import annotations

import functools
import hashlib
import logging
import pathlib
import shutil
from collections.abc import Iterable, Sequence

import tokenizers

from nvlm_jax import json_text
from nvlm_jax.config import ConfigError
from nvlm_jax.inputs.errors import words
from nvlm_jax.inputs.token_bytes import TokenBytes

TEMPLATE = ("tokenizer_config.json", "chat_template.jinja")
FILES = ("tokenizer.json", *TEMPLATE, "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
         "tokenizer.model")  # fmt: skip
MAX_BYTES = 256 << 20  # of a tokenizer.json; those of a vocabulary of 250,000 have 20 MB
_LOG = logging.getLogger(__name__)


class Tokenizer:
    """A Hugging Face `tokenizer.json` that never reads special tokens out of text.

    `<|im_end|>` in a user's text is encoded as the ten characters it is; only `special` gives the token's id, so no
    text can end a turn or claim to be an image. Special are the tokens that the file says are, those that begin with
    `<|`, and what was asked of `special` or given to `guard`, as a chat template's tokens are. Nothing is added around
    a text (no beginning-of-sentence token).
    """

    def __init__(self, path: str | pathlib.Path):
        """Load a directory with `tokenizer.json`, or that file.

        Raises:
            FileNotFoundError: there is none.
            ConfigError: the file is no tokenizer.
        """
        self.path = pathlib.Path(path)
        file = _file(self.path)
        if not file.is_file():
            raise FileNotFoundError(
                f"inputs.tokenizer: {str(path)!r} is neither a directory with a tokenizer.json nor such a file"
            )
        if (size := file.stat().st_size) > MAX_BYTES:
            raise ValueError(f"inputs.tokenizer: {file} has {size:,} bytes; at most {MAX_BYTES:,} are read")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise ConfigError(f"inputs.tokenizer: {file} is no tokenizer: {words(error):.300}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Some files do not mark all of their control tokens as special, and only special ones can be left as text.
        self._tokenizer.encode_special_tokens = True
        self._guarded: set[str] = set()
        self.guard(name for name in self.added_tokens if name.startswith("<|"))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens in it as plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of `text` and, for each, the characters [start, end) of `text` that it stands for."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def guard(self, names: Iterable[str]) -> None:
        """Take tokens for special from now on, whatever the file says of them: no text is read as one of them.

        Names that are no token are passed over.
        """
        new = {name for name in names if self._tokenizer.token_to_id(name) is not None} - self._guarded
        added = {token.content: token for token in self._tokenizer.get_added_tokens_decoder().values()}
        plain = [added.get(name) or tokenizers.AddedToken(name, normalized=False) for name in sorted(new)]
        self._tokenizer.add_special_tokens(plain)
        self._guarded |= new
        self.__dict__.pop("token_bytes", None)  # made from what was special before

    def special(self, name: str) -> int:
        """The id of a special token, which no text is read as from now on.

        Raises:
            ConfigError: the vocabulary has no such token, or it is an ordinary word that any text may hold.
        """
        self.guard([name])
        token = self._tokenizer.token_to_id(name)
        if token is None:
            known = ", ".join(sorted(self.added_tokens)[:20])
            raise ConfigError(f"inputs.tokenizer: {self.path} has no token {name!r}; its special tokens are {known}")
        if token in self.encode(name):
            raise ConfigError(f"inputs.tokenizer: {self.path}: {name!r} is a word that any text may hold, not special")
        return token

    def vocabulary(self) -> dict[str, int]:
        """Every token with its id, special ones included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def added_tokens(self) -> dict[str, int]:
        """Special tokens, and others that stand beside the vocabulary, with their ids."""
        return {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items()}

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids, without special tokens or with them written out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    @functools.cached_property
    def token_bytes(self) -> TokenBytes:
        """What each token adds to a text, in bytes."""
        return TokenBytes(self._tokenizer)

    @functools.cached_property
    def vocab_size(self) -> int:
        """Rows that a model's table needs: the highest id, special tokens included, and one. It may have more."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())  # ids may leave gaps

    def __reduce__(self):
        return _guarding, (type(self), self.path, sorted(self._guarded))


def _guarding(kind: type[Tokenizer], path: pathlib.Path, names: Sequence[str]) -> Tokenizer:
    tokenizer = kind(path)
    tokenizer.guard(names)
    return tokenizer


def copy_files(tokenizer: str | pathlib.Path, directory: pathlib.Path) -> None:
    """Copy `tokenizer.json` and what belongs to it: of a directory all `FILES`, of a file the template beside it.

    A file that is not what its name says is left out, with a warning: a link in a hostile checkpoint may lead to any
    file of the user's, which would be published with what is made of the checkpoint.
    """
    source = pathlib.Path(tokenizer)
    shutil.copyfile(_file(source), directory / FILES[0])
    folder, beside = (source, FILES[1:]) if source.is_dir() else (source.parent, TEMPLATE)
    for file in (folder / name for name in beside):
        if file.is_file() and _is_its_kind(file):
            shutil.copyfile(file, directory / file.name)


def _is_its_kind(file: pathlib.Path) -> bool:
    try:
        if file.suffix == ".json":
            json_text.load_object(file, MAX_BYTES)
            return True
        content = json_text.read_bytes(file, MAX_BYTES)
        text = "" if file.suffix == ".model" else json_text.decode(content)
    except json_text.JsonError as error:
        _LOG.warning("%s is left out: %s", file, error)
        return False
    kinds = {".jinja": "{{" in text, ".txt": _are_merges(text), ".model": content[:1] == b"\n"}
    if not kinds[file.suffix]:
        _LOG.warning("%s is left out: it is none", file)
    return kinds[file.suffix]


def _are_merges(text: str) -> bool:
    """Whether each line is a pair of tokens, as in merges.txt."""
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    return bool(lines) and all(len(line.split(" ")) == 2 for line in lines)


def tokenizer_digest(path: str | pathlib.Path) -> str:
    """16 hexadecimal digits of the tokenizer file's hash; empty where there is no file."""
    file = _file(pathlib.Path(path))
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if path and file.is_file() else ""


def _file(path: pathlib.Path) -> pathlib.Path:
    return path / FILES[0] if path.is_dir() else path
