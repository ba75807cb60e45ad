"""The web page of a model. On a Space it is served as it is; elsewhere `python app.py` and open http://127.0.0.1:7860"""

import os
import sys

from viscpm_hf.cli import main

PAGE, MODEL = "$page", "$model"
HOST = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"

if __name__ == "__main__":
    host, port = os.environ.get("GRADIO_SERVER_NAME", HOST), os.environ.get("GRADIO_SERVER_PORT", "7860")
    sys.exit(main(["demo", PAGE, f"--{PAGE}", MODEL, "--host", host, "--port", port]))
