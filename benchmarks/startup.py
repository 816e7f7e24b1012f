"""How long `import detrscope` and `detrscope --help` take in a fresh process.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.ratio import compare, machine


def main() -> None:
    sides = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import detrscope": [sys.executable, "-c", "import detrscope"],
        "detrscope --help": ["detrscope", "--help"],
        "import detrscope; detrscope.load": [sys.executable, "-c", "import detrscope; detrscope.load"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    print(machine())
    compare(
        "seconds of a process",
        {
            name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
            for name, command in sides.items()
        },
        rounds=5,
    )


if __name__ == "__main__":
    main()
