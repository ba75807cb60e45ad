"""The sample pictures of the demo: `python -m viscpm_hf.tiny.world.samples` draws them into images/."""

from .. import PICTURES
from .pictures import draw
from .scenes import Placed, Scene

SAMPLE_SIZE = 192  # pixels, for people; the model makes 96 of them
SAMPLES = {
    "1_cat_and_apple.png": Scene((Placed("cat", "large", 0), Placed("apple", "small", 5)), "grass"),
    "2_rocket_and_moon.png": Scene((Placed("moon", "large", 2), Placed("rocket", "large", 6)), "night"),
    "3_two_fish.png": Scene((Placed("fish", "small", 2), Placed("fish", "large", 7, flipped=True)), "water"),
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, scene in SAMPLES.items():
        draw(scene, SAMPLE_SIZE).save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    main()
