"""Print the commands that a README tells its reader to run: the lines of its first console block, after `$ `."""

import pathlib
import sys

lines = iter(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
for line in lines:
    if line.strip() == "```console":
        break
else:
    sys.exit("no console block in the README")
for line in lines:
    if line.startswith("```"):
        break
    if line.startswith("$ ") and not line.startswith("$ git clone"):
        print(line[2:].partition("  #")[0].rstrip())
