"""A trained agent as a folder for the Hugging Face Hub: model, card, results, replay."""

from sb3_moe.hub.folder import write_folder
from sb3_moe.hub.pushing import push

__all__ = ["push", "write_folder"]
