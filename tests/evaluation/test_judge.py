"""Guards judging over HTTP: patient with a judge that misbehaves, counts verdicts only, keeps keys to itself."""

import pytest
from stub_endpoint import KEY, StubEndpoint

from viscpm_hf.evaluation.endpoint import Endpoint, EndpointError
from viscpm_hf.evaluation.judge import judge_all

GOOD = "8 7\nfine"


def judged(replies, timeout=5.0, retries=4, concurrency=3, **options):
    """Verdicts, failures, and the stub, after each prompt of `replies` was judged."""
    verdicts = {}
    with StubEndpoint(replies.__getitem__) as stub:
        endpoint = Endpoint(stub.url, "TEST_KEY", timeout, retries)
        failed = judge_all(
            endpoint, "stub", {prompt: prompt for prompt in replies}, verdicts.__setitem__, concurrency, **options
        )
    return verdicts, failed, stub


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


def test_it_waits_after_429_and_500_and_asks_again_what_is_malformed():
    replies = {
        "limited": [429, 429, GOOD],
        "down": [500, 503, GOOD],
        "chatty": ["Sure! Here are the scores:", "8 7 9", GOOD],
        "garbage": [b"<html>no</html>", b"{}", GOOD],
        "odd": [b'{"choices": [{"message": {"content": null}}]}', b"[1]", GOOD],
        "fine": GOOD,
    }
    verdicts, failed, stub = judged(replies)
    assert failed == {} and verdicts.keys() == replies.keys()
    assert {verdict.scores for verdict in verdicts.values()} == {(8.0, 7.0)}
    assert verdicts["chatty"].malformed == replies["chatty"][:2]
    assert len(verdicts["garbage"].malformed) == len(verdicts["odd"].malformed) == 2
    assert verdicts["limited"].malformed == verdicts["down"].malformed == []
    assert (verdicts["chatty"].prompt_tokens, verdicts["fine"].completion_tokens) == (300, 10)
    request = stub.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("stub", 0.2, 1024)
    assert request["messages"][0]["role"] == "system"


def test_what_stays_malformed_has_no_score_and_what_fails_is_named():
    replies = {"never": "I would rather not.", "refused": 400, "dead": [500], "fine": GOOD}
    verdicts, failed, stub = judged(replies, retries=2, tries=3)
    assert verdicts["never"].scores is None and len(verdicts["never"].malformed) == 3
    assert verdicts["fine"].scores == (8, 7)
    assert failed.keys() == {"refused", "dead"}
    assert "400" in failed["refused"] and "500" in failed["dead"] and KEY not in str(failed)
    assert sum("dead" in prompt for prompt in stub.prompts) == 3


def test_a_slow_reply_is_asked_for_again():
    verdicts, failed, _ = judged({"slow": ["slow", GOOD]}, timeout=1.0)
    assert failed == {} and verdicts["slow"].scores == (8, 7)


def test_no_more_requests_at_a_time_than_wanted():
    replies = dict.fromkeys(map(str, range(12)), GOOD)
    assert judged(replies, concurrency=1)[2].most_at_once == 1
    assert 1 < judged(replies, concurrency=3)[2].most_at_once <= 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_ends_it_at_once_without_telling_the_key(status):
    with pytest.raises(EndpointError) as error:
        judged(dict.fromkeys(map(str, range(50)), status))
    assert str(status) in str(error.value) and KEY not in str(error.value)


def test_a_judge_that_is_down_ends_it():
    with pytest.raises(EndpointError, match="500"):
        judged(dict.fromkeys(map(str, range(50)), 500), retries=0)
    with pytest.raises(EndpointError, match="Connection"):
        judge_all(Endpoint("http://127.0.0.1:1/v1", "TEST_KEY", 1.0, 0), "stub", {"a": "a"}, print)


def test_parameters_that_a_newer_model_refuses_are_left_out_or_renamed():
    def refuse(name):
        return {"message": f"unsupported: {name}", "param": name, "code": "unsupported_parameter"}

    replies = {"a": [refuse("max_tokens"), refuse("temperature"), GOOD], "b": GOOD}
    verdicts, failed, stub = judged(replies, concurrency=1)
    assert failed == {} and verdicts["a"].scores == verdicts["b"].scores == (8, 7)
    assert "max_tokens" not in stub.requests[-1] and stub.requests[-1]["max_completion_tokens"] == 1024
    assert "temperature" not in stub.requests[-1]


def test_a_key_is_needed_where_no_address_is_given(monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EndpointError, match="set TEST_KEY"):
        Endpoint(None, "TEST_KEY")
    with pytest.raises(EndpointError, match="expected one such as http"):
        Endpoint("localhost:8000", "TEST_KEY")
