"""Guards the exact-answer evaluation: who is counted right, and that batches answer like single questions."""

from viscpm_hf.tiny.measures.exact_answers import answer_questions, format_table, main
from viscpm_hf.tiny.world.questions import held_out_questions


def test_table_counts_exact_answers_per_kind_and_language():
    samples = {language: held_out_questions(language, n=34) for language in ("zh", "en")}
    answers = {language: [sample.question.answer for sample in asked] for language, asked in samples.items()}
    answers["en"][0] = answers["en"][0].removesuffix(".")  # what there is
    lines = format_table(samples, answers, "title").splitlines()
    assert lines[0] == "| title | zh | en |"
    assert (
        "| what | 100.0 % of 2 | 50.0 % of 2 |" in lines and "| second turn | 100.0 % of 2 | 100.0 % of 2 |" in lines
    )
    assert lines[-1] == "| all | 100.0 % of 34 | 97.1 % of 34 |"


def test_batches_answer_like_single_questions(chat_model, chat_processor):
    samples = held_out_questions("zh", n=11)
    together = answer_questions(chat_model, chat_processor, samples, batch_size=8, num_beams=1, max_new_tokens=8)
    alone = answer_questions(chat_model, chat_processor, samples, batch_size=1, num_beams=1, max_new_tokens=8)
    assert together == alone and len(set(together)) > 1


def test_command_shows_wrong_answers(chat_repo, capsys):
    assert main([str(chat_repo), "--questions", "11", "--languages", "en", "--beams", "3", "--show-wrong", "1"]) == 0
    printed = capsys.readouterr().out
    assert "(right: " in printed and "| exact answers, 3 beams, float32 | en |" in printed
    assert "| honest answers | en |" in printed and "| three spellings agree | " in printed
