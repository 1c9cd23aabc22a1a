"""Places of a store: held, kept for their content, given up."""

import random

import pytest

from nvlm_jax.generation.ledger import Ledger


def test_content_is_found_until_its_room_is_needed():
    ledger = Ledger(4)
    first, second = ledger.take(2)
    assert 0 not in (first, second)
    ledger.name(first, b"a")
    ledger.name(second, b"b")
    ledger.release([first, second])
    assert ledger.available == 3 and ledger.held == 0
    assert ledger.find(b"a") == first and ledger.find(b"c") is None
    # `a` is held again: the free place and b's are what there is.
    assert ledger.take(3) is None
    assert set(ledger.take(2)) == {1, 2, 3} - {first}
    assert b"a" in ledger and b"b" not in ledger


def test_a_place_is_free_when_its_last_holder_lets_go():
    ledger = Ledger(2)
    [place] = ledger.take(1)
    ledger.name(place, b"a")
    assert ledger.find(b"a") == place
    ledger.release([place])
    assert ledger.take(1) is None and ledger.held == 1
    ledger.release([place])
    assert ledger.take(1) == [place] and b"a" not in ledger


def test_what_began_a_prompt_stays_longest():
    ledger = Ledger(5)
    pages = ledger.take(4)
    for page, key in zip(pages, (b"1", b"2", b"3", b"4"), strict=True):
        ledger.name(page, key)
    ledger.release(pages)
    ledger.take(2)
    assert [key in ledger for key in (b"1", b"2", b"3", b"4")] == [True, True, False, False]


def test_a_second_copy_of_the_same_content_is_not_kept():
    ledger = Ledger(3)
    first, second = ledger.take(2)
    ledger.name(first, b"a")
    ledger.name(second, b"a")
    ledger.release([second, first])
    assert ledger.find(b"a") == first
    assert ledger.take(1) == [second]


@pytest.mark.parametrize("seed", range(3))
def test_no_place_is_ever_lost_or_held_for_two_contents(seed):
    draw, ledger, held, content = random.Random(seed), Ledger(9), [], {}
    for number in range(2000):
        if draw.random() < 0.5 and (taken := ledger.take(draw.randint(1, 3))):
            for place in taken:
                assert place not in held
                content[place] = b"%d" % draw.randint(0, 15) if draw.random() < 0.7 else None
                if content[place] and content[place] not in ledger:
                    ledger.name(place, content[place])
                held.append(place)
        elif draw.random() < 0.5 and (place := ledger.find(b"%d" % draw.randint(0, 15))) is not None:
            held.append(place)
        elif held:
            ledger.release([held.pop(draw.randrange(len(held)))])
        assert ledger.held == len(set(held)) and ledger.available == 8 - len(set(held))
        if number == 1000:
            ledger.release(held)
            held = []
