"""Guards where rows come from: files, folders, tables with pictures inside, whole and streamed, all the same."""

import io
import json
import shutil
import tarfile

import pytest
from PIL import Image

from viscpm_hf.finetuning import ChatDataset, ChatStream

datasets = pytest.importorskip("datasets")
COLOURS = ("red", "green", "blue")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (8, 8), colour).save(tmp_path / "pictures" / f"{colour}.png")
    return tmp_path


@pytest.fixture
def rows():
    return [{"image": f"pictures/{colour}.png", "question": "q", "answer": colour} for colour in COLOURS]


def with_bytes(folder, rows):
    return [{**row, "image": (folder / row["image"]).read_bytes()} for row in rows]


def as_json(folder, rows):
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"


def as_lines(folder, rows):
    (folder / "data.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder / "data.jsonl"


def as_parquet(folder, rows):
    datasets.Dataset.from_list(rows).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def as_parquet_with_bytes(folder, rows):
    return as_parquet(folder, with_bytes(folder, rows))


def as_parquet_with_pictures(folder, rows):
    data = datasets.Dataset.from_list([{**row, "image": str(folder / row["image"])} for row in rows])
    data.cast_column("image", datasets.Image()).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def as_lists_of_pictures(folder, rows):
    data = [
        {"images": [{"bytes": row["image"], "path": None}], "question": "q", "answer": row["answer"]}
        for row in with_bytes(folder, rows)
    ]
    features = {"images": datasets.List(datasets.Image()), "question": datasets.Value("string")}
    features["answer"] = datasets.Value("string")
    return datasets.Dataset.from_list(data, features=datasets.Features(features))


def as_saved(folder, rows):
    data = datasets.Dataset.from_list([{**row, "image": str(folder / row["image"])} for row in rows])
    datasets.DatasetDict({"train": data.cast_column("image", datasets.Image())}).save_to_disk(folder / "saved")
    return folder / "saved"


def as_folder_of_files(folder, rows):
    (folder / "set").mkdir()
    shutil.copytree(folder / "pictures", folder / "set" / "pictures")
    for number, row in enumerate(rows):
        (folder / "set" / f"part{number}.jsonl").write_text(json.dumps(row))
    return folder / "set"


def as_picture_folder(folder, rows):
    lines = [
        json.dumps({"file_name": f"{row['answer']}.png", "question": "q", "answer": row["answer"]}) for row in rows
    ]
    (folder / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
    return folder / "pictures"


def as_tar(folder, rows):
    with tarfile.open(folder / "data.tar", "w") as tar:
        for number, row in enumerate(with_bytes(folder, rows)):
            for name, data in (
                ("png", row["image"]),
                ("json", json.dumps({"question": "q", "answer": row["answer"]})),
            ):
                data = data.encode() if isinstance(data, str) else data
                info = tarfile.TarInfo(f"{number:04}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder / "data.tar"


def as_pairs(folder, rows):
    for row in rows:
        text = json.dumps({"question": "q", "answer": row["answer"]})
        (folder / "pictures" / f"{row['answer']}.json").write_text(text)
    return folder / "pictures"


KINDS = [
    *(as_json, as_lines, as_parquet, as_parquet_with_bytes, as_parquet_with_pictures, as_lists_of_pictures, as_saved),
    *(as_folder_of_files, as_picture_folder, as_tar, as_pairs),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_samples_from_everywhere(folder, rows, kind, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    place = kind(folder, rows)
    whole = ChatDataset(place)
    streamed = [*ChatStream(place, buffer=1)] if not isinstance(place, datasets.Dataset) else None
    expected = {colour: Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in COLOURS}
    for samples in (whole, streamed or whole):
        assert {sample["answer"]: sample["image"].getpixel((3, 3)) for sample in samples} == expected
        assert [sample["question"] for sample in samples] == ["q"] * 3


def test_several_files_and_a_folder_of_pictures_elsewhere(folder, rows, tmp_path):
    one, two = as_json(folder, rows[:1]), as_lines(folder, [{**rows[1], "image": "green.png"}])
    moved = ChatDataset([two], folder / "pictures")
    assert moved[0]["image"].getpixel((0, 0)) == (0, 128, 0)
    assert [sample["answer"] for sample in ChatDataset([str(one), str(as_lines(folder, rows[1:]))])] == list(COLOURS)


def test_broken_lines_are_left_out(folder, rows):
    file = as_lines(folder, rows)
    file.write_text(file.read_text() + "{broken\n[1]\n")
    dataset = ChatDataset(file, strict=False)
    assert len(dataset) == 3
    assert [each.reason for each in dataset.left_out] == ["a line that is not JSON", "not a record"]
    with pytest.raises(ValueError, match="Record 3 of .*not JSON"):
        ChatDataset(file)


def test_a_picture_without_a_text_is_told(folder, rows):
    """And bytes that are no picture, without an address of memory."""
    place = as_pairs(folder, rows)
    (place / "red.json").unlink()
    dataset = ChatDataset(place, strict=False)
    assert len(dataset) == 2
    (left,) = dataset.left_out
    assert (left.reason, left.detail) == (
        "a picture without a text",
        "there is no red.txt or red.json beside red.png",
    )
    with pytest.raises(ValueError, match="cannot identify image file these bytes"):
        ChatDataset([{"image": b"no picture", "question": "q", "answer": "a"}])[0]


def test_a_stream_shuffles_and_leaves_out(folder, rows):
    rows = [{"question": f"{i}", "answer": "a"} for i in range(40)] + [{"question": "q", "answer": ""}]
    stream = ChatStream(as_lines(folder, rows), buffer=10)
    first, again = [[sample["question"] for sample in stream] for _ in range(2)]
    stream.set_epoch(1)
    second = [sample["question"] for sample in stream]
    assert first == again != second and sorted(first) == sorted(second) == sorted(f"{i}" for i in range(40))
    assert first[:10] != [f"{i}" for i in range(10)]
    assert [(each.row, each.reason) for each in stream.left_out] == [(40, "an empty answer")]
    endless = ChatStream(folder / "data.jsonl", buffer=10, endless=True)
    assert [sample["question"] for sample, _ in zip(endless, range(80), strict=False)] == first + second
    (folder / "none.jsonl").write_text(json.dumps(rows[-1]))
    with pytest.raises(ValueError, match="No sample is left of .*: 1 × an empty answer"):
        next(iter(ChatStream(folder / "none.jsonl", endless=True)))
    with pytest.raises(ValueError, match="Record 40"):
        list(ChatStream(folder / "data.jsonl", strict=True))


def test_data_sets_as_they_are(folder, rows, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    data = datasets.Dataset.from_list(rows)
    assert len(ChatDataset(datasets.DatasetDict({"train": data}), folder)) == 3
    assert len(list(ChatStream(data.to_iterable_dataset(), folder))) == 3
    with pytest.raises(ValueError, match="use ChatStream"):
        ChatDataset(data.to_iterable_dataset())
    with pytest.raises(ValueError, match="has the splits test, but no 'train'"):
        ChatDataset(datasets.DatasetDict({"test": data}))
    (folder / "broken.parquet").write_bytes(as_parquet(folder, rows).read_bytes()[:-40])
    with pytest.raises(ValueError, match="broken.parquet"):
        list(ChatStream(folder / "broken.parquet"))


@pytest.mark.parametrize("name", ["no_such.json", "owner/no_such_data", "notes.txt", "empty", "broken.parquet"])
def test_what_is_no_data_is_one_sentence(tmp_path, name, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.parquet").write_text("hello")
    (tmp_path / "empty").mkdir()
    place = name if "/" in name else tmp_path / name
    with pytest.raises(ValueError) as error:
        ChatDataset(place)
    assert str(error.value).count("\n") == 0 and name in str(error.value)


def test_a_broken_file_of_an_archive_is_one_row(folder, rows):
    """`datasets` refused the whole archive; whatever lies in it, the rest is trained on, and --strict stops."""
    good = {f"{row['answer']}.png": row["image"] for row in with_bytes(folder, rows)}
    good |= {f"{row['answer']}.txt": row["answer"].encode() for row in rows}
    bad = {"a/b.json": b"{broken", "a/b.png": good["red.png"], "c.txt": b"\xff\xfe\xff", "c.png": good["red.png"]}
    bad |= {"d.png": b"no picture", "d.txt": b"d", "e.png": good["red.png"], "f.txt": b"f", "g.cls": b"7", ".h": b""}
    bad |= {"i.png": good["red.png"], "i.json": json.dumps({"text": "i", "image": "was/here.png"}).encode()}
    with tarfile.open(folder / "data.tar", "w") as tar:
        for name, data in (bad | good).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    whole = ChatDataset(folder / "data.tar", strict=False)
    reasons = {each.file: each.reason for each in whole.left_out}
    assert reasons == {
        "a/b": "a text file that cannot be read",
        "c": "a text file that cannot be read",
        "e": "no text in a known form",
        "f": "the picture is missing",
        "g": "no text in a known form",
    }
    assert [sample["answer"] for sample in ChatStream(folder / "data.tar", buffer=1)] == ["i", *COLOURS]
    with pytest.raises(ValueError, match="Record 0 of .*data.tar.* a text file that cannot be read"):
        ChatDataset(folder / "data.tar")
    content = (folder / "data.tar").read_bytes()
    start = content.index(good["blue.png"])
    for damaged in (content[: start + 20], content[: start - 512] + b"x" * 512 + content[start:]):
        (folder / "data.tar").write_bytes(damaged)
        left_out = ChatDataset(folder / "data.tar", strict=False).left_out
        assert [each.reason for each in left_out].count("a damaged archive") == 1
    for other in (b"", b"hello", b"\0" * 10240, b"\x1f\x8b" + b"0" * 600):
        (folder / "data.tar").write_bytes(other)
        with pytest.raises(ValueError, match=r"data\.tar' (cannot be read as|holds no)"):
            ChatDataset(folder / "data.tar")


def test_a_row_left_out_says_its_file(folder, rows):
    """Of a folder's rows the number alone says little."""
    place = as_folder_of_files(folder, rows)
    (place / "part1.jsonl").write_text(json.dumps({"image": "pictures/green.png", "question": "q", "answer": ""}))
    (place / "part2.jsonl").write_text(json.dumps({**rows[2], "image": "pictures/none.png"}) + "\n{")
    whole = ChatDataset(place, strict=False)
    stream = ChatStream(place)
    assert len(list(stream)) == 1
    found = [[(each.source, each.row, each.file) for each in data.left_out] for data in (whole, stream)]
    part1, part2 = str(place / "part1.jsonl"), str(place / "part2.jsonl")
    assert found[0] == [(part1, 0, "pictures/green.png"), (part2, 1, "")]
    assert sorted(found[1]) == [*found[0][:1], (part2, 0, "pictures/none.png"), *found[0][1:]]
    pairs = as_pairs(folder, rows)
    (pairs / "red.json").write_text('{"question": "q", "answer": ""}')
    (pairs / "blue.json").unlink()
    left_out = ChatDataset(pairs, strict=False).left_out
    assert [(each.file, each.reason) for each in left_out] == [
        ("blue.png", "a picture without a text"),
        ("red.png", "an empty answer"),
    ]
