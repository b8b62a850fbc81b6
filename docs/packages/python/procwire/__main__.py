"""The command `procwire`: becomes the binary of this package."""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    binary = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "procwire")
    try:
        os.execv(binary, ["procwire", *sys.argv[1:]])
    except FileNotFoundError:
        # Built from the source distribution. Not the `procwire` of PATH, which may be this.
        sys.exit("procwire: this package has no binary; the wheels for Linux on x86-64 and aarch64 have one")


if __name__ == "__main__":
    main()
