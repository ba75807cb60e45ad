"""The requests that the original puts before a plain caption, one of which is drawn for every sample."""

# finetune/utils/prompts.py of the original, a slip of the pen mended; it has nine in Chinese
ENGLISH = (
    "Describe the image concisely",
    "Provide a brief description of the given image",
    "Offer a succinct explanation of the picture presented",
    "Summarize the visual content of the image",
    "Share a concise interpretation of the image provided",
    "Present a compact description of the photo’s key features",
    "Relay a brief and clear account of the picture shown",
    "Render a clear and concise summary of the photo",
    "Write a terse but informative summary of the picture",
    "Create a compact narrative representing the image presented",
)
CHINESE = (
    "简明扼要地描述图像",
    "提供给定图像的简短描述",
    "对所示的图片进行简要的解释",
    "总结图像的视觉内容",
    "对所提供的图像进行简要的解释",
    "简明扼要并清楚地说明所示图片",
    "对这张照片作一个简明扼要的总结",
    "写一篇简洁但内容丰富的图片摘要",
    "创造一个紧凑的叙事来代表所呈现的图像",
)


def is_chinese(text: str) -> bool:
    """Whether a text has a Chinese character, as the original asks."""
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def requests_for(caption: str) -> tuple[str, ...]:
    """The requests in the language of a caption."""
    return CHINESE if is_chinese(caption) else ENGLISH
