"""Guards `viscpm evaluate qa90`: from questions to the table, killed and run again, and its errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from safetensors.torch import load_file, save_file
from stub_endpoint import KEY, StubEndpoint

from viscpm_hf import VisCPMChat
from viscpm_hf.cli import main
from viscpm_hf.serving.api import create_app
from viscpm_hf.serving.engine import Engine
from viscpm_hf.serving.server import bound_socket
from viscpm_hf.tiny import tiny_chat_repo


@pytest.fixture
def run(small_qa90, tmp_path, capsys, monkeypatch):
    """Runs the verb on the small QA90; its exit code, output and errors."""
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def run(*arguments):
        words = [*small_qa90.options, "--output", tmp_path / "out", *arguments]
        code = main(["evaluate", "qa90", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judging(qa90, stub, *more):
    return [*qa90.judging, "--judge", "stub", "--judge-url", stub.url, "--judge-key-env", "JUDGE_KEY", *more]


def test_answers_are_the_classes_and_scores_are_the_judges(run, small_qa90, tmp_path):
    """With one verdict that stays malformed: it is left out, said, and asked for again only with --again."""
    never = ["no scores today"]

    def reply(prompt):
        if "reference 4\n" in prompt:
            return never
        return "8 6\nfine" if "reference" in prompt else "8 2"

    with StubEndpoint(reply) as stub:
        code, out, err = run(*judging(small_qa90, stub, "--format", "json", "--price", "10/30"))
        assert code == 0 and "at most 12,288 of replies: at most $0." in err
        assert "1 of 12 verdicts had no two scores and are left out: question 4" in err
        assert KEY not in out + err
        found = json.loads(out)
        assert found["scores"]["average"]["value"] == 75 and found["scores"]["average"]["count"] == 11
        assert found["scores"]["detail"]["count"] == 3 and found["malformed"] == [4]
        assert found["prompt_tokens"] == 1400 and found["language"] == "zh"
        assert found == json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))

        rows = lines(tmp_path / "out" / "answers.jsonl")
        assert [row["question_id"] for row in rows] == list(range(12))
        chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False)
        answer, *_ = chat.chat(small_qa90.picture(small_qa90.rows[4]), small_qa90.rows[4]["text"])
        assert rows[4]["text"] == answer and len(answer) > 5
        assert any(rows[4]["text"] in prompt for prompt in stub.prompts)
        verdicts = lines(tmp_path / "out" / "verdicts.jsonl")
        assert [row["question_id"] for row in verdicts] == list(range(12))
        assert verdicts[4]["tuple"] is None and verdicts[4]["malformed"] == never * 3

        asked = len(stub.prompts)
        code, out, err = run(*judging(small_qa90, stub, "--format", "markdown"))
        assert code == 0 and len(stub.prompts) == asked  # nothing is done twice
        assert out.startswith("| model ") and "| VisCPM-Chat-tiny " in out and "75.0 [75.0, 75.0]" in out
        assert "| VisCPM-Chat-v1.1, published " in out and out.count("\n") == 6
        never[:] = ["10 9"]
        code, out, err = run(*judging(small_qa90, stub, "--again"))
        assert code == 0 and len(stub.prompts) == asked + 1 and "warning" not in err
        assert [row["tuple"] for row in lines(tmp_path / "out" / "verdicts.jsonl")][4] == [10, 9]


def test_a_running_server_answers_as_its_model_does(run, small_qa90, tmp_path, monkeypatch):
    """Our own, with a key, several questions at a time."""
    engine = Engine(VisCPMChat(tiny_chat_repo(), image_safety_checker=False))
    config = uvicorn.Config(create_app(engine, api_key=KEY), log_level="warning")
    server = uvicorn.Server(config)
    with bound_socket("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            words = ["--server", f"http://127.0.0.1:{listener.getsockname()[1]}/v1"]
            code, out, err = run(*words)
            assert code == 1 and err.splitlines()[-1].startswith("error: http://127.0.0.1:") and "401" in err
            assert run(*words, "--server-key-env", "JUDGE_KEY")[0] == 0
        finally:
            server.should_exit = True
            thread.join()
            engine.close()
    served = lines(tmp_path / "out" / "answers.jsonl")
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False)
    items = [{"image": small_qa90.picture(row), "question": row["text"]} for row in small_qa90.rows]
    assert [row["text"] for row in served] == [answer for answer, *_ in chat.batch_chat(items)]


@pytest.mark.slow
def test_a_run_killed_by_kill_9_goes_on_where_it_was(run, small_qa90, tmp_path):
    """What is done by then is neither lost nor paid for again; a torn last line is dropped."""
    judged, killed = [], []

    def reply(prompt):
        if not isinstance(prompt, str):
            return "一个圆形。"
        if len(judged) == 5 and not killed:
            return "slow"
        judged.append(prompt)
        return "8 6\nfine"

    path = tmp_path / "out" / "verdicts.jsonl"
    with StubEndpoint(reply) as stub:
        words = ["--server", stub.url, *judging(small_qa90, stub), "--concurrency", "2"]
        command = ["evaluate", "qa90", *small_qa90.options, "--output", tmp_path / "out", *words]
        with subprocess.Popen(
            [sys.executable, "-m", "viscpm_hf", *map(str, command)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "JUDGE_KEY": KEY},
        ) as process:
            deadline = time.monotonic() + 120
            while not path.exists() or len(lines(path)) < 5:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        killed.append(True)
        kept = path.read_text(encoding="utf-8").splitlines()
        for name in ("answers", "verdicts"):
            with open(tmp_path / "out" / f"{name}.jsonl", "ab") as file:
                file.write(b'{"question_id": 11, "te')
        code, out, err = run(*words)
        assert code == 0 and "75.0" in out
        assert set(kept) < set(path.read_text(encoding="utf-8").splitlines())
        assert [row["question_id"] for row in lines(path)] == list(range(12))
        assert len(judged) == len(set(judged)) == 12


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--judge", "stub"], 2, "Got no --references, --captions, --rules"),
        (["--judge-url", "http://x"], 2, "without --judge"),
        (["--served-model", "x"], 2, "without --server"),
        (["--server", "http://127.0.0.1:1/v1", "--dtype", "float32"], 2, "one or the other"),
        (["--price", "cheap"], 2, "Got 'cheap' as --price"),
        (["--server", "nonsense"], 1, "Got 'nonsense' as an address"),
        (["--model", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, tmp_path, arguments, code, said):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "") and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert not (tmp_path / "out").exists()


def test_the_judge_is_looked_at_before_a_model_is_loaded(run, small_qa90, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    code, out, err = run(*small_qa90.judging, "--judge", "gpt-4", "--judge-key-env", "JUDGE_KEY")
    assert code == 1 and "set JUDGE_KEY" in err and not (tmp_path / "out").exists()
    code, out, err = run(*small_qa90.judging, "--estimate")
    assert (code, out) == (0, "") and "Judging 12 answers by a judge" in err and not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_refused(run, small_qa90, tmp_path):
    with StubEndpoint(lambda prompt: "yes", models=("first",)) as stub:
        assert run("--server", stub.url)[0] == 0
        stub.models = ("second",)
        code, out, err = run("--server", stub.url)
        assert code == 1 and "model 'first', now 'second'" in err and "choose another --output" in err
        stub.models = ("first", "second")
        code, out, err = run("--server", stub.url)
        assert code == 1 and "has 2 models (first, second): choose one, --served-model" in err


def test_no_verdict_at_all_and_failed_requests_are_errors(run, small_qa90, tmp_path):
    with StubEndpoint(lambda prompt: "hello" if isinstance(prompt, str) else "一个圆形。") as stub:
        code, out, err = run("--server", stub.url, *judging(small_qa90, stub))
        assert (code, out) == (1, "") and "gave two scores for none of 12 answers ('hello')" in err
    with StubEndpoint(lambda prompt: 400 if "reference 4\n" in prompt else "8 6") as stub:
        (tmp_path / "out" / "verdicts.jsonl").unlink()
        # the answers are there, and of the server before
        settings = tmp_path / "out" / "answers.settings.json"
        settings.write_text(settings.read_text().replace(json.loads(settings.read_text())["server"], stub.url))
        code, out, err = run("--server", stub.url, *judging(small_qa90, stub))
        assert code == 1 and "1 of 12 could not be judged" in err and "75.0" in out and KEY not in err


def test_a_model_of_other_weights_under_the_same_name_is_another(small_qa90, tmp_path, capsys):
    """Answers of a quantized or trained copy, whose folder is called the same, do not go on those of the original."""
    names = {"one": tmp_path / "one" / "chat", "other": tmp_path / "other" / "chat"}
    for path in names.values():
        shutil.copytree(tiny_chat_repo(), path)
    weights = load_file(names["other"] / "model.safetensors")
    weights = {name: tensor * 1.01 for name, tensor in weights.items()}
    save_file(weights, names["other"] / "model.safetensors", {"format": "pt"})

    def run(which):
        words = [*small_qa90.options, "--output", tmp_path / "out", "--model", names[which]]
        return main(["evaluate", "qa90", *map(str, words)]), capsys.readouterr().err

    assert run("one")[0] == 0
    answers = tmp_path / "out" / "answers.jsonl"
    answers.write_text("".join(answers.read_text(encoding="utf-8").splitlines(True)[:3]), encoding="utf-8")
    code, err = run("other")
    assert code == 1 and "another run" in err and len(lines(answers)) == 3
    assert run("one")[0] == 0 and len(lines(answers)) == 12


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("references", {"question_id": [1], "text": "x"}, "as question_id, expected"),
        ("references", {"question_id": 0, "text": "another"}, "twice"),
        ("captions", {"image": ["a"], "captions": []}, "as image, expected"),
    ],
)
def test_odd_rows_of_the_judges_material_are_a_sentence(run, small_qa90, name, row, said):
    path = getattr(small_qa90, name)
    path.write_text(json.dumps(row) + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    code, _, err = run(*small_qa90.judging, "--judge", "stub", "--judge-url", "http://127.0.0.1:9", "--estimate")
    assert code == 1 and said in err and str(path) in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("answers", {"question_id": [1], "text": "x"}),
        ("answers", {"question_id": 99}),
        ("verdicts", {"question_id": 99, "tupl": [1, 2]}),
        ("verdicts", {"question_id": 99, "tuple": ["a"], "malformed": [], "prompt_tokens": 1, "completion_tokens": 1}),
    ],
)
def test_rows_that_no_run_writes_are_a_sentence(run, small_qa90, tmp_path, name, row):
    with StubEndpoint(lambda prompt: "8 6\nfine") as stub:
        assert run(*judging(small_qa90, stub))[0] == 0
        path = tmp_path / "out" / f"{name}.jsonl"
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        code, _, err = run(*judging(small_qa90, stub))
    assert code == 1 and "that no run writes" in err and str(path) in err and "Traceback" not in err
