"""VisCPM-Paint, cell by cell: a prompt, several, fewer steps, from a picture.
一步步体验 VisCPM-Paint：文生图、批量、少步采样、图生图。

    python examples/paint.py                 # the tiny model that the package ships  随包附带的小模型
    python examples/paint.py VisCPM-Paint    # a converted folder or Hub repository  转换好的模型

Pictures go to the folder you are in, over no other: 1_prompt.png and so on. An editor that knows `# %%` (VS
Code, PyCharm, Spyder, jupytext) runs it as a notebook.
图片保存在当前目录，不会覆盖已有文件；支持 `# %%` 的编辑器可以把它当作笔记本逐格运行。
"""

# %% The model. Without a folder: the tiny one, which paints simple things only, at its best with guidance 4.
# 载入模型。不给出目录时使用小模型，它只会画简单的东西，引导系数取 4 效果最好。
import os
import sys

from viscpm_hf import VisCPMPaint
from viscpm_hf.tiny import GUIDANCE_SCALE, tiny_paint_repo

given = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook: put the folder here  在笔记本中请写在这里
model, guidance_scale = (given[0], 7.5) if given else (tiny_paint_repo(), GUIDANCE_SCALE)  # 7.5: the original's  原版
print(model)

# Checkers and ranker are used where the repository has them; the tiny one has none. On a small GPU: memory="5GB".
# 模型目录中若有安全检查和重排序模型，则会使用；小模型没有。显存较小时：memory="5GB"。
has_all = bool(given)
try:
    painter = VisCPMPaint(model, image_safety_checker=has_all, prompt_safety_checker=has_all, add_ranker=has_all)
except ValueError as error:
    sys.exit(str(error))
pipeline = painter.pipeline
pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())


def save(picture, name):
    """Save a picture in the current folder, over no other, and say so."""
    stem, number = name.removesuffix(".png"), 1
    while os.path.lexists(name):
        number += 1
        name = f"{stem}_{number}.png"
    picture.save(name)
    print(f"{name}: {picture.width} × {picture.height}")


# %% One prompt, in Chinese or English; the generator makes the picture repeatable.
# 一句提示词，中英文皆可；固定随机种子即可复现。
save(painter.generate("草地上有一只猫", guidance_scale=guidance_scale, generator=0), "1_prompt.png")

# %% Several prompts at once, each with a seed of its own and so the same picture as alone.
# 一次画多句提示词，各用自己的种子，结果与单独作画时相同。
import torch

prompts = ["夜空中有一枚火箭", "a car on the sand", "There is an orange cross in the top right."]
generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
pictures = pipeline(prompts, guidance_scale=guidance_scale, generator=generators).images
for prompt, picture, number in zip(prompts, pictures, range(len(prompts)), strict=True):
    print(f"画 {prompt}")
    save(picture, f"2_prompts_{number}.png")

# %% DPM++ in 20 steps instead of 50 of DDPM, the original's: as good, in less than half the time.
# 用 DPM++ 走 20 步，代替原版 DDPM 的 50 步：质量相当，用时不到一半。
from diffusers import DPMSolverMultistepScheduler

ddpm = pipeline.scheduler
# the spacing of the original's configuration would leave out the highest noise levels
# 若沿用原版的步长划分，会漏掉噪声最强的几步
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(ddpm.config, timestep_spacing="trailing")
fast = painter.generate("草地上有一只猫", guidance_scale=guidance_scale, generator=0, num_inference_steps=20)
save(fast, "3_dpm.png")
pipeline.scheduler = ddpm

# %% From a picture to a picture: diffusers' own pipeline, with prompts read by ours.
# 图生图：使用 diffusers 自带的管线，提示词由我们的文本编码器处理。
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

scheduler = DDIMScheduler.from_config(ddpm.config, steps_offset=1)  # which that pipeline asks for  这是该管线的要求
parts = {"vae": pipeline.vae, "unet": pipeline.unet, "scheduler": scheduler}
parts |= dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
redraw = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
redraw.set_progress_bar_config(disable=not sys.stderr.isatty())
with torch.no_grad():
    prompt_embeds, negative_prompt_embeds, *_ = pipeline.encode_prompt("草地上有一只狗")
redrawn = redraw(
    image=fast,
    strength=0.6,  # 0 leaves the picture as it is, 1 keeps nothing of it  0 保持原图，1 完全重画
    prompt_embeds=prompt_embeds,
    negative_prompt_embeds=negative_prompt_embeds,
    guidance_scale=guidance_scale,
    generator=torch.Generator().manual_seed(0),
)
save(redrawn.images[0], "4_redrawn.png")
