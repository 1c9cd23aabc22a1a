"""The judge against a server of its own: asked once, patient with a busy one, plain about a broken one."""

import http.server
import json
import threading

import pytest

from nvlm_jax.evaluation.benchmark import ask
from nvlm_jax.evaluation.judge import Judge, JudgeError

QUESTION = ask("q", "How many?\nA. one\nB. two", (b"x",), {})


@pytest.fixture
def server():
    """An OpenAI-compatible server: `server.replies` are (status, text) in turn, `server.asked` what came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append((self.path, body, self.headers.get("Authorization")))
            status, text = self.server.replies.pop(0)
            content = {"choices": [{"message": {"content": text}}]} if text is not None else {"choices": []}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.replies = [], []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def judge_of(server, tmp_path, key: str = "") -> Judge:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/"
    return Judge(url, "reader", tmp_path / "out" / "judge.jsonl", key, wait_seconds=0.01)


def test_an_answer_is_read_once_and_kept(server, tmp_path):
    server.replies = [(200, " B\n")]
    assert judge_of(server, tmp_path, "secret").read(QUESTION, "Surely the second.") == "B"
    assert judge_of(server, tmp_path).read(QUESTION, "Surely the second.\n") == "B"
    [(path, body, authorization)] = server.asked
    assert path == "/v1/chat/completions" and body["model"] == "reader" and body["temperature"] == 0
    assert authorization == "Bearer secret" and "secret" not in (tmp_path / "out" / "judge.jsonl").read_text()
    text = body["messages"][0]["content"]
    assert "How many?\nA. one" in text and "Surely the second." in text and "<image>" not in text


def test_no_answer_is_none(server, tmp_path):
    server.replies = [(200, "None."), (200, "")]
    assert judge_of(server, tmp_path).read(QUESTION, "I cannot see it.") is None
    assert judge_of(server, tmp_path).read(QUESTION, "Hm.") is None


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.replies = [(429, ""), (503, ""), (200, "A")]
    assert judge_of(server, tmp_path).read(QUESTION, "x") == "A" and len(server.asked) == 3


def test_a_refusal_and_nonsense_are_errors(server, tmp_path):
    server.replies = [(401, "no key"), (200, None)]
    with pytest.raises(JudgeError, match=r"/v1/chat/completions, model 'reader': status 401"):
        judge_of(server, tmp_path).read(QUESTION, "x")
    with pytest.raises(JudgeError, match="its reply is no chat completion"):
        judge_of(server, tmp_path).read(QUESTION, "x")


def test_a_server_that_is_away_is_an_error(tmp_path):
    with pytest.raises(JudgeError, match="refused"):
        Judge("http://127.0.0.1:9/v1", "reader", tmp_path / "judge.jsonl", wait_seconds=0.01).read(QUESTION, "x")


def test_a_broken_last_line_of_the_replies_is_asked_again(server, tmp_path):
    server.replies = [(200, "A"), (200, "A")]
    judge_of(server, tmp_path).read(QUESTION, "x")
    kept = tmp_path / "out" / "judge.jsonl"
    kept.write_text(kept.read_text()[:40] + "\n")
    assert judge_of(server, tmp_path).read(QUESTION, "x") == "A" and len(server.asked) == 2
