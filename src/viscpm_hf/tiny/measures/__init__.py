"""How good the tiny models are: exact answers, what is in painted pictures, what rounding costs."""
