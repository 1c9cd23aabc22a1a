"""Templates of checkpoints end, whatever they say, and say why in one line; ordinary ones render as Jinja does."""

import tracemalloc

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nvlm_jax.inputs import bounded_jinja
from nvlm_jax.inputs.own_template import render_template

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": " hi "}]
GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = MORE %}{% endfor %}{{ ns.x }}"
LONG = "{% set x = 'a' * 100000 %}"


def growing(start: str, more: str) -> str:
    return GROW.replace("START", start).replace("MORE", more)


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops over a text": "{% for a in 'abcdefghij' %}" * 9 + "{% endfor %}" * 9,
    "loops over messages": "{% for a in messages %}" * 19 + "{% endfor %}" * 19,
    "calls that double": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "a call of itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a loop of itself": "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "a product": "{{ 'a' * 10**10 }}",
    "a product of lists": "{{ [1] * 10**9 }}",
    "a power": "{{ 10**10**8 }}",
    "a text that doubles": growing("'aaaaaaaa'", "ns.x ~ ns.x"),
    "a sum that doubles": growing("'aaaaaaaa'", "ns.x + ns.x"),
    "a block that doubles": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}"
    "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "lists in lists": growing("[1]", "[ns.x, ns.x]"),
    "dicts in dicts": growing("{}", "{'a': ns.x, 'b': ns.x}").replace("{{ ns.x }}", "{{ ns.x|tojson }}"),
    "dicts by call": growing("{}", "dict(a=ns.x, b=ns.x)"),
    "output": "{% for i in range(9999) %}{{ 'a' * 100000 }}{% endfor %}",
    "padding": "{{ 'a'.ljust(10**9) }}",
    "a filter's padding": "{{ 'a'|center(10**9) }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a filter's width": "{{ '%1000000000d'|format(1) }}",
    "a format's width": "{{ '{:1000000000}'.format(1) }}",
    "a width apart": "{{ '%*d' % (10**9, 1) }}",
    "a width in braces": "{{ '{:{}}'.format(1, 10**9) }}",
    "replace": LONG + "{{ x.replace('a', x) }}",
    "a filter's replace": LONG + "{{ x|replace('a', x) }}",
    "replace nothing": LONG + "{{ x.replace('', x) }}",
    "join": LONG + "{{ ([x] * 100000)|join(x) }}",
    "a text's join": LONG + "{{ x.join(['a'] * 100000) }}",
    "indent": "{{ '\n'.join(['a'] * 100000)|indent(10**6) }}",
    "JSON's indent": "{{ [[1]]|tojson(indent=10**9) }}",
    "words": "{{ lipsum(n=10**6) }}",
    "filters of long lists": "{% for i in range(9999) %}{% set x = range(99999)|sort %}{% endfor %}",
    "a division": "{{ 1 // 0 }}",
    "brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "blocks": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "an error of many lines": "{% if %}\n{{ '" + "x" * 10_000,
    "its length": "a" * (2 << 20),
}


SLOW = ("nested loops", "loops over a text", "loops over messages", "calls that double", "filters of long lists")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends(name):
    """By count, not by the clock; before it has taken the memory."""
    measured = name not in SLOW  # each allocation is traced
    if measured:
        tracemalloc.start()
    try:
        with pytest.raises(jinja2.TemplateError) as raised:
            render_template(HOSTILE[name], MESSAGES, True, {})
        assert not measured or tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value) and 0 < len(str(raised.value)) <= 300


def test_division_by_zero_says_so():
    with pytest.raises(jinja2.TemplateError, match=r"^ZeroDivisionError: integer division or modulo by zero$"):
        render_template("{{ 1 // 0 }}", MESSAGES, True, {})


ORDINARY = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content']|trim }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ loop.index }}/{{ loop.length }}{{ a ~ b }}{{ loop.revindex }}{% endfor %}",
    "{% for m in messages if m.role == 'tool' %}{{ m.content }}{% else %}none{% endfor %}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(', ') }}",
    "{% set ns = namespace(n=1, s='') %}{% for i in range(9) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}"
    "{% if i == 4 %}{% break %}{% endif %}{% endfor %}{{ ns.n }} {{ ns.s }}",
    "{{ {'a': [1, 'x', none, 2.5]}|tojson }}{{ [1, {'b': 'ü'}]|tojson(indent=4) }}{{ {'b': 1}.items()|list }}",
    "{% macro f(x, y=2) %}[{{ x }}{{ y }}]{% endmacro %}{{ f(3) }}{{ f('a', y='b')|upper }}{{ [1, 2]|string }}",
    "{% filter upper %}a{% endfilter %}{% set x %}b{{ 1 }}{% endset %}{{ x }}{{ [3, 1]|sort|first }}{{ 7 % 3 }}",
    "{{ 'a,b'.split(',')[-1] }}{{ 'abcb'.replace('b', 'x', 1) }}{{ 'abc'[::-1] }}{{ 'a' * 3 }}{{ 2 ** 5 }}{{ 7 // 2 }}",
    "{{ '%s-%05.2f' % ('a', 2) }}{{ '{} {x}'.format(1, x='b') }}{{ '%d'|format(3) }}{{ '-'.join(['a', 'b']) }}",
    "{{ 'a\nb'|indent(2) }}{{ 'a\nb'|indent(2, true) }}{{ range(3)|list }}{{ missing|default('d') }}{{ missing }}",
    "{{ messages|length }}{{ messages[0].content.startswith('he') }}{{ messages is string }}{{ 'x' in 'xy' }}",
    "{% for x in missing %}{% endfor %}{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}",
    "{% for a in [[1, [2]], [3]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}{% endif %}"
    "{% endfor %}",
)


@pytest.mark.parametrize("template", ORDINARY)
def test_an_ordinary_template_renders_as_by_jinja(template):
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    ).from_string(template)
    assert render_template(template, MESSAGES, True, {}) == plain.render(messages=MESSAGES)


def test_long_conversations_stay_far_below_the_bounds():
    environment = bounded_jinja.Bounded(trim_blocks=True)
    messages = [{"role": "user", "content": "x" * 300}] * 2000
    text = environment.from_string(ORDINARY[0]).render(messages=messages)
    assert text.count("<|user|>") == 2000 and environment.steps < bounded_jinja.STEPS
