"""Guards the settings of a run: command line over YAML, every field of TrainingArguments, mistakes in a line."""

import pytest
from transformers import TrainingArguments

from viscpm_hf.finetuning.settings import SettingsError, read_settings

NEEDED = {"model": "m", "data": ["d"]}


@pytest.fixture
def read(tmp_path):
    def read(*arguments, yaml=None, **own):
        file = None
        if yaml is not None:
            file = tmp_path / "config.yaml"
            file.write_text(yaml, encoding="utf-8")
        return read_settings({"output": str(tmp_path / "out"), **NEEDED, **own}, ["--use_cpu", *arguments], file)

    return read


def test_every_field_of_training_arguments(read, tmp_path):
    settings, arguments = read(
        *("--max_steps", "12", "--learning-rate", "1e-4", "--label_smoothing_factor=0.1", "--adam_beta2", "0.98"),
        *(
            "--gradient_checkpointing",
            "--lr_scheduler_kwargs",
            '{"min_lr": 1e-5}',
            "--lr_scheduler_type",
            "cosine_with_min_lr",
        ),
        *("--no-dataloader_pin_memory", "--lora_targets", "q_proj", "--learning_rates", '{"": 1e-3}'),
    )
    assert (arguments.max_steps, arguments.learning_rate, arguments.adam_beta2) == (12, 1e-4, 0.98)
    assert arguments.label_smoothing_factor == 0.1 and arguments.lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert getattr(arguments, "activation_checkpointing", arguments.gradient_checkpointing) is True
    assert not arguments.dataloader_pin_memory and arguments.output_dir == str(tmp_path / "out")
    assert (settings.lora_targets, settings.learning_rates, settings.mode) == ("q_proj", {"": 1e-3}, "lora")
    plain = TrainingArguments("x", use_cpu=True)
    assert arguments.remove_unused_columns == plain.remove_unused_columns
    assert read()[1].per_device_train_batch_size == plain.per_device_train_batch_size


def test_the_command_line_counts_more_than_the_file(read):
    yaml = "model: a\ndata: [b, c]\nmode: full\ntune-llm: true\nmax_steps: 5\nlearning_rate: 1e-5\nlora_r: 4\n"
    settings, arguments = read("--max_steps", "7", yaml=yaml, mode="qlora")
    assert (settings.model, settings.data, settings.mode, settings.tune_llm) == ("m", ["d"], "qlora", True)
    assert (settings.lora_r, arguments.max_steps, arguments.learning_rate) == (4, 7, 1e-5)
    settings, _ = read(yaml=f"{yaml}output_dir: out\n", model=None, data=None, output=None)
    assert (settings.model, settings.data, settings.output) == ("a", ["b", "c"], "out")


def test_with_data_to_evaluate_every_checkpoint_is_evaluated(read):
    arguments = read("--save_steps", "3", eval_rows=2)[1]
    assert (arguments.eval_strategy, arguments.eval_steps) == ("steps", 3)
    assert read("--eval_strategy", "epoch", eval_data=["e"])[1].eval_strategy == "epoch"
    assert read()[1].eval_strategy == "no"


@pytest.mark.parametrize(
    ("arguments", "own", "sentence"),
    [
        (["--max_step", "3"], {}, "--max_step, which is no option; max_steps is one"),
        (["--max_steps", "many"], {}, "invalid int value: 'many'"),
        (["--optim", "magic"], {}, "invalid choice: 'magic'"),
        (["stray"], {}, "stray"),
        (["--lora_r", "two"], {}, "Got 'two' as --lora_r, expected a whole number"),
        (["--dtype", "int8"], {}, "Got 'int8' as dtype, expected one of float32"),
        (["--learning_rates", "[1]"], {}, "names with a number each"),
        (["--learning_rates", '{"": -1}'], {}, "expected a rate above 0"),
        ([], {"model": None}, "--model is missing"),
        ([], {"data": []}, "--data is missing"),
        ([], {"lora_r": 0}, "Got 0 as lora_r"),
        (["--eval_strategy", "steps"], {}, "nothing to evaluate with"),
        (["--load_best_model_at_end"], {}, "nothing to evaluate with"),
        ([], {"eval_rows": 2, "eval_data": ["e"]}, "expected one of them"),
        ([], {"eval_rows": 2, "streaming": True}, "eval_rows with streaming"),
    ],
)
def test_mistakes(read, arguments, own, sentence):
    with pytest.raises(SettingsError) as error:
        read(*arguments, **own)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("max_step: 3", "has 'max_step', which is no setting; max_steps is one"),
        ("- a", "holds a list, expected names and values"),
        ("a: [", "cannot be read as YAML"),
        ("tune_llm: maybe", "Got 'maybe' as tune_llm in .*, expected true or false"),
        ("lora_r: 1.5", "Got 1.5 as lora_r in .*, expected a whole number"),
        ("mode: half", "Got 'half' as mode, expected one of full, lora, qlora"),
    ],
)
def test_mistakes_in_the_file(read, yaml, sentence):
    with pytest.raises(SettingsError, match=sentence):
        read(yaml=yaml)
    with pytest.raises(SettingsError, match="cannot be read as YAML"):
        read_settings(NEEDED, [], "/nowhere.yaml")
