"""A served model, against a server of this process that speaks as OpenAI's does."""

import http.client
import json
from contextlib import contextmanager

import numpy as np
import pytest

from evaluation import long_context, mteb_run
from evaluation.harness import endpoint as module
from evaluation.harness.endpoint import Endpoint, open_endpoint
from tests.checkpoints import save_tokenizer
from tests.evaluation.harness.test_encoder import TEXTS, ask
from tests.evaluation.tasks.stub import embed
from tests.serving import serving

KEY = "sk-secret"


class Server:
    """What was asked, and what is answered: `failures` are statuses given before an answer."""

    def __init__(self):
        self.requests, self.keys, self.failures = [], [], []
        self.answer = self.embeddings
        self.url = ""

    def embeddings(self, asked):
        """In another order than they were asked for."""
        rows = [{"index": n, "embedding": row.tolist()} for n, row in enumerate(embed(asked["input"]))]
        return {"object": "list", "data": rows[::-1], "model": asked["model"], "usage": {"total_tokens": 1}}


@contextmanager
def answering():
    server = Server()

    def respond(method, path, headers, body):
        server.keys.append(headers.get("authorization"))
        if server.failures:
            return server.failures.pop(0), {}, f"not now, {headers.get('authorization')}".encode()
        asked = json.loads(body)
        server.requests.append((path, asked))
        return 200, {}, json.dumps(server.answer(asked)).encode()

    with serving(respond) as address:
        server.url = f"{address}/v1"
        yield server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "_WAIT", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with answering() as server:
        yield server


def opened(server, texts_per_request=32, **settings):
    endpoint = Endpoint(url=server.url, model="some-model", texts_per_request=texts_per_request)
    return open_endpoint(endpoint, max_seq_length=512, **settings)


def test_texts_are_embedded_in_their_order_with_key_and_prompt(server):
    encoder = opened(server, texts_per_request=2, prompts={"STS": "topic: "})
    server.requests.clear()
    np.testing.assert_array_equal(ask(encoder, "STSBenchmark"), embed(["topic: " + text for text in TEXTS]))
    asked = sorted(request["input"] for _, request in server.requests)
    assert [path for path, _ in server.requests] == ["/v1/embeddings"] * 2
    assert asked == sorted([["topic: " + text for text in TEXTS[:2]], ["topic: " + TEXTS[2]]])
    assert all(request["model"] == "some-model" for _, request in server.requests)
    assert set(server.keys) == {f"Bearer {KEY}"}
    by_the_paper = ask(opened(server, rules="paper"), "STSBenchmark")
    np.testing.assert_allclose(np.linalg.norm(by_the_paper, axis=1), 1, atol=1e-5)


def test_texts_are_cut_by_the_tokenizer_that_is_given(server, tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    endpoint = Endpoint(url=server.url, model="some-model")
    encoder = open_endpoint(endpoint, max_seq_length=12, tokenizer=str(tmp_path / "tokenizer"))
    server.requests.clear()
    ask(encoder, "STSBenchmark", texts=["abcde fghijklmno", "short", "", "abcdefghij"])
    assert server.requests[0][1]["input"] == ["abcde fghij", "short", " ", "abcdefghij"]  # 10 letters, [CLS], [SEP]
    assert encoder.mteb_model_meta.revision.endswith("-seq12")
    assert opened(server).mteb_model_meta.revision.endswith("-whole")


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(server):
    server.failures = [429, 503]
    assert opened(server).protocol.name == "endpoint/some-model"
    server.failures = [401] * 9
    with pytest.raises(ConnectionError, match=r"/v1/embeddings refused: HTTP 401 not now, Bearer \*\*\*"):
        opened(server)
    assert len(server.failures) == 8
    server.failures = [500] * 9
    with pytest.raises(ConnectionError, match="HTTP 500"):
        opened(server)
    assert len(server.failures) == 3


def test_an_answer_that_was_cut_off_is_asked_for_again(server, monkeypatch):
    opener, cut = module.urllib.request.urlopen, [True, False]

    def urlopen(*arguments, **settings):
        response = opener(*arguments, **settings)
        if cut.pop(0):
            response.read = lambda: (_ for _ in ()).throw(http.client.IncompleteRead(b"{"))
        return response

    monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
    assert opened(server).mteb_model_meta is not None and not cut


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": "no"}, "did not answer with embeddings .KeyError: 'data'"),
        ({"data": [{"index": 0, "embedding": "x"}]}, "did not answer with embeddings"),
        ({"data": []}, "1 texts were asked for, and it numbers 0 otherwise"),
        ({"data": [{"index": 1, "embedding": [1.0]}]}, "1 texts were asked for, and it numbers 1 otherwise"),
        ({"data": [{"index": 0, "embedding": []}]}, r"zeros alone, of shape \(1, 0\)"),
        ({"data": [{"index": 0, "embedding": [0.0, 0.0]}]}, r"zeros alone, of shape \(1, 2\)"),
    ],
)
def test_an_answer_without_embeddings_is_shown(server, answer, message):
    server.answer = lambda _: answer
    with pytest.raises(ValueError, match=message):
        opened(server)


def test_a_command_line_runs_tasks_on_it_and_keeps_their_results(server, task_file, tmp_path, capsys):
    words = ["--endpoint", server.url, "--model", "acme/served", "--local_tasks", str(task_file)]
    mteb_run.main([*words, "--output_dir", str(tmp_path / "out"), "--prompts", '{"query": "q: "}'])
    printed = capsys.readouterr().out
    assert "acme/served\n" in printed and "toy_sts" in printed and "toy_search" in printed
    asked = {text for _, request in server.requests for text in request["input"]}
    assert sum(text.startswith("q: ") for text in asked) == 12
    done = len(server.requests)
    mteb_run.main([*words, "--output_dir", str(tmp_path / "out"), "--prompts", '{"query": "q: "}'])
    assert len(server.requests) == done + 1  # the text that shows whether the server answers
    (file,) = (tmp_path / "out").rglob("protocol.json")
    protocol = json.loads(file.read_text())
    assert (protocol["checkpoint"], protocol["rules"], protocol["max_seq_length"]) == ("acme/served", "model", None)
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json*"))
    assert KEY not in written and "127.0.0.1" not in written


def test_long_context_runs_once_or_to_lengths_of_a_tokenizer(server, task_file, tmp_path):
    words = ["--endpoint", server.url, "--model", "m", "--local_tasks", str(task_file)]
    words += ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="--lengths of an --endpoint need --tokenizer"):
        long_context.main([*words, "--lengths", "64"])
    long_context.main(words)
    save_tokenizer(tmp_path / "tokenizer")
    long_context.main([*words, "--tokenizer", str(tmp_path / "tokenizer"), "--lengths", "16", "32"])
    revisions = sorted(path.name.rsplit("-", 1)[1] for path in (tmp_path / "out" / "results" / "endpoint__m").iterdir())
    assert revisions == ["seq16", "seq32", "whole"]


def test_what_cannot_be_meant_ends_with_one_line(server, task_file, tmp_path, capsys):
    words = ["--local_tasks", str(task_file), "--output_dir", str(tmp_path / "out")]
    for more, message in (
        (["--endpoint", "localhost:8000", "--model", "m"], "must begin with http"),
        (["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"], "http://127.0.0.1:9/v1/embeddings does not answer"),
        (["--endpoint", server.url, "--model", "m", "--prompts", '{"Cluster": "x"}'], "the prompt name 'Cluster'"),
    ):
        with pytest.raises(SystemExit, match=message):
            mteb_run.main([*more, *words])
    few = ["--endpoint", server.url, "--model", "m", "--texts_per_request", "0"]
    for more, message in (few, "--texts_per_request: must be a whole number of at least 1"), ([], "name a model"):
        with pytest.raises(SystemExit) as end:
            mteb_run.main([*more, *words])
        assert end.value.code == 2 and message in capsys.readouterr().err
