"""What a record says of the loss: obeyed, or refused by name, and never dropped in silence.

loss, train, train_on_turn, weight ...     true or 1: trained on; false or 0: not
mask                                       refused: some mean what is left out, others what is trained on
tools, videos ...                          refused: the answers are about what the model would not see
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from data_pipelines.raw.entry import Spec
from nvlm_jax.inputs.errors import BadSample

LOSS_KEYS = (
    *("loss", "loss_weight", "loss_mask", "weight"),
    *("train", "trained", "training", "trainable", "train_on_turn"),
)
# Refused where they say anything; of a turn or of a conversation.
UNSUPPORTED = (
    *("tools", "functions", "tool_calls", "function_call", "tool_call_id"),
    *("video", "videos", "audio", "audios", "train_detail", "kto_tag"),
)
# Refused where they are true: nothing but answers is trained on.
TRAIN_ON_MORE = ("train_on_inputs", "train_on_input", "train_on_prompt")
USER_ROLES = ("user", "human")


def ignored(spec: Spec) -> set[str]:
    """Keys that `--fields=ignore:a|b` leaves unread."""
    return set(filter(None, spec.fields.get("ignore", "").split("|")))


def is_trained(where: str, holder: Mapping[str, Any], skip: Iterable[str] = ()) -> bool | None:
    """What a record or a turn says of being trained on; None if it says nothing.

    Args:
        where: for messages.
        holder: the record or turn, without missing values.
        skip: keys that mean something else here.

    Raises:
        BadSample: `unsupported_field`: a share of the loss, a mask, or two keys that disagree.
    """
    said: dict[str, bool] = {}
    for key in (*LOSS_KEYS, "mask", *TRAIN_ON_MORE):
        value = None if key in skip else holder.get(key)
        if value is None or (key == "mask" and not _is_loss_mask(value)):
            continue
        if key == "mask" or (key in TRAIN_ON_MORE and value):
            raise _unsupported(where, key, value, "`loss: false` on a turn leaves it out of the loss")
        if key in LOSS_KEYS:
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise _unsupported(where, key, value, "true and 1 are trained on, false and 0 are not")
            said[key] = bool(value)
    if len(set(said.values())) > 1:
        raise BadSample("unsupported_field", f"{where}: {said} disagree; one of them would do")
    return next(iter(said.values()), None)


def check_record(where: str, record: Mapping[str, Any], skip: Iterable[str] = ()) -> None:
    """Raises BadSample if the record as a whole is not to be trained on (`not_trained`), or as `is_trained`."""
    if is_trained(where, record, skip) is False:
        said = next(key for key in LOSS_KEYS if key not in skip and record.get(key) is not None)
        raise BadSample("not_trained", f"{where}: {said}: {record[said]!r} leaves the whole record out of the loss")


def check_supported(where: str, holder: Mapping[str, Any], skip: Iterable[str] = ()) -> None:
    """Raises BadSample (`unsupported_field`) if a conversation or turn is about tools, videos or sounds."""
    for key in UNSUPPORTED:
        value = None if key in skip else holder.get(key)
        if value is not None and value not in ("", [], {}, False):
            raise _unsupported(where, key, value, "text and images are read")


def _is_loss_mask(value: Any) -> bool:
    """A table's column `mask` may hold pictures; and NeMo's `mask: User` says what is done here anyway."""
    if isinstance(value, list):
        return all(isinstance(item, bool | int | float) for item in value)
    if isinstance(value, str):
        return value.lower() in ("assistant", "gpt", "system", "true", "false", "0", "1")
    return isinstance(value, bool | int | float)


def _unsupported(where: str, key: str, value: Any, right: str) -> BadSample:
    said = f"{where}: {key!r} is {value!r:.80}, which is not obeyed here"
    return BadSample("unsupported_field", f"{said}: {right}; --fields=ignore:{key} reads past it")
