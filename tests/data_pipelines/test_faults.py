import json

import pytest

from data_pipelines.faults import BadSamples, Fault, TooManyBadSamples, fault_of
from nvlm_jax.inputs.errors import BadSample


def test_reason_of_an_error():
    assert fault_of("qa/1", BadSample("too_long", "9 tokens")) == Fault("qa/1", "too_long", "9 tokens")
    assert fault_of("qa/1", ZeroDivisionError("x")) == Fault("qa/1", "unexpected ZeroDivisionError", "x")
    assert fault_of("qa/1", OSError("cannot read <BytesIO at 0x7f12ab>")).message == "cannot read <BytesIO>"


def test_the_share_is_judged_from_200_samples_on_or_at_the_end():
    bad = BadSamples(0.01)
    bad.add(199, [Fault("a/1", "too_long", "m")] * 50)
    bad.check()
    with pytest.raises(TooManyBadSamples, match=r"50 of 199 samples are bad, more than data\.max_bad_share=0\.01"):
        bad.check(end=True)
    bad.add(1, [])
    with pytest.raises(TooManyBadSamples):
        bad.check()


def test_a_share_at_the_limit_is_allowed():
    bad = BadSamples(0.01)
    bad.add(300, [Fault("a/1", "too_long", "m")] * 3)
    bad.check(end=True)
    bad.add(0, [Fault("a/2", "too_long", "m")])
    with pytest.raises(TooManyBadSamples):
        bad.check()


def test_the_list_names_every_reason_with_ids():
    bad = BadSamples(0.0)
    bad.add(300, [Fault(f"a/{i}", "unreadable_image", f"image {i}") for i in range(23)])
    bad.add(200, [Fault("b/7", "too_long", "9")])
    assert list(bad.by_reason()) == ["unreadable_image", "too_long"]
    summary = bad.summary().splitlines()
    assert summary[0].startswith("  unreadable_image: 23 (a/0, a/1, ") and "a/19 and 3 more)" in summary[0]
    assert summary[1] == "  too_long: 1 (b/7); first: 9"


def test_counting_goes_on_from_its_state():
    bad = BadSamples(0.01)
    bad.add(150, [Fault("a/1", "too_long", "m")])
    again = BadSamples(0.01, json.loads(json.dumps(bad.state())))
    again.add(50, [])
    again.check()
    assert (again.read, again.faults) == (200, bad.faults)
