"""Tokenizer, image processor and processor in transformers' common testers, as the embedded repository has them."""

import unittest

from transformers_tests import test_processing_common
from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin
from transformers_tests.test_processing_common import ProcessorTesterMixin
from transformers_tests.test_tokenization_common import TokenizerTesterMixin

from viscpm_hf import CpmBeeTokenizer, VisCPMChatImageProcessor, VisCPMChatProcessor
from viscpm_hf.tiny import PICTURES, tiny_chat_repo

# theirs lie on the Hub
test_processing_common.MODALITY_INPUT_DATA["images"] = [str(path) for path in sorted(PICTURES.glob("*.png"))[:2]]


class TokenizerTest(TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = CpmBeeTokenizer
    from_pretrained_id = str(tiny_chat_repo())
    test_seq2seq = False


class ImageProcessorTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        super().__init__(parent, size={"height": 18, "width": 18}, **kwargs)

    def _get_image_processing_classes(self):
        return {"pil": VisCPMChatImageProcessor}


class ImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageProcessorTester


class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = VisCPMChatProcessor
    model_id = str(tiny_chat_repo())

    @staticmethod
    def prepare_processor_dict():
        return {"query_num": VisCPMChatProcessor.from_pretrained(tiny_chat_repo()).query_num}
