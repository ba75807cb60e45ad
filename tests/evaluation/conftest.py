"""A small QA90 about the tiny models' pictures."""

import json

import pytest
from PIL import Image

from viscpm_hf.tiny import PICTURES

ASKED = (("conv", "图里有什么？"), ("detail", "描述一下这张图片。"), ("complex", "What colour is the background?"))


class SmallQA90:
    """Its four files and the pictures, one of which has COCO's prefix."""

    def __init__(self, folder, pictures=4):
        self.folder, self.images = folder, folder / "val2014"
        self.images.mkdir(parents=True)
        names = sorted(path.name for path in PICTURES.glob("*.png"))
        self.rows = []
        for number in range(pictures):
            image = f"{number:012}.png"
            with Image.open(PICTURES / names[number % len(names)]) as picture:
                picture.save(self.images / (f"COCO_val2014_{image}" if number == 0 else image))
            self.rows += [
                {"question_id": 3 * number + i, "image": image, "text": f"{text}", "category": category}
                for i, (category, text) in enumerate(ASKED)
            ]
        references = [
            {"question_id": row["question_id"], "text": f"reference {row['question_id']}", "category": row["category"]}
            for row in self.rows
        ]
        box = {"category": "圆形", "bbox": [0.1, 0.25, 0.5, 0.75]}
        contexts = [
            {"id": name[:-4], "image": name, "captions": [f"caption of {name}", "另一句"], "instances": [box]}
            for name in dict.fromkeys(row["image"] for row in self.rows)
        ]
        rule = {"role": "Assistant", "prompt": "请首先输出只有两个值的一行。"}
        self.questions = self.write("questions.jsonl", self.rows)
        self.references = self.write("references.jsonl", references)
        self.captions = self.write("captions.jsonl", contexts)
        self.rules = folder / "rules.json"
        self.rules.write_text(json.dumps(dict.fromkeys(("conv", "detail", "complex"), rule)), encoding="utf-8")

    def write(self, name, rows):
        path = self.folder / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def picture(self, row):
        """The picture of a question."""
        path = self.images / row["image"]
        return Image.open(path if path.exists() else path.with_name(f"COCO_val2014_{path.name}"))

    @property
    def options(self):
        """Of the command."""
        return ["--questions", self.questions, "--images", self.images]

    @property
    def judging(self):
        return ["--references", self.references, "--captions", self.captions, "--rules", self.rules]


@pytest.fixture
def small_qa90(tmp_path):
    return SmallQA90(tmp_path / "qa90")
