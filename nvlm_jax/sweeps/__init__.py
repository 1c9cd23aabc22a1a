"""Many runs from one file: variants and their plan, running them, search, and what they show together.

    sweep_file.py what a sweep's Python file says; variants.py: its variants, resolved, checked, named by what differs
    budgets.py    equal steps, samples or FLOPs
    store.py      the sweep's directory: plan, states; record.py, hparams.py: what a finished run leaves there
    runner.py     train -> evaluate -> results.json as processes on this machine; tables.py: plan and state to look at
    search.py     Optuna's samplers and pruners over the same runs
    cluster.py    a SLURM array or a Kubernetes JobSet of the same runs
    compare.py    intervals over seeds, paired tests, Holm's correction
    page.py       the report, with charts.py and rows.py; claims.py: verdicts on the paper's claims
"""
