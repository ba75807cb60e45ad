"""What a new Python process finds in converted repositories: run as a program it prints them as JSON.

The tests compare them between processes with and without the package, from folders and from a Hub.
"""

import json
import sys

QUESTION = "鲲鹏是什么颜色？鲲呢？q和鲲鹏"  # has words that the golden vocabulary lacks
TEXT = {"input": "鲲鹏是<mask_0>，鲲呢<mask_1>", "<ans>": ""}
NEW_TOKENS = 26


def chat_findings(repo, picture, save_to=None, **options):
    """Loads a Chat repository through every Auto class and uses what came.

    Args:
        repo (`str`): Folder or repository id.
        picture (`str`): File of the picture to ask about.
        save_to (`str`, *optional*): Folder to save the loaded model and processor to.
        options: For every `from_pretrained`.

    Returns:
        `dict` for JSON: which classes came, and what they computed.
    """
    import torch
    import transformers as hf
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    loaded = {"AutoConfig": hf.AutoConfig.from_pretrained(repo, **options)}
    for name in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        loaded[name] = getattr(hf, name).from_pretrained(repo, **options).eval()
    for name in ("AutoProcessor", "AutoTokenizer"):
        loaded[name] = getattr(hf, name).from_pretrained(repo, **options)
    # where there is no torchvision, transformers itself hands this one out from 5.18 on
    loaded["AutoImageProcessor"] = AutoImageProcessor.from_pretrained(repo, **options)
    model, processor = loaded["AutoModelForImageTextToText"], loaded["AutoProcessor"]

    content = [{"type": "image", "path": picture}, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    pixels = loaded["AutoImageProcessor"](picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        numbers = {
            "logits": model(**inputs).logits[0, -1],
            "same logits": loaded["AutoModelForMultimodalLM"](**inputs).logits[0, -1],
            "hidden": loaded["AutoModel"](**inputs).last_hidden_state[0, -1],
            "features": loaded["AutoModel"].get_image_features(pixels).pooler_output[0, 0],
        }
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS)
    new = output[:, inputs["input_ids"].shape[1] :]
    pipe = hf.pipeline("image-text-to-text", model=repo, **options)
    piped = pipe(text=messages, return_full_text=False, skip_special_tokens=False, max_new_tokens=NEW_TOKENS)
    if save_to:
        model.save_pretrained(save_to)
        processor.save_pretrained(save_to)
    parts = {
        "tokenizer": processor.tokenizer,
        "image_processor": processor.image_processor,
        "text_config": loaded["AutoConfig"].text_config,
        "language_model": model.model.language_model,
        "pipeline_model": pipe.model,
    }
    return {
        "classes": _classes({**loaded, **parts}),
        "numbers": {name: values.tolist() for name, values in numbers.items()},
        "ids": new[0].tolist(),
        "answer": processor.post_process_image_text_to_text(new, skip_special_tokens=False)[0],
        "pipeline": piped[0]["generated_text"],
        "tokens": loaded["AutoTokenizer"](TEXT)["input_ids"],
        "generation": [getattr(model.generation_config, name) for name in ("num_beams", "beam_temperature")],
    }


def language_findings(repo, save_to=None, **options):
    """Loads a plain CPM-Bee repository and continues a text; arguments and result as above."""
    import torch
    import transformers as hf

    loaded = {"AutoConfig": hf.AutoConfig.from_pretrained(repo, **options)}
    for name in ("AutoModel", "AutoModelForCausalLM"):
        loaded[name] = getattr(hf, name).from_pretrained(repo, **options).eval()
    loaded["AutoTokenizer"] = hf.AutoTokenizer.from_pretrained(repo, **options)
    model, tokenizer = loaded["AutoModelForCausalLM"], loaded["AutoTokenizer"]
    inputs = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        numbers = {"logits": model(**inputs).logits[0, -1], "hidden": loaded["AutoModel"](**inputs)[0][0, -1]}
        output = model.generate(**inputs, max_new_tokens=8)
    new = output[0, inputs["input_ids"].shape[1] :]
    if save_to:
        model.save_pretrained(save_to)
        tokenizer.save_pretrained(save_to)
    return {
        "classes": _classes(loaded),
        "numbers": {name: values.tolist() for name, values in numbers.items()},
        "ids": new.tolist(),
        "answer": tokenizer.decode(new, ext_table=inputs.ext_tables[0]),
    }


def paint_findings(repo, **options):
    """Loads a Paint repository and paints; arguments and result as above."""
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(repo, torch_dtype=torch.float32, **options)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipe("草地上有一只猫", num_inference_steps=3, generator=generator, output_type="pt").images
    return {
        "classes": _classes({"pipe": pipe, **pipe.components}),
        "numbers": {"pixels": image.flatten()[::199].tolist()},
    }


def _classes(things):
    return {name: f"{type(thing).__module__}.{type(thing).__name__}" for name, thing in things.items()}


def main(package, jobs):
    """One process.

    Args:
        package (`str`): `"absent"` or `"imported"`.
        jobs (`list`): Pairs of `"chat"`, `"language"` or `"paint"` and the arguments of that function.
    """
    if package == "absent":
        sys.modules["viscpm_hf"] = None  # from here on every import of it, or of a part of it, is an ImportError
        try:
            import viscpm_hf.remote_code  # noqa: F401
        except ImportError:
            pass
        else:
            raise RuntimeError("The package can still be imported, so this process would prove nothing.")
    else:
        import viscpm_hf  # noqa: F401
    findings, results = {"chat": chat_findings, "language": language_findings, "paint": paint_findings}, []
    for kind, arguments in jobs:
        result = findings[kind](**arguments)
        loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module}
        result["code"] = sorted(loaded & {"viscpm_hf", "transformers_modules", "diffusers_modules"})
        results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
