"""VisCPM-Chat, cell by cell: ask, ask again, many at once, streamed.
一步步体验 VisCPM-Chat：提问、追问、批量、流式输出。

    python examples/chat.py                         # the tiny model that the package ships  随包附带的小模型
    python examples/chat.py VisCPM-Chat photo.jpg   # a converted folder or Hub repository  转换好的模型，一张图片

An editor that knows `# %%` (VS Code, PyCharm, Spyder, jupytext) runs it as a notebook.
支持 `# %%` 的编辑器可以把它当作笔记本逐格运行。
"""

# %% The model. Without a folder: the tiny one, which knows simple drawings only.
# 载入模型。不给出目录时使用小模型，它只认识简单的图画。
import sys

from PIL import Image

from viscpm_hf import VisCPMChat
from viscpm_hf.tiny import PICTURES, tiny_chat_repo

given = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook: put the two here  在笔记本中请写在这里
model = given[0] if given else tiny_chat_repo()
picture = given[1] if given[1:] else PICTURES / "1_cat_and_apple.png"
print(f"{model}, {picture}")

# No safety checker: of photographs people send in, use image_safety_checker=True.
# 这里不使用图像安全检查；处理他人上传的图片时请设为 True。
# On a small GPU: memory="5GB". 显存较小时：memory="5GB"。
try:
    chat = VisCPMChat(model, image_safety_checker=False)
    image = Image.open(picture).convert("RGB")
except (ValueError, OSError) as error:
    sys.exit(str(error))

# %% One question, in Chinese or English. The three beams and the settings are the original's.
# 提一个问题，中英文皆可。默认采用原版的束搜索（束宽 3）和参数。
question = "猫在哪里？"  # Where is the cat?
answer, context, vision_hidden_states = chat.chat(image, question)
print(f"问 {question}\n答 {answer}")

# %% A second turn: the context tells what is meant, and the picture is not encoded again.
# 追问：上文说明了“它”指什么；图片不必重新编码。
question = "它是什么颜色的？"  # What colour is it?
answer, context, _ = chat.chat(image, question, context=context, vision_hidden_states=vision_hidden_states)
print(f"问 {question}\n答 {answer}")
print(f"The context by now 此时的上文:\n{context}")

# %% Several questions in one batch, about one picture or many, each answered as if alone.
# 批量提问：可以是同一张图，也可以是多张图，每个回答与单独提问时相同。
questions = ["图片里有什么？", "What is in the picture?", "Where is the apple?"]
items = [{"image": image, "question": question} for question in questions]
for question, (answer, _, _) in zip(questions, chat.batch_chat(items), strict=True):
    print(f"问 {question}\n答 {answer}")

# %% Streamed: greedily, piece by piece. 流式输出：贪心搜索，逐词给出。
question = "Describe the picture."  # 描述图片。
print(f"问 {question}\n答 ", end="")
for piece in chat.stream(image, question):
    print(piece, end="", flush=True)
print()
