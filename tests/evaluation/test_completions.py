"""The program in an answer to "complete this function", however a model wraps it up."""

import pytest

from nvlm_jax.evaluation import fences
from nvlm_jax.evaluation.completions import program

PROMPT = 'import math\n\n\ndef f(x):\n    """Root."""\n'
WHOLE = "def f(x):\n    return math.sqrt(x)\n"
USAGE = "print(f(4))  # 2.0"

OUTPUTS = {
    "python3": f"```python3\n{WHOLE}```",
    "upper case": f"```Python\n{WHOLE}```",
    "attributes": f'Here:\n```python title="root.py" linenums="1"\n{WHOLE}```',
    "pandoc": f"``` {{.python .numberLines startFrom=1}}\n{WHOLE}```",
    "file name": f"```python:root.py\n{WHOLE}```",
    "windows line ends": f"Sure.\r\n```python\r\n{WHOLE}```\r\nDone.".replace("\n", "\r\n").replace("\r\r", "\r"),
    "tildes": f"~~~python\n{WHOLE}~~~\nDone.",
    "four marks": f"````python\n{WHOLE}````",
    "of a list's item": "1. The code:\n\n   ```python\n   def f(x):\n       return math.sqrt(x)\n   ```\n2. Done.",
    "in a list's first line": "- ```python\n  def f(x):\n      return math.sqrt(x)\n  ```",
    "indented in its fence": "```\n    def f(x):\n        return math.sqrt(x)\n```",
    "bash first": f"Install:\n```bash\npip install math\n```\nThen:\n```python\n{WHOLE}```",
    "unknown tag first": f"```console\n$ python f.py\n```\n\n```python\n{WHOLE}```",
    "usage first": f"Use it so:\n```python\n{USAGE}\n```\nwhere\n```python\n{WHOLE}```",
    "usage behind": f"```python\n{WHOLE}```\n\n```python\n{USAGE}\nassert f(9) == 4\n```",
    "text tag": f"```text\n{WHOLE}```",
    "question repeated first": f"```python\n{PROMPT}    pass\n```\nbecomes\n```python\n{WHOLE}```",
    "helper in a block before": "```python\ndef g(x):\n    return x\n```\nand\n```python\ndef f(x):\n"
    "    return g(math.sqrt(x))\n```",
    "never closed": f"The answer:\n```python\n{WHOLE}",
    "never closed, then words": f"```python\n{WHOLE}\nThis takes the root of x, for math.sqrt does so.",
    "closed behind code": "```python\ndef f(x):\n    return math.sqrt(x)```\nDone.",
    "opened behind words": f"Here you are: ```python\n{WHOLE}```",
    "cut in a second function": f"```python\n{WHOLE}\n\ndef g(x):\n    return [",
    "future import": f"```python\nfrom __future__ import annotations\n\n{WHOLE}```",
    "lambda": "```python\nf = lambda x: math.sqrt(x)\n```",
    "no fence, words around": f"Here is the function:\n\n{WHOLE}\nIt uses math.sqrt to find the root.",
    "no fence, import": f"import math\nfrom typing import List\n\n{WHOLE}",
    "continued": "    return math.sqrt(x)\n",
    "continued, first blanks lost": "y = math.sqrt(x)\n    return y\n",
    "continued, all blanks lost": "y = math.sqrt(x)\nreturn y",
    "continued in a fence": "```python\n    y = math.sqrt(x)\n    return y\n```",
    "continued in a fence after a blank line": "```python\n\n    y = math.sqrt(x)\n\n    return y\n```",
    "continued in a fence at the margin": "```\ny = math.sqrt(x)\nif y:\n    return y\n```",
    "continued, then words": "    return math.sqrt(x)\n\nThis function returns the root of x.",
    "continued after bash": "```sh\nls\n```\n```py\n    return math.sqrt(x)\n```",
    "tabs": "\treturn math.sqrt(x)\n",
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_the_right_function_is_run(output):
    space: dict = {"print": lambda *_: None}
    exec(program(output, PROMPT, "f"), space)
    assert space["f"](9) == 3


def test_a_wrong_function_is_not_mended():
    space: dict = {}
    exec(
        program("```python\ndef f(x):\n    return 5\n```\n```python\ndef g(x):\n    return 3\n```", PROMPT, "f"), space
    )
    assert space["f"](9) == 5


@pytest.mark.parametrize("output", ["", " \n", "```python\n```", "```\n\n```"])
def test_nothing_is_none(output):
    assert program(output, PROMPT, "f") is None


NO_PYTHON = ["I cannot do that.", "def f(x:\n" * 300, "(" * 5000, "x = \0", "```python\n" * 50, "~" * 50_000 + "`"]


@pytest.mark.parametrize("output", NO_PYTHON, ids=range(len(NO_PYTHON)))
def test_what_is_no_python_is_a_program_that_fails(output):
    code = program(output, PROMPT, "f")
    if code is not None:
        with pytest.raises((SyntaxError, ValueError, MemoryError, RecursionError)):
            compile(code, "program", "exec")


def test_blocks_and_their_languages():
    text = "Say `x`.\n~~~ {.Python #id}\na\n```\nb\n~~~\n```\n\n```\n- item\n  ```js run\n  c\n    d\n  ```\n```c++\ne"
    assert fences.blocks(text) == [("python", "a\n```\nb"), ("", ""), ("js", "c\n  d"), ("c++", "e")]
    assert [block.is_python for block in fences.blocks(text)] == [True, True, False, False]
