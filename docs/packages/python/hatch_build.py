"""Tags the wheel for the platform of the binary in it, which is static and so needs no C library."""

import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PlatformTag(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ['PROCWIRE_WHEEL_PLATFORM']}"
