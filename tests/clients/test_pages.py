"""The pages of docs/clients for Python and TypeScript, and the README: their examples print what the pages
say, and the methods and attributes they name exist.

    test_pages.py FOLDER

FOLDER is made, for the examples in TypeScript. What else is needed is said by `run`: PROCWIRE names the
server, TYPE_STRIPPING_NODE a node for TypeScript. One line a check, as `run` wants them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CLIENTS = Path(__file__).parent.parent.parent / "docs" / "clients"
sys.path.insert(0, str(CLIENTS))

import procwire  # noqa: E402

FOLDER = Path(sys.argv[1])
README = "../../README.md"


def examples(page, language):
    """Each program of the page, with what it prints."""
    text = (CLIENTS / page).read_text()
    found = re.findall(rf"```{language}\n((?:(?!```).)*)```\n\n```text\n((?:(?!```).)*)```", text, re.DOTALL)
    programs = text.count(f"```{language}\n")
    # The first of a client's page is tested where the client is.
    silent = 0 if page == README else 1
    assert len(found) == programs - silent >= 1, f"{len(found)} of {programs} say what they print"
    return found


def plays(page, language, command):
    for number, (program, printed) in enumerate(examples(page, language), 1):
        done = subprocess.run(command(program, number), capture_output=True, text=True, timeout=60, cwd=FOLDER)
        assert (done.stdout, done.returncode) == (printed, 0), f"example {number}: {done}"


def python_examples(page="python.md"):
    os.environ["PYTHONPATH"] = str(CLIENTS)
    plays(page, "python", lambda program, _: [sys.executable, "-W", "error", "-c", program])


def typescript_examples():
    def command(program, number):
        file = FOLDER / f"example{number}.ts"
        file.write_text(program)
        return [os.environ["TYPE_STRIPPING_NODE"], str(file)]

    shutil.copy(CLIENTS / "procwire.ts", FOLDER)
    (FOLDER / "package.json").write_text('{"type": "module"}')
    plays("typescript.md", "ts", command)


def named(page, thing):
    """The members of a thing that the tables of the page name, without those of the other library."""
    text = (CLIENTS / page).read_text().partition("## What is not there")[0]
    cells = [cell for line in text.splitlines() if line.startswith("|") for cell in line.split(" | ")[1:]]
    return set(re.findall(rf"\b{thing}\.(\w+)", "\n".join(cells)))


def python_names():
    for thing, known in (("server", procwire.Server), ("process", procwire.Popen)):
        names = named("python.md", thing)
        assert len(names) >= 5, names
        missing = {name for name in names if not hasattr(known, name) and name not in known.__annotations__}
        assert not missing, f"{known.__name__} has no {missing}"
    # And what is not there is refused.
    absent = (CLIENTS / "python.md").read_text().partition("## What is not there")[2].partition("\nEach is")[0]
    options = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", absent, re.MULTILINE)[1:]))
    assert "preexec_fn" in options, options
    with procwire.Server() as server:
        for option in options:
            try:
                server.popen(["true"], **{option: None})
            except TypeError:
                continue
            raise AssertionError(f"{option} is taken")


def typescript_names():
    script = FOLDER / "names.ts"
    script.write_text(
        """
import { Server } from "./procwire.ts";
const server = new Server();
const child = server.spawn("true");
await child.exited;
const [things, names] = [{ server, child }, JSON.parse(process.argv[2])];
console.log(Object.keys(things).flatMap((thing) =>
  names[thing].filter((name) => !(name in things[thing])).map((name) => `${thing}.${name}`)).join());
await server.close();
"""
    )
    names = {thing: sorted(named("typescript.md", thing)) for thing in ("server", "child")}
    assert len(names["server"]) >= 4 and len(names["child"]) >= 6, names
    node = [os.environ["TYPE_STRIPPING_NODE"], str(script), json.dumps(names)]
    done = subprocess.run(node, capture_output=True, text=True, timeout=60, cwd=FOLDER)
    assert (done.stdout, done.returncode) == ("\n", 0), done


CHECKS = {
    "README.md: the example": lambda: python_examples(README),
    "python.md: the examples": python_examples,
    "python.md: the names": python_names,
    "typescript.md: the examples": typescript_examples,
    "typescript.md: the names": typescript_names,
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True)
    failed = False
    for name, check in CHECKS.items():
        try:
            check()
            print(f"ok      page {name}", flush=True)
        except Exception as error:
            failed = True
            print(f"FAILED  page {name}: {error}", flush=True)
    sys.exit(failed)
