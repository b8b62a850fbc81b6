"""CPython's own tests of `subprocess`, run through the Python client.

    PROCWIRE=target/release/procwire python3 tests/clients/cpython_subprocess.py [-v] [NAME ...]

They are the file test_subprocess.py of the interpreter that runs this, or of the folder that the
variable CPYTHON_TESTS names; none of it is copied here. That file gets a module `subprocess` whose
programs a procwire server starts. What the module adds to the client is only the difference between
the two as `docs/clients/python.md` states it: a program starts in this program's directory, with its
environment, and its output goes where this program's goes.

FAILS and NOT_CLAIMED name the tests that fail and those that are not run, with the reason for each;
that page has the same reasons, and how many tests each is for. A test that fails
without being listed is a failure of this program, and so is one that is listed as failing and passes.
Prints one line for all of them, the tests that fail with their reasons, and with -v what became of
each.
"""

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import types
import unittest
from collections import Counter
from pathlib import Path
from typing import AnyStr

DOCS = Path(__file__).resolve().parents[2] / "docs" / "clients"
sys.path.insert(0, str(DOCS))
sys.dont_write_bytecode = True

import procwire  # noqa: E402

PATIENCE = 120

# Tests of what the client offers, in a way that it does not.
FAILS = {
    "the protocol carries UTF-8, and this sets a variable to something else": [
        "POSIXProcessTestCase.test_undecodable_env",
    ],
    "a program has a pipe where this program has a file, so it cannot write to its stdin": [
        "POSIXProcessTestCase.test_swap_std_fds_with_one_closed",
    ],
}

# Tests of what the client does not offer, and tests that look at how `subprocess` is made.
NOT_CLAIMED = {
    "the size of a pipe of the server cannot be set or asked for": [
        "ProcessTestCase.test_pipesize_default",
        "ProcessTestCase.test_pipesizes",
    ],
    "descriptors of this program reach no program of a server": [
        "POSIXProcessTestCase.test_close_fds",
        "POSIXProcessTestCase.test_close_fds_when_max_fd_is_lowered",
        "POSIXProcessTestCase.test_pass_fds",
        "POSIXProcessTestCase.test_pass_fds_inheritable",
        "POSIXProcessTestCase.test_pass_fds_redirected",
    ],
    "nothing of this program runs in the child before its exec": [
        "POSIXProcessTestCase.test_close_fds_after_preexec",
        "POSIXProcessTestCase.test_preexec",
        "POSIXProcessTestCase.test_preexec_errpipe_does_not_double_close_pipes",
        "POSIXProcessTestCase.test_preexec_exception",
        "POSIXProcessTestCase.test_preexec_fork_failure",
        "POSIXProcessTestCase.test_preexec_gc_module_failure",
        "POSIXProcessTestCase.test_surrogates_error_message",
    ],
    "user, groups, umask and the state of signals are the server's": [
        "POSIXProcessTestCase.test_extra_groups",
        "POSIXProcessTestCase.test_extra_groups_empty_list",
        "POSIXProcessTestCase.test_extra_groups_error",
        "POSIXProcessTestCase.test_extra_groups_invalid_gid_t_values",
        "POSIXProcessTestCase.test_group",
        "POSIXProcessTestCase.test_group_error",
        "POSIXProcessTestCase.test_restore_signals",
        "POSIXProcessTestCase.test_umask",
        "POSIXProcessTestCase.test_user",
        "POSIXProcessTestCase.test_user_error",
    ],
    "the parent of a program is the server, which the test would kill": [
        "ProcessTestCase.test_communicate_eintr",
    ],
    "a program that is forgotten causes no warning, and is not on a list of zombies": [
        "POSIXProcessTestCase.test_leak_fast_process_del_killed",
        "POSIXProcessTestCase.test_zombie_fast_process_del",
    ],
    "replaces functions inside `subprocess` or `os` that start and reap programs there": [
        "MiscTests.test_call_keyboardinterrupt_no_kill",
        "MiscTests.test_context_manager_keyboardinterrupt_no_kill",
        "MiscTests.test_run_keyboardinterrupt_no_kill",
        "POSIXProcessTestCase.test__use_vfork",
        "POSIXProcessTestCase.test_exception_errpipe_bad_data",
        "POSIXProcessTestCase.test_exception_errpipe_normal",
        "POSIXProcessTestCase.test_fork_exec",
        "POSIXProcessTestCase.test_fork_exec_sorted_fd_sanity_check",
        "POSIXProcessTestCase.test_send_signal_race",
        "POSIXProcessTestCase.test_stopped",
        "POSIXProcessTestCase.test_vfork_used_when_expected",
        "ProcessTestCase.test__use_vfork",
        "ProcessTestCase.test_failed_child_execute_fd_leak",
        "ProcessTestCase.test_repr",
    ],
    "starts no program": [
        "MiscTests.test__all__",
        "POSIXProcessTestCase.test_CalledProcessError_str_non_zero",
        "POSIXProcessTestCase.test_CalledProcessError_str_signal",
        "POSIXProcessTestCase.test_CalledProcessError_str_unknown_signal",
        "POSIXProcessTestCase.test_invalid_args",
        "ProcessTestCase.test_list2cmdline",
    ],
}
# The same tests once more with another way to wait, and what is for another system.
NOT_CLAIMED_CLASSES = ("ProcessTestCaseNoPoll", "Win32ProcessTestCase", "CommandsWithSpaces")

# What a program of the server has or is in any case.
ALWAYS = {
    "close_fds": (True, False),
    "restore_signals": (True,),
    "start_new_session": (True, False),
    "process_group": (None, 0),
    "preexec_fn": (None,),
    "startupinfo": (None,),
    "creationflags": (0,),
    "pass_fds": ((),),
    "user": (None,),
    "group": (None,),
    "extra_groups": (None,),
    "umask": (-1,),
    "pipesize": (-1, None),
}
POSITIONAL = (
    "args bufsize executable stdin stdout stderr preexec_fn close_fds shell cwd env universal_newlines "
    "startupinfo creationflags restore_signals start_new_session pass_fds"
).split()


class Shim(types.ModuleType):
    """The module `subprocess` over a server."""

    def __init__(self, server):
        super().__init__("subprocess")
        for name in ("PIPE", "STDOUT", "DEVNULL", "SubprocessError", "CalledProcessError", "TimeoutExpired"):
            setattr(self, name, getattr(procwire, name))
        self.CompletedProcess = procwire.CompletedProcess
        # Whatever else the tests look at when they begin and end.
        self._active, self._cleanup, self._fork_exec = [], lambda: None, None
        self._PopenSelector, self._USE_VFORK = None, True

        def options(given, names, inherits=("stdout", "stderr")):
            options = dict(zip(POSITIONAL, given))
            options.update(names)
            for name, values in ALWAYS.items():
                if options.pop(name, values[0]) not in values:
                    raise NotImplementedError(f"{name} is not an option of the client")
            for name in inherits:
                options.setdefault(name, None)
            cwd = options.get("cwd")
            options["cwd"] = (
                os.getcwd() if cwd is None else cwd if os.path.isabs(cwd) else os.path.abspath(cwd)
            )
            if options.get("env") is None:
                options["env"] = dict(os.environ)
            return options

        class Popen(procwire.Popen[AnyStr]):
            def __init__(self, *given, **names):
                if "args" not in names and not given or len(given) > len(POSITIONAL):
                    raise TypeError("Popen takes args")
                super().__init__(server, **options(given, names))

        def function(method, inherits=("stdout", "stderr")):
            own = ("input", "capture_output", "timeout", "check", "encoding", "errors")

            def call(*given, **names):
                given_to_it = {name: names.pop(name) for name in own if name in names}
                return method(**options(given, names, inherits), **given_to_it)

            return call

        self.Popen = Popen
        self.run = function(server.run)
        self.call = function(server.call)
        self.check_call = function(server.check_call)
        self.check_output = function(server.check_output, ("stderr",))
        self.getoutput, self.getstatusoutput = server.getoutput, server.getstatusoutput


def load(shim):
    """The tests, to which `subprocess` is the shim."""
    folder = os.environ.get("CPYTHON_TESTS")
    if folder:
        # The files that they read are looked for here as well.
        sys.path.append(folder)
        spec = importlib.util.spec_from_file_location(
            "test.test_subprocess", os.path.join(folder, "test_subprocess.py")
        )
    else:
        try:
            spec = importlib.util.find_spec("test.test_subprocess")
        except ModuleNotFoundError:
            spec = None
    if spec is None or not os.path.exists(spec.origin):
        sys.exit("FAILED  cpython: this Python has no test_subprocess.py; CPYTHON_TESTS may name its folder")
    import test.support  # noqa: F401  With the real module, like all that it uses.

    for name in ("script_helper", "import_helper", "os_helper", "warnings_helper", "threading_helper"):
        try:
            importlib.import_module(f"test.support.{name}")
        except ImportError:
            pass  # Not in this version.
    module = importlib.util.module_from_spec(spec)
    sys.modules["test.test_subprocess"] = module
    sys.modules["subprocess"] = shim
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["subprocess"] = subprocess
    return module


def tests_of(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


class TooLong(BaseException):
    """Not an Exception, which a test might expect."""


def too_long(*_):
    raise TooLong(f"it has not ended in {PATIENCE} s")


def run(test):
    """How a test ends: "passed", "failed" or "skipped", and what it says about that."""
    result = unittest.TestResult()
    signal.alarm(PATIENCE)
    try:
        test.run(result)
    except TooLong as error:
        return "failed", str(error)
    finally:
        signal.alarm(0)
    if result.skipped:
        return "skipped", result.skipped[0][1]
    troubles = result.failures + result.errors
    return ("failed", troubles[0][1]) if troubles else ("passed", "")


def main(arguments):
    verbose = "-v" in arguments
    patterns = [argument for argument in arguments if argument != "-v"]
    # What the tests and their programs print is not wanted.
    report = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    server = procwire.Server()
    # One of the tests opens as many files as it may, if these are not too many.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    signal.signal(signal.SIGALRM, too_long)

    module = load(Shim(server))
    if hasattr(module, "setUpModule"):
        module.setUpModule()
    fails = {title: reason for reason, titles in FAILS.items() for title in titles}
    not_claimed = {title: reason for reason, titles in NOT_CLAIMED.items() for title in titles}
    counts, listed, failures = Counter(), Counter(), []
    for test in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)):
        title = f"{type(test).__name__}.{test._testMethodName}"
        if type(test).__name__ in NOT_CLAIMED_CLASSES:
            continue
        if patterns and not any(pattern in title for pattern in patterns):
            continue
        if title in not_claimed:
            outcome, said = "not claimed", not_claimed[title]
            listed[said] += 1
        else:
            outcome, said = run(test)
            if outcome == "failed" and title in fails:
                listed[fails[title]] += 1
        counts[outcome] += 1
        if outcome == "failed" and title not in fails:
            failures.append(f"{title}\n{textwrap.indent(said, '    ')}")
        if outcome == "passed" and title in fails:
            failures.append(f"{title} passes, and is listed as one that fails")
        if verbose:
            print(f"{outcome:<11} {title}: {said.strip().splitlines()[-1] if said else ''}", file=report)
        elif outcome == "failed" and title in fails:
            print(f"        fails as it has to: {title}: {fails[title]}", file=report)

    page = (DOCS / "python.md").read_text()
    for reason in [*FAILS, *NOT_CLAIMED]:
        # Other versions of Python have a few more or less.
        row = f"| {listed[reason]} | {reason} |" if sys.version_info[:2] == (3, 11) else f" | {reason} |"
        if row not in page and not patterns:
            failures.append(f"docs/clients/python.md does not have the row: {row}")
    for failure in failures:
        print(f"FAILED  cpython: {failure}", file=report)
    total = ", ".join(
        f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped", "not claimed")
    )
    if not failures and counts["passed"]:
        print(f"ok      cpython: test_subprocess of {sys.version.split()[0]}: {total}", file=report)
    report.flush()
    server.close()
    return 0 if not failures and counts["passed"] else 1


if __name__ == "__main__":
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            status = main(sys.argv[1:])
        finally:
            os.chdir(home)
    sys.exit(status)
