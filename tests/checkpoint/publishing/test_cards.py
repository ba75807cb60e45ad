"""Guards the cards of what is published: their metadata, and that their snippets give what the folder gives."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from hub import HubError

from viscpm_hf.checkpoint import convert_cpmbee, refresh
from viscpm_hf.checkpoint.cards import CARDS, HERE
from viscpm_hf.checkpoint.publishing import read_contents
from viscpm_hf.checkpoint.publishing.card import adapter_config, card_of
from viscpm_hf.tiny import PICTURES, VOCABULARY, tiny_chat_repo, tiny_paint_repo

# Runs the snippets of cards where there is no package; of each what it prints and the hash of what it paints.
SNIPPETS = """
import contextlib, hashlib, io, json, os, sys
sys.modules["viscpm_hf"] = None
import torch
torch.set_num_threads(1)
for text in json.load(open(sys.argv[1])):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, "card", "exec"), {})
    painted = None
    if os.path.exists("picture.png"):
        painted = hashlib.sha256(open("picture.png", "rb").read()).hexdigest()
        os.remove("picture.png")
    print(json.dumps([out.getvalue(), painted]))
"""


def front(card):
    return yaml.safe_load(card.decode().split("---\n")[1])


def snippet(card):
    (block,) = re.findall(r"```python\n(.*?)```", card.decode(), re.S)
    return block


@pytest.fixture(scope="module")
def folders(golden_cpmbee, chat_adapter, paint_adapter):
    return {
        "me/chat": tiny_chat_repo(),
        "me/paint": tiny_paint_repo(),
        "me/bee": golden_cpmbee,
        "me/chat-lora": chat_adapter,
        "me/paint-lora": paint_adapter,
    }


@pytest.fixture(scope="module")
def golden_cpmbee(golden, chat_checkpoint, tmp_path_factory):
    """Random language model of the tiny Chat's size, with its vocabulary: the golden one knows few characters."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("bee")
    from viscpm_hf.checkpoint import export_original
    from viscpm_hf.tiny import CHAT_CHECKPOINT

    export_original(tiny_chat_repo(), folder / "chat.safetensors", progress=False)
    names = load_file(folder / "chat.safetensors").items()
    save_file({name[4:]: value for name, value in names if name.startswith("llm.")}, folder / "a.safetensors")
    config = CHAT_CHECKPOINT / "llm_config.json"
    return convert_cpmbee(folder / "a.safetensors", VOCABULARY, folder / "bee", llm_config=config, progress=False)


@pytest.mark.slow
def test_snippets_by_name_give_what_the_folder_gives(hub, viscpm, folders, tmp_path):
    """All cards, as they are on the Hub and in a process without the package."""
    bases = {"me/chat-lora": "me/chat", "me/paint-lora": "me/paint"}
    for name, folder in folders.items():
        base = ["--base-model", bases[name]] if name in bases else []
        code, out, err = viscpm("push", folder, name, "--private", *base)
        assert code == 0, err
    cards = [(hub.uploads / name / "README.md").read_bytes() for name in folders]
    snippets = [snippet(card) for card in cards]
    here = []
    for name, text in zip(folders, snippets, strict=True):
        for other, folder in folders.items():
            text = text.replace(f'= "{other}"\n', f'= "{folder}"\n')
        assert "me/" not in text, name
        here.append(text)
    (tmp_path / "snippets.json").write_text(json.dumps(snippets + here))
    shutil.copyfile(sorted(PICTURES.glob("*.png"))[0], tmp_path / "picture.jpg")
    command = [sys.executable, "-c", SNIPPETS, "snippets.json"]
    options = {"cwd": tmp_path, "env": hub.environment(tmp_path / "home"), "capture_output": True, "text": True}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    there, here = found[: len(snippets)], found[len(snippets) :]
    assert there == here and all(printed or painted for printed, painted in there)
    chat, paint, _, chat_lora, paint_lora = there
    assert chat != chat_lora and paint != paint_lora
    assert hub.token not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["me/chat", "me/paint", "me/bee", "me/chat-lora", "me/paint-lora"])
def test_metadata(folders, name):
    contents = read_contents(folders[name])
    card = card_of(contents, name)
    fields = front(card)
    assert (fields["license"], fields["language"]) == ("other", ["zh", "en"])
    assert fields["license_name"] == "general-model-license" and fields["license_link"].startswith("https://")
    expected = {
        "me/chat": ("transformers", "image-text-to-text", "openbmb/VisCPM-Chat", None),
        "me/paint": ("diffusers", "text-to-image", "openbmb/VisCPM-Paint", None),
        "me/bee": ("transformers", "text-generation", "openbmb/cpm-bee-10b", None),
        "me/chat-lora": ("peft", "image-text-to-text", "openbmb/VisCPM-Chat", "adapter"),
        "me/paint-lora": ("diffusers", "text-to-image", "openbmb/VisCPM-Paint", "adapter"),
    }[name]
    keys = ("library_name", "pipeline_tag", "base_model", "base_model_relation")
    assert tuple(fields.get(key) for key in keys) == expected and fields["tags"]
    text = card.decode()
    assert "$" not in text and str(folders[name]) not in text and f'repo = "{name}"' in text
    for heading in ("## Use", "## Results", "## Limits and safety", "## Licence of the weights", "## 中文"):
        assert f"\n{heading}\n" in text
    if contents.is_adapter:
        base = front(card_of(contents, name, "you/base"))
        assert base["base_model"] == "you/base" and b'base = "you/base"' in card_of(contents, name, "you/base")
        assert card_of(contents, name, "you/base") != card


def test_tables_are_those_of_evaluation():
    """One set of figures, in the cards and below the tables of `viscpm evaluate`."""
    from viscpm_hf.evaluation.images import PUBLISHED as FID
    from viscpm_hf.evaluation.scores import PUBLISHED as QA90

    chat, paint = ((HERE / CARDS[kind]).read_text(encoding="utf-8") for kind in ("viscpm_chat", "VisCPMPaintPipeline"))
    for name, figures in QA90.items():
        row = " | ".join(f"{value:.1f}" for value in (*figures["en"], *figures["zh"]))
        assert f"| {name.replace('Chat-', 'Chat ')} | {row} |" in chat
    for name, figures in FID.items():
        assert f"| {name.replace('Paint-', 'Paint ')} | {figures['en']} | {figures['zh']} |" in paint


def test_what_was_added_to_a_card_stays_and_what_was_edited_too(chat):
    card = chat / "README.md"
    written = card.read_bytes()
    card.write_bytes(written + b"\n## Fine-tuned\n\nOn mine.\n")
    named = card_of(read_contents(chat), "me/tuned")
    assert named.endswith(b"\n## Fine-tuned\n\nOn mine.\n") and front(named)["base_model_relation"] == "finetune"
    card.write_bytes(named)  # as somebody has it who fetched it
    assert card_of(read_contents(chat), "me/tuned") == named
    assert b'repo = "you/tuned"' in card_of(read_contents(chat), "you/tuned")
    card.write_bytes(written.replace(b"One picture", b"Two pictures"))
    assert card_of(read_contents(chat), "me/tuned") is None
    (chat / "conversion.json").unlink()
    card.unlink()  # as after save_pretrained
    assert front(card_of(read_contents(chat), "me/saved"))["base_model"] == "openbmb/VisCPM-Chat"


def test_a_quantized_one_says_so(chat):
    config = json.loads((chat / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (chat / "config.json").write_text(json.dumps(config))
    card = card_of(read_contents(chat), "me/small")
    assert front(card)["base_model_relation"] == "quantized" and b"bitsandbytes, 4 bit" in card
    (chat / "README.md").write_bytes(card)
    assert card_of(read_contents(chat), "me/small") == card


def test_an_adapter_names_no_path_of_this_machine(chat_adapter, paint_adapter):
    config = json.loads((chat_adapter / "adapter_config.json").read_text())
    assert "/" in config["base_model_name_or_path"]
    sent = json.loads(adapter_config(read_contents(chat_adapter), None))
    assert sent == config | {"base_model_name_or_path": tiny_chat_repo().name}
    sent = json.loads(adapter_config(read_contents(chat_adapter), "me/base"))
    assert sent["base_model_name_or_path"] == "me/base"
    assert adapter_config(read_contents(paint_adapter), "me/base") is None


def test_a_published_card_is_refreshed_under_its_name(hub, viscpm, chat):
    """Whoever published with an earlier version gets the card of this one, with the name it has."""
    assert viscpm("push", chat, "me/fresh")[0] == 0
    there = hub.uploads / "me/fresh"
    assert not refresh(there).changed
    (there / "README.md").write_bytes((there / "README.md").read_bytes().replace(b"Apache-2.0.", b"BSD."))
    report = json.loads((there / "conversion.json").read_text())
    from viscpm_hf.checkpoint.cards import NAMELESS, named
    from viscpm_hf.checkpoint.repo import digest

    report["card"] = digest(named((there / "README.md").read_bytes(), NAMELESS))
    (there / "conversion.json").write_text(json.dumps(report))
    assert "README.md" in refresh(there).changed and b'repo = "me/fresh"' in (there / "README.md").read_bytes()


def test_nothing_is_left_half_named(hub, viscpm, chat):
    """A card goes with the first commit; the weights follow, and another try brings them."""
    hub.faults.append(("preupload", HubError(404, "Fault", "no")))
    assert viscpm("push", chat, "me/half")[0] == 1
    assert viscpm("push", chat, "me/half")[0] == 0
    assert (hub.uploads / "me/half/model.safetensors").exists()
