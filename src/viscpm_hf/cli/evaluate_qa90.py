"""`viscpm evaluate qa90`: answers to LLaVA-QA90, a judge's verdicts, the README's table."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..language import say
from .options import Device, Dtype, Memory, Model, Quantization
from .program import verb

Format = Annotated[
    Literal["text", "markdown", "json"],
    typer.Option("--format", metavar="KIND", help=say("text, markdown or json", "text、markdown 或 json")),
]


def add_to(group: typer.Typer) -> None:
    group.command(
        help=say(
            "LLaVA-QA90: answer questions about pictures, and have a language model judge the answers.",
            "LLaVA-QA90：回答关于图片的问题，再由语言模型评判。",
        ),
        epilog=say(
            "Run it again with the same --output to go on where it was; what is done is not done again.",
            "用同样的 --output 再运行一次即可继续；已完成的不会重做。",
        ),
    )(qa90)


def _prices(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)/(\d{1,6}(?:\.\d{1,6})?)", text.strip())
    if not found:
        raise typer.BadParameter(f"Got {text[:40]!r}, expected dollars such as 2.50/10.")
    return float(found[1]), float(found[2])


def _file(english: str, chinese: str):
    return Annotated[Path | None, typer.Option(metavar="FILE", help=say(english, chinese), show_default=False)]


def qa90(
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help=say("JSONL in LLaVA's format", "LLaVA 格式的问题（JSONL）"))
    ],
    images: Annotated[
        Path, typer.Option(metavar="DIR", help=say("COCO's val2014 pictures", "COCO val2014 图片的文件夹"))
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help=say("folder for answers, verdicts, scores", "存放结果的文件夹")),
    ],
    model: Model = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=say(
                "answers come from this server, such as http://127.0.0.1:8000/v1",
                "由此服务回答，如 http://127.0.0.1:8000/v1",
            ),
        ),
    ] = None,
    served_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=say("id of its model, if it has several", "服务有多个模型时选哪个")),
    ] = None,
    server_key_env: Annotated[
        str,
        typer.Option(metavar="NAME", help=say("environment variable with its key", "存放其密钥的环境变量")),
    ] = "VISCPM_API_KEY",
    batch: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help=say("questions at a time", "同时回答的问题数"))
    ] = 8,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=say("model that judges, such as gpt-4; default: answers only", "评判的模型，如 gpt-4；默认：只回答"),
        ),
    ] = None,
    references: _file("the reference's answers, for judging", "参考回答，评判用") = None,
    captions: _file("captions and boxes of the pictures, for judging", "图片描述与包围盒") = None,
    rules: _file("what the judge is told, for judging", "评判规则，评判用") = None,
    judge_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help=say("OpenAI-compatible address (default: OpenAI's)", "OpenAI 兼容的地址")),
    ] = None,
    judge_key_env: Annotated[
        str,
        typer.Option(metavar="NAME", help=say("environment variable with its key", "存放其密钥的环境变量")),
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[
        int,
        typer.Option(min=1, max=64, metavar="N", help=say("requests to the judge at a time", "同时评判的请求数")),
    ] = 4,
    patience: Annotated[
        float,
        typer.Option(min=1, max=3600, metavar="SECONDS", help=say("for one reply", "等待一次回复的秒数")),
    ] = 120.0,
    price: Annotated[
        tuple | None,
        typer.Option(
            parser=_prices,
            metavar="IN/OUT",
            help=say("dollars for a million tokens, for the estimate", "每百万 token 的美元价格，估算用"),
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help=say("say what judging needs, and stop", "只估算评判的开销"))
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help=say("ask again where verdicts were malformed", "重新评判格式不对的")),
    ] = False,
    form: Format = "text",
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    material = {"--references": references, "--captions": captions, "--rules": rules}
    missing = [name for name, value in material.items() if value is None]
    if (judge or estimate) and missing:
        raise typer.TyperException(f"Got no {', '.join(missing)}: the judge needs all of {', '.join(material)}.")
    if judge is None and (judge_url or again):
        raise typer.TyperException("Got an option of the judge without --judge: name the model that judges.")
    if server is None and served_model is not None:
        raise typer.TyperException("Got --served-model without --server: give the server's address.")
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device}
    if server is not None and (model is not None or any(loading.values())):
        raise typer.TyperException("Got --server with an option of a model here: give one or the other.")
    files = None if missing else (references, captions, rules)
    answering = (server, served_model, server_key_env, model, loading, batch)
    judging = (judge, judge_url, judge_key_env, concurrency, patience, price, again)
    return _qa90(questions, images, output, answering, files, judging, estimate, form)


@verb
def _qa90(questions, images, output, answering, files, judging, only_estimate, form):
    from .remarks import only_ours

    with only_ours():
        return _answer_and_judge(questions, images, output, answering, files, judging, only_estimate, form)


def _answer_and_judge(questions_file, images, output, answering, files, judging, only_estimate, form):
    from ..evaluation import qa90
    from ..evaluation.endpoint import Endpoint
    from ..evaluation.judge import estimate
    from ..evaluation.questions import find_pictures, judging_prompt, read_material, read_questions
    from ..evaluation.runs import claimed
    from .remarks import tell

    judge, judge_url, judge_key, concurrency, patience, price, again = judging
    questions = read_questions(questions_file)
    material = read_material(questions, *files) if judge or only_estimate else None
    if material:
        guess = {q.question_id: judging_prompt(q, material.references[q.question_id], material) for q in questions}
        tell(_about(estimate(guess, price), judge))
        if only_estimate:
            return 0
    # whatever is wrong with the judge's address or key is said before a model is loaded
    endpoint = Endpoint(judge_url, judge_key, patience) if judge else None
    pictures = find_pictures(questions, images)
    with claimed(output):
        settings, load = _answerer(*answering, patience)
        answers = qa90.collect_answers(questions, pictures, output, settings, load)
        tell(say(f"Answers: {output / qa90.ANSWERS}", f"回答：{output / qa90.ANSWERS}"))
        if endpoint is None:
            return 0
        model = settings["model"]
        result = qa90.collect_verdicts(
            questions, answers, material, output, model, judge, endpoint, concurrency, again=again
        )
    _remark(result, len(questions), tell)
    print(qa90.as_json(result) if form == "json" else qa90.as_table(result, form == "markdown"))
    return int(bool(result.failed))


def _answerer(server, served_model, server_key, model, loading, batch, patience):
    """What answers depend on, and what makes who answers."""
    from ..evaluation.answers import LocalChat, ServedChat
    from ..evaluation.endpoint import Endpoint

    if server is not None:
        served = ServedChat(Endpoint(server, server_key, patience), served_model, batch)
        return {"model": served.find_model(), "server": server}, lambda: served

    from ..chat import VisCPMChat
    from ..evaluation.runs import model_settings
    from ..tiny import tiny_chat_repo, use_one_thread

    if model is None:
        use_one_thread()
    folder = tiny_chat_repo() if model is None else model
    settings = model_settings(folder, "VisCPM-Chat-tiny" if model is None else None)
    settings |= {name: loading[name] for name in ("dtype", "quantization") if loading[name]}
    return settings, lambda: LocalChat(VisCPMChat(folder, image_safety_checker=False, **loading), batch)


def _about(needed, judge):
    judge = judge or say("a judge", "评判模型")
    english = (
        f"Judging {needed.requests} answers by {judge} takes about {needed.prompt_tokens:,} tokens of prompts and at "
        f"most {needed.most_completion_tokens:,} of replies"
    )
    chinese = (
        f"由 {judge} 评判 {needed.requests} 个回答，提示约 {needed.prompt_tokens:,} 个 token，回复最多 "
        f"{needed.most_completion_tokens:,} 个"
    )
    if needed.dollars is not None:
        english, chinese = f"{english}: at most ${needed.dollars:.2f}", f"{chinese}：最多 {needed.dollars:.2f} 美元"
    return say(f"{english}.", f"{chinese}。")


def _remark(result, count, tell):
    from ..checkpoint import listed

    if result.malformed:
        number, ids = len(result.malformed), listed(result.malformed)
        tell(
            say(
                f"warning: {number} of {count} verdicts had no two scores and are left out: question {ids}",
                f"警告：{count} 个评判中有 {number} 个没有两个分数，未计入：问题 {ids}",
            )
        )
    if result.failed:
        number, ids, why = len(result.failed), listed(result.failed), next(iter(result.failed.values()))
        tell(
            say(
                f"error: {number} of {count} could not be judged and are left out, run again: question {ids} ({why})",
                f"错误：{count} 个中有 {number} 个未能评判，未计入，请再运行一次：问题 {ids}（{why}）",
            )
        )
