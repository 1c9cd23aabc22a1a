"""Answers as models write them, and what an attentive reader takes out of each."""

import pytest

from nvlm_jax.evaluation.benchmark import ask
from nvlm_jax.evaluation.benchmarks import mathvista
from nvlm_jax.evaluation.readings import own_part, read_choice, read_list, read_number, read_text

NUMBERS = [
    # units, exponents, asides
    ("The answer is 5 cm^2", "5"),
    ("The answer is 5 cm²", "5"),
    ("1.2 m/s^2", "1.2"),
    ("The acceleration is 1.2 m/s^2.", "1.2"),
    ("5 (see step 2)", "5"),
    ("The answer is 5 (see step 2).", "5"),
    ("Answer: $0.5$ since 1/2", "0.5"),
    ("The volume is about 27.5 cm^{3}, as 2.5 * 11 = 27.5.", "27.5"),
    ("It holds $18 \\text{ cm}^2$.", "18"),
    ("The area is 36\\,\\mathrm{m}^2.", "36"),
    ("The concentration of H2O is 4 mol/L", "4"),
    ("It takes 12 s (line 3 of the table).", "12"),
    ("The field is 3 x 10^4 N/C.", "30000"),
    ("The result is $2.5 \\times 10^{-2}$ m.", "0.025"),
    ("6.02e3", "6020"),
    # thousands, money, percent, degrees, fractions
    ("1,203", "1203"),
    ("3 + 1,200 = 1,203", "1203"),
    ("He pays $1,250.75 in all.", "1250.75"),
    ("The share is 45%.", "45"),
    ("45 \\%", "45"),
    ("\\angle ABC = 35^\\circ", "35"),
    ("The angle is 35°.", "35"),
    ("The probability is \\frac{1}{4}.", "0.25"),
    ("So the answer is 3/4.", "0.75"),
    ("x = \\dfrac{9}{2}", "4.5"),
    # signs
    ("The minimum is -1.", "-1"),
    ("about -1.25", "-1.25"),
    ("The change is −3 minutes per month.", "-3"),
    ("f(2) = 4 - 9 = -5", "-5"),
    ("8 - 3 = 5", "5"),
    ("The values lie 10-15 apart, so the answer is 10", "10"),
    # steps to an end
    ("There are 3 rows of 4, so the answer is 12.", "12"),
    ("x = 5", "5"),
    ("Hence x = 5.", "5"),
    ("The answer is x = 5, because 2x = 10.", "5"),
    ("The answer is 3 + 4 = 7.", "7"),
    ("Final answer: 42", "42"),
    ("**Answer:** 42", "42"),
    ("The final value is: 100", "100"),
    ("Therefore, the answer is **3**.", "3"),
    ("Therefore, there are **3** groups with a bar smaller than 40.", "3"),
    ("First we get \\boxed{3}? No: $\\boxed{4}$.", "4"),
    ("\\boxed{12\\text{ cm}}", "12"),
    ("Step 1: count the bars, 7.\nStep 2: take away 2.\nThis leaves 5.", "5"),
    ("1. There are 8 apples.\n2. He eats 3.\nSo 5 are left.", "5"),
    ("The age gap between them is 5 years.", "5"),
    ("So, there is 1 block with 36 houses.", "1"),
    ("The ruler shows 7 inches.", "7"),
    ("In 2010 there were 14 of them.", "14"),
    ("The tallest bar has a height of 12.5 units (approximately).", "12.5"),
    ("Reasoning: 6 * 7 = 42\n#### 42\nThat is 40 more than 2.", "42"),
    ("There are three cubes.", "3"),
    ("The answer is seven.", "7"),
    # nothing, or a refusal
    ("I cannot tell", None),
    ("", None),
    ("The image does not provide any information about the two people.", None),
    # questions of its own
    ("The answer is 9.\n\nQuestion: What is 5 + 7?\nSolution: 5 + 7 = 12. The answer is 12.", "9"),
    ("9\n\nQ: How many are red?\nA: 4", "9"),
]


@pytest.mark.parametrize(("response", "number"), NUMBERS)
def test_the_number_that_is_meant(response, number):
    assert read_number(response) == number


TREES = ("oak", "elm", "oak tree", "plane")
ANGLES = ("20°", "40°", "140°", "70°")
YES_NO = ("Yes", "No")
CHOICES = [
    # letters
    ("B", TREES, "B"),
    ("(B)", TREES, "B"),
    ("B.", TREES, "B"),
    ("B) elm", TREES, "B"),
    ("**B**", TREES, "B"),
    ("\\boxed{B}", TREES, "B"),
    ("\\boxed{\\text{elm}}", TREES, "B"),
    ("The answer is (B).", TREES, "B"),
    ("The correct answer is **(C) 140°**.\n\nFor 2 * 70 = 140.", ANGLES, "C"),
    ("The correct option letter is D.", TREES, "D"),
    ("Answer: B\nExplanation: an oak is no elm, see (A).", TREES, "B"),
    ("Option B is right.", TREES, "B"),
    ("答案是D。", TREES, "D"),
    ("因此,答案为:A", TREES, "A"),
    ("So it must be the elm.\n\nB", TREES, "B"),
    ("A - No, they have no shape.", ("No", "Yes"), "A"),
    ("A: elm", TREES, "B"),
    ("A circle would fit an elm.", TREES, "B"),
    # texts
    ("elm", TREES, "B"),
    ("It is an elm, of course.", TREES, "B"),
    ("This is an oak tree.", TREES, "C"),
    ("An airplane flies past.", TREES, None),
    ("The angle is 40.", ANGLES, "B"),
    ("Thus, the measure of the arc is 140 degrees.", ANGLES, "C"),
    ("∠ABC = 180° - 140° = 40°", ANGLES, "B"),
    ("The perimeter is 20.25, as shown.", ("20.25", "21", "25"), "A"),
    # yes and no
    ("No, it isn't.", YES_NO, "B"),
    ("no", YES_NO, "B"),
    ("Yes. Both are round.", YES_NO, "A"),
    ("The answer is no, for they differ.", YES_NO, "B"),
    ("I do not know it.", YES_NO, None),
    ("It is not now known.", YES_NO, None),
    ("There is no bar that is not notable.", YES_NO, None),
    # refusals, and choices that are none
    ("The text does not provide enough information to pick Yes or No.", YES_NO, None),
    ("I am unable to select option A or B.", YES_NO, None),
    ("Therefore, the correct answer is none of the above (E).", TREES, None),
    ("It cannot be determined from the picture.", ("yes", "It cannot be determined"), "B"),
    ("a tree", TREES, None),
    ("oak or elm", TREES, None),
    ("", TREES, None),
    # questions of its own
    ("The answer is A.\n\nQuestion: Which is it?\nChoices:\n(A) 1\n(B) 2\nThe answer is B.", TREES, "A"),
    ("The answer is (B) elm.\n\nHint: Please give the letter.\nQuestion: And now?\n(A) oak", TREES, "B"),
]


@pytest.mark.parametrize(("response", "choices", "letter"), CHOICES)
def test_the_choice_that_is_meant(response, choices, letter):
    assert read_choice(response, choices) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The red line is less than the blue line.", "A"),
        ("The red line is not less than the blue line.", "B"),
        ("The red line is greater than the blue line.", "B"),
        ("The red line isn't greater than the blue line.", "A"),
        ("It will rain.", None),
        ("Is the red line less than the blue line?", None),
    ],
)
def test_a_statement_in_the_words_of_the_question_says_yes_or_no(response, letter):
    question = "Hint: give the letter.\nQuestion: Is the red line less than the blue line?\nChoices:\n(A) yes\n(B) no"
    assert read_choice(response, ("yes", "no"), question) == letter


def test_lists_and_texts():
    assert read_list("the years [1990, 2000]") == "[1990, 2000]"
    assert read_list("[1]\nQuestion: next?\n[2]") == "[1]"
    assert read_list("1990 and 2000") is None
    assert read_text("The answer is Oak St.") == read_text("Oak St") == "Oak St"
    assert read_text(" ") is None
    assert own_part("Question: mine to begin with") == "Question: mine to begin with"


@pytest.mark.parametrize("response", ["-" * 50_000, "1" * 50_000, "1," * 25_000, "(" * 50_000, "answer is " * 5_000])
def test_long_responses_are_read_in_one_pass(response):
    read_number(response)
    read_choice(response, YES_NO, "Question: is it?")


def test_the_benchmark_uses_them():
    true = {"question_type": "free_form", "answer_type": "float", "choices": None, "precision": 1, "answer": "1.2"}
    question = ask("q", "?", (), true)
    assert mathvista.score(question, "It is 1.2 m/s^2 (see figure 2).", "lmms-eval") == ("1.2", 1.0)
    assert mathvista.score(question, "No idea.", "lmms-eval") == (None, 0.0)
    true = {"question_type": "multi_choice", "answer_type": "text", "choices": ["No", "Yes"], "precision": None}
    question = ask("q", "?", (), true | {"answer": "No"})
    assert mathvista.score(question, "That is not known.", "lmms-eval") == (None, 0.0)
    assert mathvista.score(question, "That is not known.", "megatron") == (None, 1.0)  # takes the first
    assert mathvista.score(question, "", "megatron") == (None, 1.0)
    assert mathvista.score(question, "(B)", "megatron") == ("B", 0.0)
