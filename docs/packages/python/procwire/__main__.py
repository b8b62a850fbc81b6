"""The command `procwire`: becomes the binary of this package."""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    binary = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "procwire")
    os.execv(binary, ["procwire", *sys.argv[1:]])


if __name__ == "__main__":
    main()
