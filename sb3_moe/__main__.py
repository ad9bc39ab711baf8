"""``python -m sb3_moe``: see :mod:`sb3_moe_cli`."""

from sb3_moe_cli import console_script

if __name__ == "__main__":
    console_script()
