"""Models and generation in transformers' common testers."""

import unittest

from testers import Beit3Tester, ChatTester, CpmBeeTester
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_modeling_common import ModelTesterMixin

from viscpm_hf import (
    Beit3VisionModel,
    CpmBeeForCausalLM,
    CpmBeeModel,
    VisCPMChatForConditionalGeneration,
    VisCPMChatModel,
)


class CpmBeeTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (CpmBeeModel, CpmBeeForCausalLM)

    def setUp(self):
        self.model_tester = CpmBeeTester(self)


class ChatTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (VisCPMChatModel, VisCPMChatForConditionalGeneration)
    _is_composite = True

    def setUp(self):
        self.model_tester = ChatTester(self)


class Beit3Test(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (Beit3VisionModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = Beit3Tester(self)
