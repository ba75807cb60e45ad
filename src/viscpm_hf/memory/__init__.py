"""From a budget of memory to a model in its place.

* budget.py: the plan that fits (`find_plan`, `choose`); plans.py: every way to run a model and what it costs
* machine.py: what this machine has and how fast it is; sizes.py: what a converted model weighs
* report.py: plans as text and picture
* training.py: what fine-tuning needs; training_report.py: the same as text
* placement.py: loads a model as a plan says; packing.py: matrices in the order in which a CPU reads them
* calibration.py, calibration_inputs.py: 4-bit weights fitted to prompts
"""
