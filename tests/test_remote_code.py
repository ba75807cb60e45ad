"""Guards that converted repositories work by themselves: in new processes, from folders and from a Hub, alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fresh_process import chat_findings, language_findings
from hub import LocalHub

from viscpm_hf.checkpoint import convert_cpmbee

TESTS = Path(__file__).parent
PICTURE = str(TESTS / "golden/image_0.png")
CHAT_CODE = {
    "beams_cpmbee.py",
    "configuration_viscpm_chat.py",
    "generation_cpmbee.py",
    "image_processing_viscpm_chat.py",
    "logits_cpmbee.py",
    "modeling_beit3.py",
    "modeling_cpmbee.py",
    "modeling_viscpm_chat.py",
    "processing_viscpm_chat.py",
    "tokenization_cpmbee.py",
    "words_cpmbee.py",
}
ANSWERS = ("ids", "answer", "pipeline", "tokens", "generation")
LANGUAGE_CODE = {name for name in CHAT_CODE if name.endswith("_cpmbee.py")}


def run_python(*arguments, env):
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def fresh_process(package, jobs, home, env=None):
    """Runs tests/fresh_process.py with its own cache in `home`; returns what it found, a dict per job."""
    env = {**(env or {**os.environ, "HF_HUB_OFFLINE": "1"}), "HF_HOME": str(home)}
    return json.loads(run_python(TESTS / "fresh_process.py", json.dumps({"package": package, "jobs": jobs}), env=env))


def job(kind, repo, **arguments):
    picture = {"picture": PICTURE} if kind == "chat" else {}
    return kind, {"repo": str(repo), **picture, **arguments}


@pytest.fixture(scope="module")
def language_checkpoint(tmp_path_factory, golden):
    """The golden language model as a plain CPM-Bee checkpoint: the same keys without their prefix."""
    path = tmp_path_factory.mktemp("cpmbee") / "pytorch_model.bin"
    weights = golden("chat_weights.safetensors").items()
    torch.save({name.removeprefix("llm."): value for name, value in weights if name.startswith("llm.")}, path)
    return path


@pytest.fixture(scope="module")
def folders(chat_repos, chat_checkpoint, language_checkpoint, tmp_path_factory):
    """A converted folder of each kind."""
    language = convert_cpmbee(
        language_checkpoint,
        TESTS / "golden/vocab.txt",
        tmp_path_factory.mktemp("converted") / "cpmbee",
        llm_config=chat_checkpoint / "llm_config.json",
        progress=False,
    )
    return {"chat": chat_repos["eos_strong"], "language": language}


@pytest.fixture(scope="module")
def saved_with_package(tmp_path_factory):
    return tmp_path_factory.mktemp("saved_with_package")


@pytest.fixture(scope="module")
def expected(folders, saved_with_package):
    """What this process finds, with the package imported; it also saves what it loaded."""
    return {
        "chat": chat_findings(folders["chat"], PICTURE, save_to=saved_with_package / "chat"),
        "language": language_findings(folders["language"], save_to=saved_with_package / "language"),
    }


@pytest.fixture(scope="module")
def without_package(folders, tmp_path_factory):
    """What a process without the package finds, and the folders it has saved what it loaded to."""
    saved = tmp_path_factory.mktemp("saved_without_package")
    jobs = [job(kind, repo, save_to=str(saved / kind), trust_remote_code=True) for kind, repo in folders.items()]
    return fresh_process("absent", jobs, tmp_path_factory.mktemp("home")), saved


def assert_same(found, expected, came_from, but=()):
    """Same results as here, from classes of the same names that live in modules under `came_from`."""
    assert {key: found[key] for key in ANSWERS if key in expected} == {
        key: expected[key] for key in ANSWERS if key in expected
    }
    for name, values in expected["numbers"].items():
        assert found["numbers"][name] == pytest.approx(values, abs=1e-5), name
    assert found["classes"].keys() == expected["classes"].keys()
    for name, path in found["classes"].items():
        assert path.rpartition(".")[2] == expected["classes"][name].rpartition(".")[2]
        assert path.startswith(came_from) or name in but, f"{name} is {path}"


def test_this_process_answers_as_the_original(expected, golden):
    cases = {case["name"]: case for case in golden("chat_generate.json")["cases"]}
    chat = expected["chat"]
    assert chat["answer"] == chat["pipeline"] == cases["defaults_unknown_eos_strong"]["answer"]
    assert chat["ids"] == cases["defaults_unknown_eos_strong"]["best_ids"]
    assert chat["numbers"]["logits"] == chat["numbers"]["same logits"]
    assert all(path.startswith("viscpm_hf.remote_code.") for path in chat["classes"].values())


def test_every_repository_names_and_holds_its_code(folders, without_package, saved_with_package, expected):
    autos = {
        "chat": {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"},
        "language": {"AutoConfig", "AutoModel", "AutoModelForCausalLM"},
    }
    parts = {"chat": {"AutoProcessor", "AutoTokenizer", "AutoImageProcessor"}, "language": {"AutoTokenizer"}}
    for kind, code in (("chat", CHAT_CODE), ("language", LANGUAGE_CODE)):
        for folder in (folders[kind], without_package[1] / kind, saved_with_package / kind):
            assert {path.name for path in folder.glob("*.py")} == code
            assert json.loads((folder / "config.json").read_text())["auto_map"].keys() == autos[kind]
            found = auto_maps([json.loads(path.read_text()) for path in folder.glob("*.json")])
            assert {name for name, _ in found} == autos[kind] | parts[kind]
            for _, reference in found:
                module, _, name = reference.partition(".")
                assert f"class {name}(" in (folder / f"{module}.py").read_text()


def auto_maps(data):
    """Every (Auto class, "module.Class") that is named anywhere in parsed JSON."""
    if isinstance(data, list):
        return [pair for item in data for pair in auto_maps(item)]
    if not isinstance(data, dict):
        return []
    own = [(name, at[0] if isinstance(at, list) else at) for name, at in data.get("auto_map", {}).items()]
    return own + auto_maps(list(data.values()))


def test_without_the_package(without_package, expected):
    chat, language = without_package[0]
    assert chat["code"] == language["code"] == ["transformers_modules"]
    assert_same(chat, expected["chat"], "transformers_modules.")
    assert_same(language, expected["language"], "transformers_modules.")


def test_with_the_package(folders, expected, tmp_path):
    jobs = [job(kind, repo, **trust) for trust in ({}, {"trust_remote_code": True}) for kind, repo in folders.items()]
    chat, language, trusted_chat, trusted_language = fresh_process("imported", jobs, tmp_path)
    assert chat["code"] == language["code"] == trusted_chat["code"] == ["viscpm_hf"]
    for found in (chat, trusted_chat):
        assert_same(found, expected["chat"], "viscpm_hf.remote_code.")
    assert_same(language, expected["language"], "viscpm_hf.remote_code.")
    # transformers prefers a trusted repository's tokenizer to one that is registered for just this configuration
    assert_same(trusted_language, expected["language"], "viscpm_hf.remote_code.", but={"AutoTokenizer"})


@pytest.mark.slow
def test_from_a_hub_without_the_package(
    folders, language_checkpoint, chat_checkpoint, without_package, saved_with_package, expected, tmp_path
):
    with LocalHub(tmp_path / "uploads") as hub:
        conversion = [TESTS.parent / "conversion/convert_cpmbee.py", "--checkpoint", language_checkpoint]
        conversion += ["--vocab", TESTS / "golden/vocab.txt", "--llm-config", chat_checkpoint / "llm_config.json"]
        conversion += ["--output", tmp_path / "cpmbee", "--push-to-hub", "golden/cpmbee", "--private"]
        run_python(*conversion, env=hub.environment(tmp_path / "converter"))
        assert hub.private == {"golden/cpmbee"}
        assert hub.files("golden/cpmbee").keys() >= {*LANGUAGE_CODE, "README.md", "config.json", "vocab.txt"}

        hub.add("golden/chat", folders["chat"])
        hub.add("saved/without_package", without_package[1] / "chat")
        hub.add("saved/with_package", saved_with_package / "chat")
        hub.add("saved/language", saved_with_package / "language")
        repos = {"golden/chat": "chat", "saved/without_package": "chat", "saved/with_package": "chat"}
        repos |= {"golden/cpmbee": "language", "saved/language": "language"}
        jobs = [job(kind, repo, trust_remote_code=True) for repo, kind in repos.items()]
        results = fresh_process("absent", jobs, tmp_path / "client", env=hub.environment(tmp_path / "client"))

        for (repo, kind), found in zip(repos.items(), results, strict=True):
            assert_same(found, expected[kind], f"transformers_modules.{repo.replace('/', '.')}.")
            assert found["code"] == ["transformers_modules"]
        fetched = hub.downloaded("golden/chat")
        assert fetched >= {*CHAT_CODE, "config.json", "generation_config.json", "model.safetensors", "vocab.txt"}
        # nobody who only wants answers should have to fetch these
        assert not fetched & {"original_only.safetensors", "conversion.json", "README.md"}
