"""Guards that every field of TrainingArguments does what it says in `viscpm finetune`, or is refused by its name."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from viscpm_hf.finetuning.paint_settings import read_paint_settings
from viscpm_hf.finetuning.settings import SettingsError, read_settings
from viscpm_hf.finetuning.training_arguments import CHAT_REFUSED, PAINT_REFUSED, todays_names

READ = {"chat": read_settings, "paint": read_paint_settings}
GIVEN = {"model": "model", "data": ["data"], "output": "output", "eval_rows": 1}
# each was tried in runs of both, and does what it says or has nothing to do there
HONOURED = """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules
gradient_accumulation_steps average_tokens_across_devices max_grad_norm bf16 fp16 bf16_full_eval fp16_full_eval tf32
activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
torch_compile torch_compile_backend torch_compile_mode use_cache torch_empty_cache_steps auto_find_batch_size
logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level log_level_replica
disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy
eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches
eval_use_gather_object eval_accumulation_steps save_only_model save_strategy save_steps save_on_each_node
save_total_limit enable_jit_checkpoint load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu accelerator_config
dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order remove_unused_columns
train_sampling_strategy ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval
""".split()
HONOURED_BY = {
    "chat": {"label_smoothing_factor", "neftune_noise_alpha", "include_num_input_tokens_seen"}
    | {"fsdp", "fsdp_config", "deepspeed"},
    "paint": set(),
}


def read(verb, *options, **own):
    return READ[verb]({**GIVEN, **own}, ["--use_cpu", *options])


@pytest.mark.parametrize(
    ("verb", "kind", "refused"),
    [("chat", Seq2SeqTrainingArguments, CHAT_REFUSED), ("paint", TrainingArguments, PAINT_REFUSED)],
)
def test_every_field_is_honoured_or_refused(verb, kind, refused):
    """A field that this test does not know came with a new transformers: try it in runs, then honour or refuse it."""
    known = {*HONOURED, *HONOURED_BY[verb]}
    assert not known & set(refused)
    assert {each.name for each in dataclasses.fields(kind) if each.init} <= known | set(refused)


@pytest.mark.parametrize(("verb", "refused"), [("chat", CHAT_REFUSED), ("paint", PAINT_REFUSED)])
def test_a_refused_field_is_named_in_a_sentence(verb, refused, tmp_path):
    for name, why in refused.items():
        words = {"generation_num_beams": "2", "label_smoothing_factor": "0.1", "local_rank": "1"}
        value = words.get(name, "true")
        with pytest.raises(SettingsError, match=f"^Got {name}, ") as error:
            read(verb, f"--{name}", value)
        assert why in str(error.value) and "\n" not in str(error.value)
        file = tmp_path / "a.yaml"
        file.write_text(yaml.safe_dump({name: {"a": 1} if name.endswith("config") else value}))
        with pytest.raises(SettingsError, match=name):
            READ[verb](GIVEN, ["--use_cpu"], file)
        for off in (None, False, 0, []):  # as files that were written out whole have it
            file.write_text(yaml.safe_dump({name: off}))
            READ[verb](GIVEN, ["--use_cpu"], file)


CHECKPOINTING = todays_names()["gradient_checkpointing_kwargs"]


@pytest.mark.parametrize("verb", READ)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ('--lr_scheduler_kwargs {"min_lr":1e-6}', "lr_scheduler_type linear .*min_lr"),
        ("--lr_scheduler_kwargs [1]", "lr_scheduler_kwargs"),
        ("--lr_scheduler_type cosine_with_min_lr", "lr_scheduler_type cosine_with_min_lr"),
        ("--optim_args x", "optim_args x"),
        ("--optim_args momentum=0.9", "optim_args, which optim adamw_torch"),
        ("--optim_target_modules all-linear", "optim_target_modules, which optim"),
        ("--adam_epsilon 0", "adam_epsilon"),
        ("--metric_for_best_model accuracy", "metric_for_best_model, expected loss"),
        ("--dataloader_persistent_workers", "dataloader_persistent_workers, which needs dataloader_num_workers"),
        ("--dataloader_multiprocessing_context spawn", "needs dataloader_num_workers"),
        (f'--{CHECKPOINTING} {{"use_reentrant":true}}', "use_reentrant false"),
        ("--do_train false", "this command trains"),
        ("--ddp_backend gloo", "there is one process"),
        ("--debug tpu_metrics_debug", "TPUs"),
        ("--include_num_input_tokens_seen some", "include_num_input_tokens_seen"),
        ('--fsdp_config {"version":2}', "fsdp_config"),
    ],
)
def test_values_that_would_break_later(verb, options, sentence):
    """Each was an error of another class, after the model had been loaded, or did nothing."""
    with pytest.raises(SettingsError, match=sentence) as error:
        read(verb, *options.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("verb", READ)
def test_what_waits_for_evaluations_needs_some(verb):
    options = ("eval_on_start", "do_eval", "load_best_model_at_end", "save_strategy best", "eval_strategy steps")
    for option in (*options, "lr_scheduler_type reduce_lr_on_plateau"):
        with pytest.raises(SettingsError, match=f"Got {option.split()[0]} .*nothing to evaluate with"):
            read(verb, *f"--{option}".split(), eval_rows=0)
    assert read(verb, "--save_strategy", "best", "--metric_for_best_model", "loss")[1].eval_strategy == "steps"


def test_orders_that_the_data_do_not_have():
    with pytest.raises(SettingsError, match="'group_by_length' as train_sampling_strategy, expected random"):
        read("paint", "--train_sampling_strategy", "group_by_length")
    with pytest.raises(SettingsError, match="'sequential' as train_sampling_strategy, expected random"):
        read("chat", "--train_sampling_strategy", "sequential", streaming=True, eval_rows=0)
    assert read("chat", "--train_sampling_strategy", "group_by_length")[1].train_sampling_strategy


def test_tokens_seen_have_three_words():
    """transformers' parser takes true and false only."""
    for word, value in (("all", "all"), ("non_padding", "non_padding"), ("true", "all"), ("false", "no")):
        assert read("chat", "--include_num_input_tokens_seen", word)[1].include_num_input_tokens_seen == value


@pytest.mark.parametrize("name", ["lora", "full"])
def test_the_examples_of_paint_are_settings(name):
    examples = Path(__file__).parents[2] / "examples" / "finetuning"
    settings, arguments = read_paint_settings(
        {**GIVEN, "eval_rows": None}, ["--use_cpu", "--bf16", "false"], examples / f"paint_{name}.yaml"
    )
    assert settings.mode == name and settings.snr_gamma == 5 and len(settings.validation_prompts) == 2
    assert arguments.max_steps > 1000 and arguments.eval_strategy == "steps"
