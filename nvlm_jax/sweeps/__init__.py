"""Many runs from one file: variants and their plan, running them, search, and what they show together.

variants.py   a sweep file's `sweep(add)` -> Variants, all checked, each named by what differs
budgets.py    equal steps, samples or FLOPs
store.py      the sweep's directory: plan, states, results
runner.py     train -> evaluate -> results.json as processes on this machine
search.py     Optuna's samplers and pruners over the same runs
cluster.py    a SLURM array or a Kubernetes JobSet of the same runs
compare.py    intervals over seeds, paired tests, verdicts
page.py       the report; claims.py: verdicts on the paper's claims
"""
