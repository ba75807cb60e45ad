"""From a budget of memory to a model in its place.

* budget.py: the plan that fits (`find_plan`, `choose`); plans.py: every way to run a model and what it costs
* machine.py, timing.py: what this machine has, how fast it runs a model; sizes.py: what a converted model weighs
* report.py: plans as text and picture
* training.py: what fine-tuning needs; training_report.py: the same as text
* placement.py: loads a model as a plan says; packing.py, int8_order.py, nf4_order.py: matrices in the
  order in which a CPU reads them
* rounded_repository.py: a repository with 8-bit or 4-bit weights; calibration.py: with 4-bit ones fitted to prompts,
  for Paint; calibration_inputs.py, quantized_repository.py: what both ask for and say
"""
