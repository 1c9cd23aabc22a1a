"""Fields that clients of OpenAI's API and of other servers send, and that have no effect here.

Those that say nothing of the answer may have any value. Those that would change it may have the value that changes
nothing. Every other field is refused, so that nothing is asked for and silently left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nvlm_jax.serving.errors import Refused

# Of bookkeeping: who asks, where it is stored, what may be cached.
ANY = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
# What a client may say of a field that is not served. null is always one of them.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "min_p": (0,),
    "typical_p": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "echo": (False,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "truncate_prompt_tokens": (),
}
# Of messages, as clients hand back what they were answered.
OF_MESSAGES: dict[str, tuple[Any, ...]] = {
    "refusal": ("",),
    "annotations": ([],),
    "tool_calls": ([],),
    "function_call": (),
    "audio": (),
    "reasoning_content": ("",),
    "reasoning": ("",),
}
NAMES = frozenset(("name",))  # of who speaks: no template here writes it
OF_STREAMS: dict[str, tuple[Any, ...]] = {
    "include_obfuscation": (True, False),
    "continuous_usage_stats": (False,),
}


def refuse_unserved(
    fields: Mapping[str, Any] | None,
    place: str = "",
    neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL,
    harmless: Collection[str] = ANY,
) -> None:
    """Raise Refused (400), naming the field, where one of the fields would have to change the answer.

    Args:
        fields: those that nothing here reads.
        place: what stands before their names in messages, "messages.0." for one.
        neutral: values that change nothing, by field.
        harmless: fields that may have any value.
    """
    for name, value in (fields or {}).items():
        allowed = neutral.get(name, ())
        if value is None or name in harmless or any(_same(value, other) for other in allowed):
            continue
        field = f"{place}{name}"[:200]
        right = "leave it out" + "".join(f" or send {other!r}" for other in allowed[:1])
        raise Refused(400, f"{field}: is not served; {right}", field, "invalid_value")


def _same(value: Any, other: Any) -> bool:
    """Equal, and of one kind: true is not 1, and 1.0 is."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
