"""Guards the judge of painted pictures: what it is asked in training is what is drawn, and how its maps are read."""

import random

import torch
from PIL import Image

from viscpm_hf.tiny.measures.judge import STRIDE, Judge, accuracy, drawings, main, middle_maps
from viscpm_hf.tiny.training.paint_data import NO_COLOUR, SEEN, THINGS_SEEN, draw_rows
from viscpm_hf.tiny.world.pictures import draw, scene_rows
from viscpm_hf.tiny.world.scenes import BACKGROUNDS, Placed, Scene, random_scene
from viscpm_hf.tiny.world.things import COLOURS


class Knowing(Judge):
    """Answers what the maps of middles say: a judge that is always right."""

    def know(self, rows):
        self.rows = rows
        return self

    def forward(self, pixels):
        middles, colours = middle_maps(self.rows, self.size // STRIDE)
        what = torch.nn.functional.one_hot(middles.long().clamp(min=0), 1 + THINGS_SEEN)
        colour = torch.nn.functional.one_hot(colours.long() % NO_COLOUR, len(COLOURS))
        grounds = torch.nn.functional.one_hot(self.rows[:, -2].long(), len(BACKGROUNDS))
        return 20.0 * torch.cat([what, colour], -1).permute(0, 3, 1, 2), grounds.float()


def test_what_the_maps_say_is_read_as_the_scene():
    rng = random.Random(0)
    scenes = [random_scene(rng, None) for _ in range(300)]
    rows = scene_rows(scenes)
    for size in (64, 96):
        looks = Knowing(size).know(rows).look(draw_rows(rows, size), batch_size=300)
        for scene, look in zip(scenes, looks, strict=True):
            assert look.background == scene.background
            assert [(thing.name, thing.cell) for thing in look.things] == [(p.name, p.cell) for p in scene.things]


def test_the_maps_have_nine_pixels_for_each_thing():
    rows = scene_rows([Scene((Placed("cat", "large", 4), Placed("red star", "small", 8)), "sky")])
    middles, colours = middle_maps(rows, 24)
    cat, star = 1 + SEEN.index("cat"), 1 + SEEN.index("star")
    assert sorted(middles.unique().tolist()) == sorted([0, cat, star])
    assert (middles == cat).sum() == (middles == star).sum() == 9 and (middles[0, 11:14, 11:14] == cat).all()
    assert colours.unique().tolist() == [0, NO_COLOUR] and list(COLOURS)[0] == "red"
    assert torch.equal(colours == 0, middles == star)


def test_drawings_of_training_and_of_the_test_do_not_meet():
    shown, asked = (
        {tuple(row[:-1].tolist()) for row in drawings(400, 0, held_out).unflatten(0, (-1,))}
        for held_out in (False, True)
    )
    assert len(asked) > 380 and not shown & asked


def test_it_learns_is_kept_and_looks_at_pictures(tmp_path, capsys):
    file = tmp_path / "judge.pt"
    arguments = ["--output", str(file), "--size", "32", "--scenes", "20", "--batch-size", "4", "--held-out", "20"]
    assert main([*arguments, "--minutes", "0.01"]) == 0
    kept = file.read_bytes()
    assert main([*arguments, "--minutes", "9"]) == 0 and file.read_bytes() == kept
    assert "| background |" in capsys.readouterr().out
    judge = Judge(32).eval()
    looks = judge.look([draw(Scene((), "night")), Image.new("RGB", (50, 70))])
    assert len(looks) == 2 and {look.background for look in looks} <= set(BACKGROUNDS)
    assert set(accuracy(judge, 4)) == {"things", "places", "background", "all"}
