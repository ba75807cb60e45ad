"""Names, shapes and configurations of the original and of the Hub layout.

* keys.py: key tables, original name → new name and shape; another model is another table; prefixes.py: what training
  programs put before names
* configs.py: configurations from the tensors' sizes and the original's JSON
* unet.py: Paint's UNet, which diffusers describes; stable_diffusion.py: what Paint takes of Stable Diffusion
"""
