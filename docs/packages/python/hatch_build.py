"""Tags the wheel for the platform of the binary in it, which is static and so needs no C library.

From the source distribution there is no binary, and the wheel is for every platform.
"""

import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BINARY = os.path.join("procwire", "bin", "procwire")


class PlatformTag(BuildHookInterface):
    def initialize(self, version, build_data):
        if os.path.exists(os.path.join(self.root, BINARY)):
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{os.environ['PROCWIRE_WHEEL_PLATFORM']}"
