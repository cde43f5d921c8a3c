"""A machine for the scripts in launch/: what they would run is only written down.

PATH holds nothing but executables that do so and a few plain tools, so that no test can reach a cloud or another
machine.
"""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = [
    *("bash", "cat", "chmod", "cp", "dirname", "env", "flock", "gzip", "id", "kill", "mkdir", "mktemp", "mountpoint"),
    *("rm", "sed", "setsid", "sleep", "sort", "tail", "tar", "tee", "touch", "true", "uname", "uniq"),
]
ARGUMENTS = ["--config=my configs/a.py", '--config.data.name=folder:it\'s $HOME; "a" & b*', "--workdir=runs/ä"]

# Writes its name and arguments down, each ended by a zero byte, then answers as its folder says.
RECORDER = r"""#!/usr/bin/env bash
name=${0##*/}
here=$(dirname "$0")
exec 9>>"$here/calls"
flock 9 # several may write
printf '%s\0' "$name" "$@" $'\n' >&9
exec 9>&-
[[ ! -e $here/answer-$name ]] || source "$here/answer-$name"
"""


class Machine:
    """A PATH with recorders, a home directory, and a copy of launch/ whose scripts of other names can be replaced."""

    def __init__(self, folder: Path):
        self.bin, self.home, self.package = folder / "bin", folder / "home", folder / "package"
        for path in (self.bin, self.home):
            path.mkdir()
        shutil.copytree(ROOT / "launch", self.package / "launch")
        for name in ("requirements.txt", "pyproject.toml", "train.py"):
            shutil.copy(ROOT / name, self.package)
        for config in ("a", "my configs/a.py"):
            (self.package / config).parent.mkdir(exist_ok=True)
            (self.package / config).touch()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def record(self, *names: str, answer: str = "") -> None:
        for name in names:
            path = self.bin / name
            path.unlink(missing_ok=True)
            path.write_text(RECORDER)
            path.chmod(0o755)
            (self.bin / f"answer-{name}").write_text(answer)

    def environment(self, **variables: str) -> dict[str, str]:
        plain = {"PATH": str(self.bin), "HOME": str(self.home), "TMPDIR": str(self.home), "LC_ALL": "C.UTF-8"}
        return {**plain, "PAUSE": "0", **variables}

    def run(self, script: str, *arguments: str, cwd: Path | None = None, **variables: str):
        return subprocess.run(
            [str(self.package / "launch" / script), *arguments],
            env=self.environment(**variables),
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[list[str]]:
        path = self.bin / "calls"
        rows = path.read_text().split("\0\n\0") if path.exists() else []
        return [row.split("\0") for row in rows if row]


def remote_command(call: list[str]) -> list[str]:
    """The words that a host's shell makes of the command of a recorded gcloud or ssh, without the first `cd`."""
    command = next((word.removeprefix("--command=") for word in call if word.startswith("--command=")), call[-1])
    words = subprocess.run(
        ["sh", "-c", command.replace("cd dynet_jax && ", "printf '%s\\0' ", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    return words.stdout.split("\0")[:-1]
