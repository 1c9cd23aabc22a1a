"""Files of a run's directory: whole or absent, however many write them."""

from nvlm_jax.training import workdir


def test_two_writers_at_once_leave_a_whole_file_each(tmp_path, monkeypatch):
    path, sync, others = tmp_path / "state.json", workdir.os.fsync, ["b"]

    def another_writes_meanwhile(file: int) -> None:
        if others:
            workdir.write_atomically(path, others.pop())
        sync(file)

    monkeypatch.setattr(workdir.os, "fsync", another_writes_meanwhile)
    workdir.write_atomically(path, "a")
    assert path.read_text() == "a" and list(tmp_path.iterdir()) == [path]
