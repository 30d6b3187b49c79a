"""Print what the project and some of its extras need, a requirement a line, without the project itself.

    python requirements.py worker torch     in the folder of pyproject.toml

pip installs what a project needs only together with the project; an image wants the two in layers of their own.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print them; an extra that there is none of ends the build."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if unknown := set(sys.argv[1:]) - set(extras):
        sys.exit(f"no extra is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(extras))}")
    print(*project["dependencies"], *(each for name in sys.argv[1:] for each in extras[name]), sep="\n")


if __name__ == "__main__":
    main()
