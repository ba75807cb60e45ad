"""Uploading to the Hub: converted, fine-tuned and quantized repositories, adapters, and a Space that shows a model.

* contents.py: what a folder is, whether it is whole, and which of its files are uploaded
* card.py: its model card, with the name it gets
* upload.py: `push_to_hub`; refusals.py: what the Hub says, in a sentence with what to do
* space.py: a Space with the web page of a model; space_files/ has its templates
"""

from .card import write_adapter_card
from .contents import Contents, read_contents
from .upload import HubError, Upload, push_to_hub

__all__ = ["Contents", "HubError", "Upload", "push_to_hub", "read_contents", "write_adapter_card"]
