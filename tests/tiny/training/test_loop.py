"""Guards training by time: it learns, is resumed where it stopped, and the average is what is kept."""

import pytest
import torch
from torch import nn

from viscpm_hf.tiny.training import loop
from viscpm_hf.tiny.training.loop import Average, train_for


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 2), 3.0))

    def forward(self):
        return (self.weight - torch.rand(1, 2)).square().mean()


def test_it_learns_until_its_time_is_up_and_a_second_call_does_nothing(tmp_path):
    learner = train_for(Learner(), 0.5, {"": 0.1}, tmp_path / "a.pt", decay=0.9)
    assert (learner.weight - 0.5).abs().max() < 0.3 and not learner.training
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert state["elapsed"] >= state["seconds"] == 0.5 and "optimizer" not in state
    again = train_for(Learner(), 99, {"": 0.1}, tmp_path / "a.pt", decay=0.9)
    assert torch.equal(again.weight, learner.weight)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == state["step"]


def test_what_was_interrupted_goes_on_with_its_steps_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_for(Learner(), 30, {"": 0.1}, tmp_path / "a.pt", decay=0.9, at_save=stop)
    first = torch.load(tmp_path / "a.pt", weights_only=True)
    assert first["step"] == 1 and first["seconds"] == 30 and first["optimizer"] and first["updates"] == 1
    first["seconds"] = first["elapsed"] + 0.2  # of the 30
    torch.save(first, tmp_path / "a.pt")
    seen = []
    train_for(Learner(), 99, {"": 0.1}, tmp_path / "a.pt", decay=0.9, at_save=lambda: seen.append(1))
    last = torch.load(tmp_path / "a.pt", weights_only=True)
    assert last["step"] > 1 and last["seconds"] == first["seconds"] and seen


def test_the_average_forgets_the_beginning_and_can_be_lent():
    linear = nn.Linear(1, 1, bias=False)
    average = Average(linear, 0.9)
    with torch.no_grad():
        linear.weight.fill_(5.0)
    for _ in range(60):
        average.update()
    with torch.no_grad():
        linear.weight.fill_(7.0)
    with average.in_place():
        assert linear.weight.item() == pytest.approx(5.0, abs=0.05)
    assert linear.weight.item() == 7.0


def test_after_a_loss_that_is_no_number_it_goes_back(tmp_path, monkeypatch, capsys):
    class Breaks(Learner):
        calls = 0

        def forward(self):
            self.calls += 1
            return super().forward() * (float("nan") if self.calls == 5 else 1.0)

    learner = train_for(Breaks(), 0.5, {"": 0.1}, tmp_path / "a.pt", decay=0.9, show_seconds=0)
    assert "back to the last good state" in capsys.readouterr().err
    assert (learner.weight - 0.5).abs().max() < 0.5
