"""`viscpm evaluate images`: pictures of captions, their FID and CLIP score."""

import re
from pathlib import Path
from typing import Annotated

import typer

from ..language import say
from .evaluate_qa90 import Format
from .options import Candidates, Device, Dtype, Guidance, Memory, Model, Quantization, Scheduler, Size, Steps
from .program import verb


def add_to(group: typer.Typer) -> None:
    group.command(
        help=say(
            "Paint captions, such as COCO's, and compute FID and CLIP score.",
            "按描述（如 COCO）作画，并计算 FID 与 CLIP 分数。",
        ),
        epilog=say(
            "Run it again with the same --output to go on where it was. On several GPUs begin the command with: "
            "accelerate launch -m viscpm_hf evaluate images",
            "用同样的 --output 再运行一次即可继续。多块 GPU 时，命令的开头是："
            "accelerate launch -m viscpm_hf evaluate images",
        ),
    )(images)


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise typer.BadParameter(f"Got {text[:80]!r}, expected 64 hexadecimal digits.")
    return text.strip().lower()


def images(
    prompts: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help=say(
                "text with a prompt a line, JSONL, or COCO's captions (.json); may come again",
                "每行一条提示词的文本、JSONL 或 COCO 描述（.json）；可多次给出",
            ),
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help=say("folder for pictures and scores", "存放图片与分数的文件夹"))
    ],
    model: Model = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=say("so many prompts of a file, drawn by the seed (default: all)", "抽取的条数，默认全部"),
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=say("real pictures such as val2014, for FID", "真实图片，算 FID 用")),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=say("Inception as TorchScript, for FID", "TorchScript 的 Inception，算 FID 用")
        ),
    ] = None,
    inception_sha256: Annotated[
        str | None,
        typer.Option(
            parser=_sha256, metavar="HEX", help=say("its hash (default: NVIDIA's)", "其哈希（默认：NVIDIA 的）")
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_REPO", help=say("CLIP for English prompts", "英文提示词用的 CLIP")),
    ] = None,
    chinese_clip: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_REPO", help=say("Chinese-CLIP for Chinese ones", "中文提示词用的 Chinese-CLIP")),
    ] = None,
    no_ranker: Annotated[
        bool, typer.Option("--no-ranker", help=say("leave out the model's ranker", "不用模型的重排序"))
    ] = False,
    candidates: Candidates = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**63,
            metavar="N",
            help=say("of a file's first prompt; then counted up", "首条的种子，逐条加一"),
        ),
    ] = 0,
    batch: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help=say("prompts at a time", "同时作画的提示词数"))
    ] = 4,
    steps: Steps = None,
    size: Size = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    form: Format = "text",
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    if (references is None) != (inception is None):
        raise typer.TyperException("Got one of --references and --inception: FID needs both.")
    if no_ranker and (candidates or 1) > 1:
        raise typer.TyperException("Got --candidates with --no-ranker: there is nothing to choose with.")
    if len({path.stem for path in prompts}) < len(prompts):
        raise typer.TyperException("Got two files of one name as --prompts: their pictures need folders of their own.")
    settings = {"steps": steps, "size": size, "negative": None, "guidance": guidance, "candidates": candidates}
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype}
    scoring = (references, inception, inception_sha256, {"en": clip, "zh": chinese_clip})
    painting = (no_ranker, seed, batch, scheduler, settings, loading, device)
    return _images(prompts, output, model, limit, painting, scoring, form)


@verb
def _images(files, output, model, limit, painting, scoring, form):
    from .remarks import only_ours

    with only_ours():
        return _paint_and_score(files, output, model, limit, painting, scoring, form)


def _paint_and_score(files, output, model, limit, painting, scoring, form):
    from contextlib import nullcontext
    from datetime import timedelta

    from accelerate import PartialState

    from ..checkpoint.repo import check_is_converted
    from ..evaluation import images
    from ..evaluation.captions import read_prompts
    from ..evaluation.clip import require_clip
    from ..evaluation.fid import KNOWN_SHA256, Inception, frechet_distance, pictures_in
    from ..evaluation.runs import claimed, model_settings
    from .painting import Painter, check_candidates, check_size
    from .remarks import tell

    no_ranker, seed, batch, scheduler, settings, loading, device = painting
    real, network, sha256, clips = scoring
    sets = [images.PromptSet(path.stem, read_prompts(path, limit, seed), output / path.stem) for path in files]
    if model is not None:
        check_is_converted(model, "VisCPM-Paint", "paint --sd-base SD_BASE", "model_index.json")
    check_size(model, settings["size"])
    check_candidates(model, settings["candidates"])
    inception = None
    if network is not None:  # what is wrong with it is said before days of painting
        inception = Inception(network, sha256 or KNOWN_SHA256)
        frechet_distance(inception)
        pictures_in(real)
    for clip in filter(None, clips.values()):
        require_clip(clip)
    # others may paint for days after one is done
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=14))
    own = {"scheduler": scheduler, **{key: value for key, value in settings.items() if key != "candidates"}}
    own |= {name: loading[name] for name in ("dtype", "quantization") if loading[name]}

    def load():
        parts = {"image_safety_checker": False, "prompt_safety_checker": False, "add_ranker": not no_ranker}
        painter = Painter(model, scheduler, settings, {**loading, **parts, "device": state.device})
        painter.pipeline.set_progress_bar_config(disable=True)
        width, height = painter.size or (None, None)
        options = {"width": width, "height": height, "guidance_scale": painter.guidance}
        return painter.painter, {**options, "num_inference_steps": painter.steps}

    with claimed(output) if state.is_main_process else nullcontext():
        folder = _folder(model)
        about = model_settings(folder, None if model else "VisCPM-Paint-tiny")
        ranked = not no_ranker and _has_ranker(folder)
        images.paint_sets(sets, {**about, "ranker": ranked, **own}, load, state, seed, batch, settings["candidates"])
        results = images.score_sets(sets, about["model"], ranked, state, real, inception, clips)
        if state.is_main_process:
            images.save(results, output)
    if state.num_processes > 1:
        state.destroy_process_group()
    if not state.is_main_process:
        return 0
    _remark(results, tell, images.ENOUGH)
    print(images.as_json(results) if form == "json" else images.as_table(results, form == "markdown"))
    return int(any(result.refused for result in results))


def _folder(model):
    from ..tiny import tiny_paint_repo, use_one_thread

    if model is not None:
        return model
    use_one_thread()
    return tiny_paint_repo()


def _has_ranker(model):
    from ..remote_code.pipeline_viscpm_paint import VisCPMPaintPipeline

    return bool(VisCPMPaintPipeline.load_config(model).get("ranker", [None])[0])


def _remark(results, tell, enough):
    from ..checkpoint import listed

    for result in results:
        if result.refused:
            number, ids, why = len(result.refused), listed(result.refused), next(iter(result.refused.values()))
            tell(
                say(
                    f"error: {result.prompts}: {number} prompts have no picture and are left out: {ids} ({why})",
                    f"错误：{result.prompts}：{number} 条提示词没有图片，未计入：{ids}（{why}）",
                )
            )
        if result.fid is not None and min(result.count, result.real) < enough:
            tell(
                say(
                    f"warning: {result.prompts}: an FID of {result.count} pictures to {result.real} real ones cannot "
                    "be compared with the published ones, which are of 30,000",
                    f"警告：{result.prompts}：{result.count} 张图片对 {result.real} 张真实图片的 FID 不能与已发布的"
                    "相比，后者用了 30000 张",
                )
            )
