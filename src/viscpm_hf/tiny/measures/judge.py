"""Looks at pictures: which things are where on what background, by a small network that has seen drawings only.

    python -m viscpm_hf.tiny.measures.judge --output DIR [--minutes 1]

trains it and says how often it is right about drawings it has not seen. It never sees a painted picture in training, so
it can judge those of the tiny Paint.
"""

import torch
from torch import nn

from ..training.paint_data import COLOURS, SEEN, THINGS_SEEN

GRID = 16  # pixels of the map of middles
