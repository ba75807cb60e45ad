"""Every word of the pages, in English and Chinese."""

from typing import Any

import torch

from ..api.errors import error_of

LANGUAGES = ("en", "zh")
TEXTS = {
    # of both pages
    "chat": ("Talk about a picture", "看图对话"),
    "paint": ("Paint a picture", "文生图"),
    "other": ("中文", "English"),
    "settings": ("Settings", "设置"),
    "examples": ("Try one of these", "试试这些"),
    "seed": ("Seed", "随机种子"),
    "seed_info": ("the same seed gives the same result", "种子相同则结果相同"),
    "random": ("random", "随机"),
    "stop": ("Stop", "停止"),
    "stopped": ("Stopped: nothing was kept of it.", "已停止，未保留未完成的图片。"),
    "waiting": ("Waiting for the model …", "等待模型……"),
    "queued": ("Waiting: {count} requests in the queue", "排队中，共有 {count} 个请求在等待"),
    "tiny": (
        "This is the tiny model of the package: it understands little more than the examples.",
        "这是包内自带的小模型，只理解与示例相近的内容。",
    ),
    # Chat
    "chat_about": (
        "VisCPM-Chat looks at a picture and answers questions about it, in Chinese and English.",
        "VisCPM-Chat 看一张图片，用中文或英文回答关于它的问题。",
    ),
    "picture": ("Picture", "图片"),
    "picture_info": (
        "Upload, drop or paste a picture, or take one with the camera. Another picture begins a new conversation.",
        "上传、拖入、粘贴图片，或用摄像头拍一张。换一张图片即开始新的对话。",
    ),
    "conversation": ("Conversation", "对话"),
    "empty": ("Ask something about the picture.", "问一个关于图片的问题吧。"),
    "ask": ("Ask something …", "输入问题……"),
    "send": ("Send", "发送"),
    "regenerate": ("Answer again", "重新回答"),
    "undo": ("Undo", "撤回"),
    "clear": ("Clear", "清空"),
    "method": ("How the answer is chosen", "回答的生成方式"),
    "greedy": ("Word by word", "逐词输出"),
    "beams": ("Beam search (3 beams), shown when complete", "束搜索（束宽 3），完成后显示"),
    "sampling": ("Sampling", "采样"),
    "temperature": ("Temperature", "温度"),
    "temperature_info": ("higher: more varied", "越高越多样"),
    "top_p": ("Top p", "Top p"),
    "top_p_info": ("the likeliest words of so much probability", "只在累计概率达到该值的词中采样"),
    "max_tokens": ("Longest answer, in tokens", "回答的最大长度（token）"),
    "uploading": (
        "The picture is still on its way: ask again once it is there.",
        "图片还在上传，上传完成后再提问。",
    ),
    "thinking": ("Thinking …", "思考中……"),
    "no_picture": ("There is no picture: only the question is answered.", "没有图片：仅按问题的文字回答。"),
    # Paint
    "paint_about": (
        "VisCPM-Paint paints what you describe, in Chinese or English.",
        "VisCPM-Paint 按中文或英文描述作画。",
    ),
    "prompt": ("Prompt", "提示词"),
    "describe": ("Describe the picture …", "描述想要的画面……"),
    "negative": ("Negative prompt", "反向提示词"),
    "negative_describe": ("What should not be in it", "不希望出现的内容"),
    "paint_now": ("Paint", "开始作画"),
    "number": ("Pictures", "图片数量"),
    "width": ("Width", "宽度"),
    "height": ("Height", "高度"),
    "steps": ("Steps", "步数"),
    "scheduler": ("Scheduler", "调度器"),
    "ddpm": ("DDPM (the original's)", "DDPM（原版）"),
    "dpm++": ("DPM++ (20 steps will do)", "DPM++（20 步即可）"),
    "guidance": ("Guidance", "引导强度"),
    "guidance_info": ("how closely to follow the prompt", "遵循提示词的程度"),
    "candidates": ("Candidates", "候选数"),
    "candidates_info": (
        "painted for each picture, of which the best is shown (Chinese prompts)",
        "每张图片画几个候选，取最好的一个（中文提示词）",
    ),
    "pictures": ("Pictures", "作品"),
    "painting": ("Step {step} of {steps}", "第 {step} / {steps} 步"),
    "left": ("about {seconds} s left", "约剩 {seconds} 秒"),
    "details": (
        "{prompt} · seed {seed} · {steps} steps of {scheduler} · guidance {guidance} · {width}×{height}",
        "{prompt} · 种子 {seed} · {scheduler} {steps} 步 · 引导强度 {guidance} · {width}×{height}",
    ),
    "without": ("without: {negative}", "反向提示词：{negative}"),
    "reuse": ("Use this seed again", "沿用这个种子"),
    # what went wrong
    "no_question": ("Write a question first.", "请先输入问题。"),
    "no_prompt": ("Describe what to paint first.", "请先输入提示词。"),
    "no_seed": ("A seed is a whole number from 0 to 2⁶⁴ − 1.", "种子应为 0 到 2⁶⁴ − 1 的整数。"),
    "blackened": (
        "The safety checker blocked {count} of {all} pictures: what it takes for unsafe is shown black. "
        "Change the prompt or the seed.",
        "安全检查拦截了 {all} 张图片中的 {count} 张，被判为不安全的图片显示为黑色。请修改提示词或换一个种子。",
    ),
    "unsafe_prompt": (
        "The safety checker refused the prompt: write another.",
        "提示词未通过安全检查，请换一个。",
    ),
    "unsafe_image": (
        "The safety checker refused the picture: take another.",
        "图片未通过安全检查，请换一张。",
    ),
    "queue_full": (
        "Too many people are waiting for the model right now: try again in about {seconds} s.",
        "现在排队的人太多，请约 {seconds} 秒后再试。",
    ),
    "server_stopping": ("The server is about to stop and takes nothing new.", "服务即将停止，不再接受新的请求。"),
    "timeout": (
        "It took longer than the server allows: try again, or ask for less.",
        "超过了服务器的时限：请重试，或减少要求（更短的回答、更少的步数或图片）。",
    ),
    "context_length_exceeded": (
        "The question is longer than the model can read: shorten it.",
        "问题超过了模型能读的长度，请缩短。",
    ),
    "invalid_image": (
        "This file is no picture that can be read: take a PNG, JPEG, WebP, GIF or BMP.",
        "无法读取这个图片文件：请使用 PNG、JPEG、WebP、GIF 或 BMP。",
    ),
    "image_too_large": (
        "The picture has too many pixels: take one of at most {megapixels} megapixels.",
        "图片像素太多：请使用不超过 {megapixels} 百万像素的图片。",
    ),
    "invalid_value": ("This cannot be done with these settings: {message}", "无法按这些设置完成：{message}"),
    "out_of_memory": (
        "The server has too little memory for this: ask for less, such as a smaller or fewer pictures.",
        "服务器内存（显存）不足：请减少要求，例如更小的尺寸或更少的图片。",
    ),
    "internal_error": ("Something went wrong on the server; its log says what.", "服务器出错了，原因见其日志。"),
}

# what gradio itself says in English only, to screen readers and as tooltips; beginnings of it
OF_GRADIO = {
    "Remove Image": "移除图片",
    "Drop an image file here to upload": "把图片拖到这里上传",
    "File upload": "上传文件",
    "Upload file": "上传文件",
    "Capture from camera": "用摄像头拍照",
    "Paste from clipboard": "从剪贴板粘贴",
    "number input for ": "输入：",
    "range slider for ": "滑块：",
    "Reset to default value": "恢复默认值",
    "chatbot conversation": "对话",
    "Select example ": "示例 ",
    "Example icon": "示例图片",
    "Empty value": "暂无内容",
    "Click to Access Webcam": "点击打开摄像头",
    "grant webcam access": "打开摄像头",
    "capture photo": "拍照",
    "select source": "选择摄像头",
    "select input source": "选择摄像头",
    "Click to change source": "点击切换来源",
    "Scroll down": "滚动到底部",
    "detailed view of selected image": "查看大图",
    "View full screen": "全屏查看",
    "View in full screen": "全屏查看",
    "Exit full screen": "退出全屏",
    "Exit fullscreen": "退出全屏",
    "Fullscreen": "全屏查看",
    "Download": "下载",
    "Close": "关闭",
    "Clear": "清空",
    "Thumbnail ": "缩略图 ",
    "Connection Lost": "连接已断开",
}


class Words:
    """The words of one language.

    Args:
        language (`str`): one of `LANGUAGES`.
    """

    def __init__(self, language: str):
        self.language = language
        self._number = LANGUAGES.index(language)

    def __call__(self, name: str, **values: Any) -> str:
        """A text, with values filled in."""
        return TEXTS[name][self._number].format(**values)

    def of_error(self, error: BaseException, **values: Any) -> str:
        """What a person is told of an exception, in one sentence."""
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return self("out_of_memory")
        found = error_of(error)
        name = found.code if found.code in TEXTS else "internal_error" if found.status_code >= 500 else "invalid_value"
        retry = (found.headers or {}).get("Retry-After", "10")
        return self(name, **{"message": found.message, "seconds": retry, **values})
