from data_pipelines import embedded
from data_pipelines.records import RecordSource
from tests.commands import command


def test_prepare_makes_what_is_asked_for_once(tmp_path):
    flags = (f"--out={tmp_path}", "--dataset=embedded", "--only=text,qa", "--samples=70", "--seed=3")
    first = command("launch.prepare", *flags)
    assert first.returncode == 0 and "made text, qa" in first.stdout and "70/70" in first.stdout
    assert len(RecordSource(tmp_path / "qa")) == 70 and RecordSource(tmp_path / "qa")[0].id == "qa-train-3-0"
    second = command("launch.prepare", *flags)
    assert second.returncode == 0 and "made nothing; ready before: text, qa" in second.stdout


def test_prepare_refuses_what_it_does_not_know(tmp_path):
    unknown = command("launch.prepare", f"--out={tmp_path}", "--only=qa,pages")
    assert unknown.returncode != 0
    assert "no dataset pages; there are caption-1, aligned, qa-1" in unknown.stdout + unknown.stderr
    stray = command("launch.prepare", f"--out={tmp_path}", "qa")
    assert stray.returncode != 0 and "unexpected arguments" in stray.stdout + stray.stderr
    assert not list(tmp_path.iterdir())


def test_budgets_are_suggested_for_a_run(tmp_path):
    embedded.prepare(tmp_path, ["qa", "text"], samples=60, processes=0)
    config = tmp_path / "run.py"
    config.write_text(
        "from configs import nvlm\n"
        "def get_config():\n"
        "    config = nvlm.get_config('arch=d,size=tiny,stage=sft')\n"
        f"    config.data.blend = [dict(name=n, path='{tmp_path}/' + n, weight=1.0) for n in ('qa', 'text')]\n"
        "    return config\n"
    )
    done = command("launch.prepare", "--suggest_budgets", f"--config={config}")
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert "tiles a sample" in table[0] and table[2].endswith("(now)") and len(table) >= 5
    assert table[-1].startswith("--config.data.tokens_per_row=")
    assert "--suggest_budgets needs the run" in command("launch.prepare", "--suggest_budgets").stderr
