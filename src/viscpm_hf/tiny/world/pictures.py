"""The sample pictures of the demo: `python -m viscpm_hf.tiny.world.pictures` draws them into images/."""

import random

from PIL import Image

from .. import PICTURES
from .scenes import Scene, Thing, draw

SAMPLES = {
    "1_circle_and_star.png": Scene(
        (Thing("circle", "red", "large", 0), Thing("star", "blue", "small", 5)),
        "white",
    ),
    "2_triangle_and_cross.png": Scene(
        (Thing("triangle", "green", "large", 3), Thing("cross", "orange", "large", 7)),
        "gray",
    ),
    "3_two_hearts.png": Scene((Thing("heart", "pink", "small", 2), Thing("heart", "purple", "large", 7)), "beige"),
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, scene in SAMPLES.items():
        Image.fromarray(draw(scene, random.Random(name))).save(PICTURES / name)


if __name__ == "__main__":
    main()
