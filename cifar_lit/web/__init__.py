"""A trained network as a web page that sends no requests to other machines."""

import os

# Before gradio and huggingface_hub are imported, which ask for updates and count users.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
