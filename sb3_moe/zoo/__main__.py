"""``python -m sb3_moe.zoo ppo`` prints the path of a file of hyperparameters."""

import sys

from sb3_moe.zoo.files import hyperparameters


def main(words: list[str]) -> int:
    """Print the path; give the exit status.

    :param words: of the command line, without the program's name
    """
    if len(words) != 1 or words[0] in ("-h", "--help"):
        print("usage: python -m sb3_moe.zoo ALGORITHM", file=sys.stderr)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    try:
        print(hyperparameters(words[0]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
