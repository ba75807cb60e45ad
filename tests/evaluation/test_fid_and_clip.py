"""Guards FID against scipy and over processes, the hash of what is run, and CLIP scores against cosines."""

import hashlib

import numpy as np
import pytest
import torch
from paint import BERT, VISION, ranker_parts
from PIL import Image
from scipy.linalg import sqrtm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from viscpm_hf.checkpoint.errors import CheckpointError
from viscpm_hf.evaluation.clip import ClipScore
from viscpm_hf.evaluation.fid import Inception, add_pictures, as_tensor, frechet_distance, open_picture, pictures_in

FEATURES = 8


class Network(torch.nn.Module):
    """Stands for Inception: its interface, with random weights."""

    def __init__(self, features: int = FEATURES):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, features, 5, 2)

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        features = torch.relu(self.conv(img.to(torch.float32) / 128 - 1)).mean([2, 3])
        return features if return_features else features.sum()


def scripted(module, path):
    """Its TorchScript in a file; the hash."""
    torch.jit.script(module).save(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def inception(tmp_path):
    path = tmp_path / "inception.pt"
    return Inception(path, scripted(Network(), path))


@pytest.fixture
def folders(tmp_path):
    """Real and painted pictures; the real ones of several sizes."""
    rng = np.random.default_rng(0)
    found = []
    for name, count, mean in (("real", 30, 90), ("painted", 25, 150)):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            height, width = (40 + number, 40) if name == "real" else (32, 32)
            noise = np.clip(rng.normal(mean + 2 * number, 60, (height // 4, width // 4, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noise).resize((width, height)).save(folder / f"{number:02}.png")
        found.append(folder)
    return found


def test_it_is_the_frechet_distance_that_scipy_computes(inception, folders):
    metric, statistics = frechet_distance(inception), []
    for folder, real in zip(folders, (True, False), strict=True):
        paths = pictures_in(folder)
        add_pictures(metric, paths, real, (32, 32), batch_size=7)
        network = Network()
        features = network(as_tensor(open_picture(path, (32, 32)) for path in paths), return_features=True)
        features = features.detach().double().numpy()
        statistics.append((features.mean(0), np.cov(features, rowvar=False)))
    (mean, covariance), (other_mean, other_covariance) = statistics
    root = sqrtm(covariance @ other_covariance).real
    expected = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance - 2 * root)
    assert expected > 1e-3
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-4)


def test_shares_of_several_processes_merge_into_the_same_distance(inception, folders):
    whole, parts = frechet_distance(inception), [frechet_distance(inception) for _ in range(3)]
    for folder, real in zip(folders, (True, False), strict=True):
        paths = pictures_in(folder)
        add_pictures(whole, paths, real, (32, 32))
        for number, part in enumerate(parts):
            add_pictures(part, paths[number::3], real, (32, 32))
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert float(parts[0].compute()) == pytest.approx(float(whole.compute()), rel=1e-5)
    whole.reset()
    add_pictures(whole, pictures_in(folders[0]), False, (32, 32))
    assert abs(float(whole.compute())) < 1e-6  # the real pictures are still there


def test_real_pictures_are_cut_to_the_shape_of_the_painted_ones(tmp_path):
    Image.fromarray(np.repeat(np.array([[0, 200, 0]], np.uint8), 30, 0).repeat(20, 1)).save(tmp_path / "a.png")
    picture = np.asarray(open_picture(tmp_path / "a.png", (15, 15)))
    assert picture.shape == (15, 15, 3) and picture[:, 7].min() > 150 and picture[:, 0].max() > 0


class Odd(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.to(torch.float32).mean()


def test_only_a_network_with_the_right_hash_is_run(tmp_path, folders):
    path = tmp_path / "network.pt"
    sha256 = scripted(Network(), path)
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {sha256}, expected f58cb9b6ec32"):
        Inception(path)
    assert Inception(path, sha256.upper()).num_features == FEATURES
    for make in (lambda: scripted(Odd(), path), lambda: path.write_bytes(b"nothing")):
        make()
        with pytest.raises(CheckpointError, match="is no TorchScript network from pictures to features") as error:
            Inception(path, hashlib.sha256(path.read_bytes()).hexdigest())
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="There is no file"):
        Inception(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="holds 0 pictures, expected the real ones"):
        pictures_in(tmp_path / "nowhere")
    (folders[0] / "00.png").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="00.png is not a picture that can be read"):
        open_picture(folders[0] / "00.png")


def clip_folder(folder):
    """A real CLIP with random weights, saved; it knows letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, merges=[])
    torch.manual_seed(1)
    text = {**BERT, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def chinese_clip_folder(folder, texts):
    parts = ranker_parts(folder, texts)
    parts["ranker"].save_pretrained(folder)
    parts["ranker_processor"].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("language", ["en", "zh"])
def test_clip_scores_are_cosines_of_the_two_embeddings(tmp_path, folders, language):
    """Of prompts longer than it reads, too, and whatever the batches are."""
    texts = ["a red circle", "blue star " * 20, "heart"] if language == "en" else ["红圆", "蓝星" * 40, "心"]
    folder = tmp_path / "clip"
    folder.mkdir()
    folder = clip_folder(folder) if language == "en" else chinese_clip_folder(folder, texts)
    paths = pictures_in(folders[1])[:3]
    score = ClipScore(folder, torch.device("cpu"))
    found = score(texts, paths)
    assert found == pytest.approx(score(texts, paths, batch_size=1), abs=1e-3) and max(found) > 1
    with torch.no_grad():
        for text, path, value in zip(texts, paths, found, strict=True):
            options = {"return_tensors": "pt", "truncation": True}
            options["max_length"] = score.model.config.text_config.max_position_embeddings
            inputs = score.processor(text=[text], images=[open_picture(path)], **options)
            one = score.model.get_text_features(**{k: v for k, v in inputs.items() if k != "pixel_values"})
            other = score.model.get_image_features(pixel_values=inputs["pixel_values"])
            one, other = (getattr(each, "pooler_output", each)[0].double() for each in (one, other))
            cosine = float(one @ other / one.norm() / other.norm())
            assert value == pytest.approx(max(0, 100 * cosine), abs=1e-3)


def test_what_is_no_clip_is_one_sentence(tmp_path, chat_repo):
    with pytest.raises(CheckpointError, match="is not a CLIP that can be loaded"):
        ClipScore(tmp_path / "nowhere", torch.device("cpu"))
    with pytest.raises(CheckpointError, match="holds a viscpm_chat, expected one of clip, chinese_clip"):
        ClipScore(chat_repo, torch.device("cpu"))
