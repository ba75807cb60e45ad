"""Guards `viscpm refresh`: repositories of every earlier version work like new ones, and nobody's files are lost.

old_repositories/ holds what earlier commits wrote beside weights and code, one folder a generation.
"""

import json
import logging.handlers
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub import LocalHub
from paint import golden_pipeline, prompt_checker_parts, ranker_parts, safety_checker_parts
from PIL import Image

from viscpm_hf.checkpoint import CheckpointError, convert_cpmbee, refresh, verify
from viscpm_hf.checkpoint.files import exchange
from viscpm_hf.tiny import CHAT_CHECKPOINT, PAINT_CHECKPOINT, PICTURES, tiny_chat_repo, tiny_paint_repo

module = sys.modules["viscpm_hf.checkpoint.refresh"]  # whose name in the room is that of the function
OLD = Path(__file__).parent / "old_repositories"
TESTS = Path(__file__).parents[1]
CHATS = ["chat-44a02be", "chat-59544aa", "chat-1d0fec5", "chat-933ba85"]  # oldest first
PAINTS = ["paint-7a72fe5", "paint-933ba85"]
SIZES = set("vocab_size image_size height width num_hidden_layers intermediate_size cross_attention_dim".split())
SIZES |= {"added_tokens_decoder", "extra_special_tokens"}  # of the vocabulary


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder):
    found = [(path, path.stat()) for path in sorted(folder.rglob("*.safetensors"))]
    return [(path, status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(path, fields):
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def of_todays_size(old, new):
    """What an earlier version wrote about the tiny model of its time, as it would have about today's."""
    found = {}
    for key, value in old.items():
        if key in SIZES:
            found[key] = new.get(key, value)
        else:
            found[key] = of_todays_size(value, new.get(key) or {}) if isinstance(value, dict) else value
    return found


@pytest.fixture
def aged(tmp_path):
    """A repository as an earlier version left it, by the name in old_repositories/."""

    def make(name="chat-44a02be"):
        folder = tmp_path / name
        shutil.copytree(tiny_chat_repo() if name.startswith("chat") else tiny_paint_repo(), folder)
        for path in folder.rglob("*.py"):
            path.unlink()
        for path in ("README.md", "chat_template.jinja", "conversion.json"):
            (folder / path).unlink(missing_ok=True)
        new = {path: read(folder / path) for path in contents(folder) if path.suffix == ".json"}
        shutil.copytree(OLD / name, folder, dirs_exist_ok=True)
        for path in new.keys() & contents(OLD / name).keys():
            old = read(OLD / name / path)
            if (resized := of_todays_size(old, new[path])) != old:
                write(folder / path, resized)
        if name.startswith("chat"):
            (folder / "generation_cpmbee.py").write_text("raise ImportError('of an old version')\n")
        return folder

    return make


@pytest.mark.parametrize("name", [*CHATS, *PAINTS])
def test_an_old_repository_becomes_what_a_conversion_writes_today(aged, name):
    """All but conversion.json, and the noise in config.json that some versions of transformers write."""
    folder, new = aged(name), tiny_chat_repo() if name.startswith("chat") else tiny_paint_repo()
    checkpoint = CHAT_CHECKPOINT if name.startswith("chat") else PAINT_CHECKPOINT
    before = weights(folder)
    done = refresh(folder)
    assert "conversion.json" in done.changed and not done.kept and weights(folder) == before
    found, expected = contents(folder), contents(new)
    assert found.keys() == expected.keys()
    different = {str(path) for path in found if found[path] != expected[path]}
    assert different <= {"conversion.json", "config.json"}
    assert read(folder / "conversion.json")["refreshed"]["viscpm_hf"]
    results = verify(checkpoint / "pytorch_model.bin", folder, progress=False).values()
    assert results and not any(result.differences for result in results)
    assert not refresh(folder).changed and contents(folder) == found


def test_what_is_new_is_up_to_date(tmp_path):
    for new in (tiny_chat_repo(), tiny_paint_repo()):
        before = contents(new)
        done = refresh(new)
        assert not done.changed and not done.kept and contents(new) == before


ANSWERS = """
import sys
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModelForImageTextToText, AutoProcessor

sys.modules["viscpm_hf"] = None
picture, *folders = sys.argv[1:]
content = [{"type": "image", "path": picture}, {"type": "text", "text": "它是什么颜色的？"}]
for folder in folders:
    if folder.endswith("paint"):
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        seed = torch.Generator().manual_seed(0)
        pixels = pipeline("a red apple", generator=seed, num_inference_steps=2, output_type="np").images
        print(folder, pixels.tobytes().hex()[:4000])
    else:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt",
        )
        print(folder, model.generate(**inputs, max_new_tokens=30).tolist())
"""


@pytest.mark.slow
def test_in_another_process_it_answers_as_a_new_one(aged, tmp_path):
    """The oldest and the newest of each kind, without the package."""
    folders = {"new-chat": tiny_chat_repo(), "new-paint": tiny_paint_repo()}
    folders |= {
        f"{place}-{names[at].partition('-')[0]}": aged(names[at])
        for names in (CHATS, PAINTS)
        for place, at in (("oldest", 0), ("newest", -1))
    }
    for name, folder in folders.items():
        refresh(folder)
        (tmp_path / name).symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, sorted(PICTURES.glob("*.png"))[0], *folders],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert answers.keys() == folders.keys()
    for name, answer in answers.items():
        assert answer == answers[f"new-{name.partition('-')[2]}"], name


def test_settings_of_people_stay(aged):
    folder = aged()
    changes = {
        "generation_config.json": {"num_beams": 5, "of_mine": [1]},
        "processor_config.json": {"max_input_length": 100, "of_mine": 1},
        "tokenizer_config.json": {"model_max_length": 77, "of_mine": 2},
        "config.json": {"of_mine": {"a": 1}, "dtype": "bfloat16"},
    }
    for name, fields in changes.items():
        write(folder / name, read(folder / name) | fields)
    (folder / "chat_template.jinja").write_text("of mine")
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_text("of mine")
    refresh(folder)
    for name, fields in changes.items():
        assert read(folder / name).items() >= fields.items()
    assert read(folder / "processor_config.json")["image_processor"]["do_rescale"] is True
    assert "<mask>" not in read(folder / "tokenizer_config.json")["extra_special_tokens"]
    assert (folder / "chat_template.jinja").read_text() == (folder / "more" / "notes.txt").read_text() == "of mine"


def test_an_edited_card_stays_unless_it_is_asked_for(aged):
    folder = aged()
    card, written = folder / "README.md", (tiny_chat_repo() / "README.md").read_bytes()
    card.write_bytes(card.read_bytes() + b"\nOf mine.\n")
    done = refresh(folder)
    assert "README.md" not in done.changed and "--card" in done.kept[0] and card.read_bytes().endswith(b"Of mine.\n")
    assert refresh(folder, card=True).changed and card.read_bytes() == written
    card.unlink()
    assert refresh(folder).changed == ["README.md"] and card.read_bytes() == written


def test_a_card_that_its_version_wrote_is_replaced(aged):
    """By the digest in conversion.json, whatever its text was."""
    folder = aged()
    refresh(folder)
    report = read(folder / "conversion.json")
    written = (folder / "README.md").read_bytes()
    (folder / "README.md").write_bytes(b"of another version")
    report["card"] = module.repo.digest(b"of another version")
    write(folder / "conversion.json", report)
    assert refresh(folder).changed == ["README.md", "conversion.json"]
    assert (folder / "README.md").read_bytes() == written


def test_links(aged, tmp_path):
    """They become files, and where they led to nothing is written; a cache of the Hub is not touched."""
    folder = aged()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("config.json", "generation_cpmbee.py", "tokenizer_config.json", "model.safetensors"):
        shutil.move(folder / name, elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)
    before = contents(elsewhere)
    refresh(folder)
    assert contents(elsewhere) == before and (folder / "model.safetensors").is_symlink()
    assert not (folder / "generation_cpmbee.py").is_symlink()

    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    shutil.copytree(OLD / "chat-44a02be", snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    for place in (snapshot, tmp_path / "link"):
        with pytest.raises(CheckpointError, match="cache of huggingface_hub"):
            refresh(place)

    paint = aged("paint-7a72fe5")
    shutil.move(paint / "tokenizer", elsewhere / "tokenizer")
    (paint / "tokenizer").symlink_to(elsewhere / "tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer is a link"):
        refresh(paint)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), SystemExit(143)])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_interrupted_it_is_as_it_was(aged, monkeypatch, error, after):
    folder = aged()
    before, calls, real = contents(folder), [], os.replace

    def replace(source, target):
        if "/new/" in str(source):
            calls.append(target)
            if len(calls) > after:
                raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else BaseException) as raised:
        refresh(folder)
    assert not isinstance(error, OSError) or "it is as it was: make room" in str(raised.value)
    assert contents(folder) == before and not (folder / exchange.WORKSPACE).exists()
    monkeypatch.undo()
    assert refresh(folder).changed and not refresh(folder).changed


@pytest.mark.parametrize("again", [False, True])
def test_killed_and_run_again(aged, child, monkeypatch, again):
    """Also killed once more while the next run undoes what the first did."""
    folder = aged()
    before, real = contents(folder), os.replace

    def killed_at(wanted, number):
        count = [0]

        def replace(source, target):
            real(source, target)
            count[0] += wanted in str(source)
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        return replace

    monkeypatch.setattr(os, "replace", killed_at("/new/", 5))
    assert child(lambda: refresh(folder) and 0).code() == -signal.SIGKILL
    assert (folder / exchange.WORKSPACE / exchange.MANIFEST).exists()
    if again:
        monkeypatch.setattr(os, "replace", killed_at("/old/", 2))
        assert child(lambda: refresh(folder) and 0).code() == -signal.SIGKILL
    monkeypatch.setattr(os, "replace", real)
    with exchange.workspace_of(folder):
        exchange.undo(folder, folder / exchange.WORKSPACE)
    assert contents(folder) == before
    assert refresh(folder).changed and not refresh(folder).changed


def test_two_at_a_time(aged):
    folder = aged()
    with exchange.workspace_of(folder), pytest.raises(CheckpointError, match="Another process is refreshing"):
        refresh(folder)
    assert refresh(folder).changed


def test_a_folder_that_may_not_be_written_to(aged, monkeypatch):
    """It is said; one that is up to date need not be."""
    folder = aged()
    before = contents(folder)

    real = Path.mkdir

    def mkdir(self, **options):
        if self.name == exchange.WORKSPACE:  # who runs the tests may be root, whom nothing stops
            raise PermissionError(13, "Permission denied", str(self))
        real(self, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(CheckpointError, match="it is as it was: make it writable"):
        refresh(folder)
    assert contents(folder) == before and not refresh(tiny_chat_repo()).changed


@pytest.mark.parametrize("damage", ["empty", "other", "file", "nothing", "json", "index", "weights", "vocab"])
def test_what_cannot_be_refreshed_stays(aged, tmp_path, damage):
    folder = aged("paint-7a72fe5" if damage == "index" else "chat-44a02be")
    if damage == "empty":
        folder = tmp_path / "empty"
        folder.mkdir()
    elif damage == "other":
        write(folder / "config.json", {"model_type": "bert"})
    elif damage == "file":
        folder = folder / "config.json"
    elif damage == "nothing":
        folder = tmp_path / "nothing"
    elif damage == "json":
        (folder / "processor_config.json").write_text("{")
    elif damage == "index":
        shutil.rmtree(folder / "text_projection")
    elif damage == "weights":
        os.truncate(folder / "model.safetensors", 1000)
    else:
        (folder / "vocab.txt").unlink()
    before = contents(folder) if folder.is_dir() else None
    with pytest.raises(CheckpointError) as error:
        refresh(folder)
    assert str(error.value).isprintable() and module.tempfile.gettempdir() + "/tmp" not in str(error.value)
    assert before is None or contents(folder) == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("scheduler/scheduler_config.json", "null", "holds a JSON NoneType, expected an object"),
        ("scheduler/scheduler_config.json", "{}", "expected a scheduler's"),
        ("scheduler/scheduler_config.json", '{"_class_name": "DDPMScheduler", "beta_schedule": "z"}', "z is not impl"),
        ("vae/config.json", "[]", "holds a JSON list, expected an object"),
        ("vae/config.json", "{}", "expected AutoencoderKL"),
        ("unet/config.json", "1", "holds a JSON int, expected an object"),
        ("text_projection/config.json", "{}", "expected VisCPMPaintTextProjection"),
        ("text_encoder/config.json", "{}", "expected cpmbee"),
        ("tokenizer/tokenizer_config.json", "[]", "holds a JSON list, expected an object"),
        ("chat_template.jinja", "{{", "is no Jinja"),
        ("chat_template.jinja", "{% nothing %}", "is no Jinja"),
    ],
)
def test_what_would_not_load_is_not_refreshed(aged, name, text, said):
    """Also where only another part is wrong than the one that gets new code."""
    folder = aged("chat-44a02be" if name.endswith("jinja") else "paint-7a72fe5")
    (folder / name).write_text(text)
    before = contents(folder)
    with pytest.raises(CheckpointError, match=said) as error:
        refresh(folder)
    assert str(folder) in str(error.value) and str(error.value).isprintable() and contents(folder) == before


@pytest.mark.parametrize(
    ("name", "was_there"),
    [
        ("model.safetensors", False),
        ("model.safetensors.index.json", False),
        ("more/f.txt", False),
        ("more/f.txt", True),
        ("../f.txt", False),
        ("a/../../f.txt", True),
        (".viscpm_refresh/files.json", False),
        ("more/deep/f.txt", False),
        ("real", False),
        ("config.json\0", True),
        ("config.json", "yes"),
    ],
)
def test_a_manifest_that_came_with_a_download_is_no_order(aged, tmp_path, name, was_there):
    """Nothing outside the folder, no weights, no other kinds of files."""
    folder, outside = aged(), tmp_path / "outside"
    outside.mkdir()
    for path in (outside / "f.txt", tmp_path / "f.txt", folder / "real"):
        path.write_text("precious")
    (folder / "more").symlink_to(outside)
    (folder / exchange.WORKSPACE / "old" / "more").mkdir(parents=True)
    (folder / exchange.WORKSPACE / "old" / "more" / "f.txt").write_text("evil")
    write(
        folder / exchange.WORKSPACE / exchange.MANIFEST,
        {"config.json": True, "beams_cpmbee.py": False, name: was_there},
    )
    before = contents(folder) | contents(outside)
    with pytest.raises(CheckpointError, match="which no refresh writes; remove "):
        refresh(folder)
    assert contents(folder) | contents(outside) == before and (tmp_path / "f.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["lock", "new", "old", "files.json", "files.json.partial"])
@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_a_workspace_with_links_is_not_used(aged, tmp_path, name, kind):
    """Where they lead to, nothing is written, removed or waited for."""
    folder, outside = aged(), tmp_path / "outside"
    outside.mkdir()
    (outside / "f.txt").write_text("{}")
    (folder / exchange.WORKSPACE).mkdir()
    place = folder / exchange.WORKSPACE / name
    os.mkfifo(place) if kind == "pipe" else place.symlink_to(outside / "f.txt" if kind == "file" else outside)
    with pytest.raises(CheckpointError, match="was not made by a refresh; remove "):
        refresh(folder)
    assert os.path.lexists(place) and os.listdir(outside) == ["f.txt"] and (outside / "f.txt").read_text() == "{}"


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_saved_without_its_processor(aged, kind):
    folder = aged()
    for name in ("vocab.txt", "processor_config.json", "tokenizer_config.json", "chat_template.jinja"):
        if kind == "chat" or name == "vocab.txt":
            (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"lacks vocab.txt.*processor.save_pretrained"):
        refresh(folder)


def test_saved_after_fine_tuning(tmp_path):
    """Without code, card and conversion.json, its config.json without a map to the code."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    repo = tiny_chat_repo()
    AutoModelForImageTextToText.from_pretrained(repo).save_pretrained(tmp_path / "tuned", max_shard_size="2MB")
    AutoProcessor.from_pretrained(repo).save_pretrained(tmp_path / "tuned")
    folder = tmp_path / "tuned"
    for path in folder.glob("*.py"):
        path.unlink()
    config = read(folder / "config.json")
    config.pop("auto_map", None)
    write(folder / "config.json", config)
    before = weights(folder)
    assert len(before) > 1
    done = refresh(folder)
    assert {"config.json", "modeling_viscpm_chat.py"} <= set(done.changed) and weights(folder) == before
    assert not done.kept and not (folder / "README.md").exists()
    assert "conversion.json" in refresh(folder, card=True).kept[0]
    assert read(folder / "config.json")["auto_map"] == read(repo / "config.json")["auto_map"]
    assert not refresh(folder).changed


def test_with_every_optional_part(tmp_path):
    """As a pipeline saves itself; the configuration of each part is read, wherever its class comes from."""
    white = Image.new("RGB", (32, 32), "white")
    parts = prompt_checker_parts(tmp_path, "a", "b") | safety_checker_parts(white, white)
    folder = tmp_path / "repo"
    golden_pipeline(**parts, **ranker_parts(tmp_path, ["a", "b"])).save_pretrained(folder)
    assert not refresh(folder).changed
    for name in ("safety_checker/config.json", "ranker/config.json", "feature_extractor/preprocessor_config.json"):
        sound = (folder / name).read_text()
        (folder / name).write_text("[]")
        with pytest.raises(CheckpointError, match=f"{name} holds a JSON list"):
            refresh(folder)
        (folder / name).write_text(sound)
    shutil.rmtree(folder / "prompt_checker")
    with pytest.raises(CheckpointError, match="no folder .*prompt_checker"):
        refresh(folder)


def test_quantized(aged):
    """Its weights have other names and kinds; what says so in config.json stays."""
    folder = aged("paint-7a72fe5")
    config = folder / "text_encoder" / "config.json"
    write(config, read(config) | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}})
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"of another kind")
    before, said = weights(folder), read(config)
    assert "text_encoder/modeling_cpmbee.py" in refresh(folder).changed
    assert weights(folder) == before and read(config).items() >= said.items()


def test_plain_cpmbee(golden, chat_checkpoint, tmp_path):
    from safetensors.torch import save_file

    names = golden("chat_weights.safetensors").items()
    save_file({name[4:]: value for name, value in names if name.startswith("llm.")}, tmp_path / "a.safetensors")
    config = chat_checkpoint / "llm_config.json"
    vocabulary = TESTS / "golden" / "vocab.txt"
    folder = convert_cpmbee(
        tmp_path / "a.safetensors", vocabulary, tmp_path / "bee", llm_config=config, progress=False
    )
    new = contents(folder)
    assert not refresh(folder).changed
    (folder / "words_cpmbee.py").unlink()
    (folder / "generation_cpmbee.py").write_text("old")
    (folder / "generation_config.json").unlink()
    assert refresh(folder).changed and contents(folder).keys() == new.keys()
    assert (folder / "generation_config.json").read_bytes() == new[Path("generation_config.json")]


COMMANDS = """
import contextlib, io, json, sys
from viscpm_hf.cli import main

for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["refresh", *json.loads(line)])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.mark.slow
def test_on_the_hub(request, aged, tmp_path):
    """Only small files travel; nothing is uploaded unasked; a proposal leaves the repository as it is."""
    folder = aged()
    before = contents(folder)
    with LocalHub(tmp_path / "uploads") as hub:
        hub.add("me/chat", folder)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", COMMANDS], env=hub.environment(tmp_path / "home"), **pipes)
        request.addfinalizer(process.kill)

        def command(*arguments):
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        code, out, _ = command("me/chat")
        assert code == 0 and "Nothing was uploaded" in out and contents(folder) == before
        assert not [name for name in hub.downloaded("me/chat") if name.endswith(".safetensors")]
        code, out, _ = command("me/chat", "--pull-request")
        assert code == 0 and f"{hub.url}/me/chat/discussions/1" in out and contents(folder) == before
        proposed = contents(tmp_path / "uploads" / "me/chat-pr-1")
        code, out, _ = command("me/chat", "--push")
        assert code == 0 and "/me/chat/commit/" in out
        assert {name: contents(folder)[name] for name in proposed}.keys() == proposed.keys()
        assert command("me/chat", "--push")[1] == "me/chat is already up to date.\n"
        code, _, err = command("me/nothing")
        assert code == 1 and "me/nothing" in err.splitlines()[-1]
    assert not refresh(folder).changed


def test_the_command(aged):
    from viscpm_hf.cli import main

    folder = aged()
    for arguments in ([str(folder), "--push"], [str(folder), "--pull-request"], ["a/b", "--push", "--pull-request"]):
        assert main(["refresh", *arguments]) == 2
    assert main(["refresh", str(folder)]) == 0
    assert main(["refresh"]) == 2


def test_of_settings_nothing_is_remarked_and_notes_are_in_the_language_of_the_locale(aged, capsys, monkeypatch):
    """transformers' remarks on generation_config.json are about what people meant."""
    from viscpm_hf.cli import main

    folder = aged()
    write(folder / "generation_config.json", read(folder / "generation_config.json") | {"typical_p": 0.125})
    (folder / "README.md").write_text("of mine")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.delenv("LANGUAGE", raising=False)
    remarks = logging.handlers.BufferingHandler(100)
    logging.getLogger("transformers").addHandler(remarks)
    try:
        assert main(["refresh", str(folder)]) == 0
    finally:
        logging.getLogger("transformers").removeHandler(remarks)
    assert not remarks.buffer
    out, err = capsys.readouterr()
    assert (
        out.startswith("已更新 ") and err == "注意：README.md 被改动过，保持原样；加 --card 则写入当前版本的模型卡。\n"
    )


@pytest.mark.parametrize("name", ["/x", "./x", "../x", "~/x", "x/", "a b/c", "a/b/c", "x", "-a/b"])
def test_a_path_is_no_name_on_the_hub(name, tmp_path, monkeypatch):
    """Whoever mistypes a folder is told so, and nothing is asked of the network."""
    from viscpm_hf.cli import main

    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(module, "fetch_small_files", lambda *arguments: asked.append(arguments))
    assert main(["refresh", "--", name]) == 1 and not asked
    with pytest.raises(CheckpointError, match="expected `owner/name`"):
        module.refresh_on_hub(name)
    with pytest.raises(CheckpointError, match="does not exist, expected a converted folder"):
        module.repo.check_is_converted(name, "VisCPM-Chat", "chat", "config.json")
