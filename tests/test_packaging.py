"""The package as others install it: from a wheel and from a checkout, each in a fresh virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

PROJECT = Path(__file__).resolve().parent.parent
PLUGINS = {"zpipe-web", "zpipe-worker", "zpipe"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a program wrote to stdout; where it failed, all that it said is the error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def copy_project(target: Path) -> Path:
    """The project's own files, so that building and installing leave nothing in the checkout."""
    target.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.rst", "LICENSE"):
        shutil.copy(PROJECT / name, target)
    for name in ("zpipeline", "twisted"):
        shutil.copytree(PROJECT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    return target


@cache
def wheelhouse() -> Path:
    """A folder with the wheel of this checkout and those of all that installing it takes.

    They are fetched once, so that each test can install from here and needs no network.

    :raises SkipTest: there is no way to the package index.
    """
    folder = Path("packaging", "wheelhouse").absolute()  # in the folder that trial makes for each run
    pip = (sys.executable, "-m", "pip")
    try:
        run(*pip, "download", "--retries", "1", "--no-deps", "--dest", folder, "setuptools>=77", cwd=PROJECT)
    except AssertionError:
        raise SkipTest("no package index can be reached") from None
    project = copy_project(folder.with_name("project"))
    run(*pip, "wheel", "--wheel-dir", folder, project, cwd=PROJECT)
    return folder


class Environment:
    """A virtual environment of its own, which installs from the wheelhouse and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        self.bin = folder / "venv" / "bin"
        # As a URL, since to pip a space would be the end of one path and the start of another.
        self.environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheelhouse().as_uri()}
        # pip is taken from outside, by --python, as to install it there takes longer than all else.
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=self.elsewhere)

    def pip(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.bin / "python", *arguments]
        run(*command, cwd=self.elsewhere, **self.environment)

    def run(self, program: str, *arguments: str | Path) -> str:
        return run(self.bin / program, *arguments, cwd=self.elsewhere, **self.environment)

    def plugins(self) -> set[str]:
        """The commands that `twistd --help` lists, each with a line of description."""
        listed = self.run("twistd", "--help").partition("Commands:")[2]
        return set(re.findall(r"^ {4}(\S+) +\S", listed, re.MULTILINE))


class PackagingTests(SynchronousTestCase):
    def environment(self) -> Environment:
        return Environment(Path(self.mktemp()).absolute())

    def test_a_wheel_brings_every_module_the_page_one_file_of_plugins_and_commands_that_start(self) -> None:
        environment = self.environment()
        environment.pip("install", "--no-compile", "zpipeline")

        self.assertLessEqual(PLUGINS, environment.plugins())
        for plugin in PLUGINS:
            environment.run("twistd", plugin, "--help")
        environment.run("zpipe", "--help")
        [wheel] = wheelhouse().glob("zpipeline-*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        self.assertIn("zpipeline/web/openapi.json", names)
        modules = {str(path.relative_to(PROJECT)) for path in (PROJECT / "zpipeline").rglob("*.py")}
        self.assertEqual(
            {name for name in names if name.endswith(".py")}, modules | {"twisted/plugins/zpipeline_plugins.py"}
        )
        pages = {str(path.relative_to(PROJECT)) for path in (PROJECT / "zpipeline/web/ui").iterdir()}
        self.assertIn("zpipeline/web/ui/index.html", pages)
        self.assertLessEqual(pages, set(names))
        script = "from zpipeline.web.page import find; assert find('index.html') and find('chart.js')"
        environment.run("python", "-c", script)

    def test_uninstalling_leaves_twisted_whole(self) -> None:
        environment = self.environment()
        environment.pip("install", "--no-compile", "zpipeline")
        before = environment.plugins()
        self.assertLessEqual(PLUGINS, before)
        environment.pip("uninstall", "--yes", "zpipeline")

        self.assertEqual(environment.plugins(), before - PLUGINS)
        self.assertIn("web", environment.plugins())
        environment.run("python", "-c", "import twisted.web.server, klein")
        environment.pip("check")

    def test_an_editable_install_shows_its_plugins_and_the_real_twisted_in_every_directory(self) -> None:
        environment = self.environment()
        project = copy_project(environment.elsewhere.with_name("project"))
        environment.pip("install", "--no-compile", "--editable", project)

        for directory in (environment.elsewhere, project):
            environment.elsewhere = directory
            self.assertLessEqual(PLUGINS, environment.plugins())
            script = "import twisted, zpipeline; print(twisted.__file__, zpipeline.__file__, sep='\\n')"
            twisted, zpipeline = environment.run("python", "-c", script).splitlines()
            self.assertIn("site-packages", twisted)
            self.assertEqual(zpipeline, str(project / "zpipeline" / "__init__.py"))
